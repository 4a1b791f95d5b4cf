"""Files of PyTorch: Lightning's, bare ones, and what is refused."""

import os
import sys
import types
from collections import OrderedDict, UserDict
from pathlib import Path

import numpy as np
import pytest

from partoken_jax.convert import ConvertError, Weights, read_weights, state_dict_shapes, write_weights
from tests.convert.recorded import MODELS, partoken_hyper_parameters, recorded

torch = pytest.importorskip("torch")


def tensors(arrays: dict[str, np.ndarray], prefix: str = "") -> dict:
    return OrderedDict((prefix + key, torch.tensor(array)) for key, array in arrays.items())


def assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert set(got) == set(want)
    for key, array in want.items():
        assert got[key].dtype == array.dtype
        np.testing.assert_array_equal(got[key], array)


class Skeleton(torch.nn.Module):
    """A module with the parameters and buffers of the original, by name; it computes nothing."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        for key, shape in shapes.items():
            *path, last = key.split(".")
            module: torch.nn.Module = self
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, torch.nn.Module())
                module = module.get_submodule(part)
            if key == "partitioner.epoch" or key.startswith("codebook."):
                module.register_buffer(last, torch.zeros(shape, dtype=torch.int64 if not shape else None))
            else:
                module.register_parameter(last, torch.nn.Parameter(torch.randn(shape)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_the_original_loads_what_we_write(tmp_path, name, suffix):
    arrays, _ = recorded(name)
    write_weights(tmp_path / f"w{suffix}", Weights(arrays, {}))
    state = torch.load(tmp_path / f"w{suffix}", weights_only=True)
    module = Skeleton({key: array.shape for key, array in arrays.items()})
    module.load_state_dict(state, strict=True)
    assert_same({key: tensor.numpy() for key, tensor in module.state_dict().items()}, arrays)
    assert_same(read_weights(tmp_path / f"w{suffix}").arrays, arrays)


def test_lightning_checkpoints_there_and_back(tmp_path):
    arrays, config = recorded("partoken")
    hyper = partoken_hyper_parameters()
    write_weights(tmp_path / "w.ckpt", Weights(arrays, hyper), epoch=5)
    content = torch.load(tmp_path / "w.ckpt", weights_only=True)
    assert content["epoch"] == 5 and content["hyper_parameters"] == hyper
    assert all(key.startswith("model.") for key in content["state_dict"])
    back = read_weights(tmp_path / "w.ckpt")
    assert_same({key.removeprefix("model."): array for key, array in back.arrays.items()}, arrays)
    assert back.hyper_parameters == hyper
    assert len(state_dict_shapes(config)) == len(back.arrays)


def test_checkpoints_of_lightning_and_of_a_stage_are_read(tmp_path):
    arrays, _ = recorded("baseline")
    lightning = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.8)}},
        "state_dict": tensors(arrays, "model."),
        "hyper_parameters": {"model_cfg": {"node_in_dim": (6, 3)}},
    }
    stage = {"model_state_dict": tensors(arrays, "model."), "model_config": {"node_in_dim": [6, 3]}}
    for content, hyper in (
        (lightning, {"model_cfg": {"node_in_dim": [6, 3]}}),
        (stage, {"node_in_dim": [6, 3]}),
    ):
        torch.save(content, tmp_path / "w.ckpt")
        weights = read_weights(tmp_path / "w.ckpt")
        assert_same({key.removeprefix("model."): array for key, array in weights.arrays.items()}, arrays)
        assert weights.hyper_parameters == hyper


def test_half_precision_widens_exactly(tmp_path):
    values = torch.tensor([1 / 3, -7e4, 1e-30])
    torch.save({"a": values.bfloat16(), "b": values.half()}, tmp_path / "w.pt")
    arrays = read_weights(tmp_path / "w.pt").arrays
    assert arrays["a"].dtype == np.float32 and arrays["b"].dtype == np.float16
    np.testing.assert_array_equal(arrays["a"], values.bfloat16().float().numpy())


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(2, dtype=torch.float8_e4m3fn), "a is a tensor of torch.float8_e4m3fn"),
        (torch.eye(2).to_sparse(), "a is a tensor of torch.float32, torch.sparse_coo"),
    ],
)
def test_tensors_that_numpy_lacks_are_named(tmp_path, tensor, said):
    torch.save({"a": tensor}, tmp_path / "w.pt")
    with pytest.raises(ConvertError, match=f"{said}.*save it dense, as float32"):
        read_weights(tmp_path / "w.pt")


class Plant:
    """Runs a command when it is unpickled."""

    def __init__(self, folder: str):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    arrays, _ = recorded("baseline")
    planted = tmp_path / "planted"
    torch.save({"state_dict": tensors(arrays), "callbacks": Plant(str(planted))}, tmp_path / "w.ckpt")
    with pytest.raises(ConvertError) as error:
        read_weights(tmp_path / "w.ckpt")
    message = str(error.value)
    assert f"{tmp_path / 'w.ckpt'}: refused" in message and "mkdir" in message and "--trust-pickle" in message
    assert not planted.exists()
    # The plant is live: whoever trusts the file runs it.
    assert_same(read_weights(tmp_path / "w.ckpt", trust_pickle=True).arrays, arrays)
    assert planted.is_dir()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path):
    import pickle

    planted = tmp_path / "planted"
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"a": Plant(str(planted))}))
    with pytest.raises(ConvertError, match="refused"):
        read_weights(tmp_path / "w.pt")
    assert not planted.exists()


# A Lightning checkpoint whose hyper-parameters are `partoken_hyper_parameters()` as hydra gives them to the
# original: groups of one DictConfig, written with omegaconf 2.4.0, which nothing here needs.
HYDRA = Path(__file__).parent / "hydra.ckpt"


def test_settings_of_omegaconf_are_read_without_it_and_without_trust(monkeypatch):
    monkeypatch.setitem(sys.modules, "omegaconf", None)  # cannot be imported, installed or not
    weights = read_weights(HYDRA)
    assert weights.hyper_parameters == {
        **partoken_hyper_parameters(),
        "multistage_cfg": {"stage0": {"epochs": 3, "lr": "${train.lr}"}},
    }
    np.testing.assert_array_equal(weights.arrays["model.a"], [1, 1])


def imitation(monkeypatch) -> type:
    """A class that pickles by the name of omegaconf's DictConfig, importable while the file is written."""
    package, module = types.ModuleType("omegaconf"), types.ModuleType("omegaconf.dictconfig")
    monkeypatch.setitem(sys.modules, "omegaconf", package)
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    module.DictConfig = type("DictConfig", (), {"__module__": module.__name__})
    return module.DictConfig


def test_a_plant_among_settings_of_omegaconf_is_refused_and_not_run(tmp_path, monkeypatch):
    planted = tmp_path / "planted"
    settings = imitation(monkeypatch)()
    settings._content = {"pooling": Plant(str(planted))}
    torch.save({"state_dict": {}, "hyper_parameters": {"model_cfg": settings}}, tmp_path / "w.ckpt")
    with pytest.raises(ConvertError, match=r"refused, because it holds more than weights \(\w+\.mkdir\)"):
        read_weights(tmp_path / "w.ckpt")
    assert not planted.exists()


def test_stand_ins_never_run_what_their_class_would(tmp_path, monkeypatch):
    ran = []
    kind = imitation(monkeypatch)
    kind.__setstate__ = lambda self, state: ran.append(state)
    settings = kind()
    settings._content = {"pooling": "mean"}
    state = {"a": torch.zeros(1)}
    torch.save({"state_dict": state, "hyper_parameters": {"model_cfg": settings}}, tmp_path / "w.ckpt")
    assert read_weights(tmp_path / "w.ckpt").hyper_parameters == {"model_cfg": {"pooling": "mean"}}
    assert not ran


def test_other_hyper_parameters_need_trust(tmp_path):
    arrays, _ = recorded("baseline")
    hyper = {"model_cfg": UserDict(pooling="mean", node_in_dim=[6, 3]), "num_classes": 3}
    torch.save({"state_dict": tensors(arrays), "hyper_parameters": hyper}, tmp_path / "w.ckpt")
    with pytest.raises(ConvertError, match=r"refused.*collections\.UserDict.*--trust-pickle"):
        read_weights(tmp_path / "w.ckpt")
    assert read_weights(tmp_path / "w.ckpt", trust_pickle=True).hyper_parameters == {
        "model_cfg": {"pooling": "mean", "node_in_dim": [6, 3]},
        "num_classes": 3,
    }


def test_a_package_that_a_trusted_file_needs_is_named(tmp_path, monkeypatch):
    module = types.ModuleType("elsewhere")
    exec("class Config: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    torch.save({"state_dict": {}, "hyper_parameters": module.Config()}, tmp_path / "w.ckpt")
    monkeypatch.delitem(sys.modules, "elsewhere")
    with pytest.raises(ConvertError, match="package 'elsewhere', which is not installed"):
        read_weights(tmp_path / "w.ckpt", trust_pickle=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": {}}, "is empty"),
        ({"model": [1, 2], "epoch": 3}, "model, epoch is no tensor"),
        ([1, 2], "holds a list"),
        ({"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": [1]}, "hyper-parameters are a list"),
    ],
)
def test_files_without_a_state_dict_are_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ConvertError, match=said):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [b"", b"hello, this is no file of weights", b"PK\x03\x04 cut short"])
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ConvertError, match=r"w\.pt: (cannot be read|refused)"):
        read_weights(tmp_path / "w.pt")


def test_an_old_torch_that_reads_unsafely_is_refused(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pt")
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(ConvertError, match=r"2\.5\.1 cannot read files safely"):
        read_weights(tmp_path / "w.pt")
