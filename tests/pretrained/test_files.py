"""A model in a file is the model of the run, to the bit, and a file that is none is refused in a sentence."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from partoken_jax.cli import main
from partoken_jax.convert import ConvertError
from partoken_jax.pretrained import ModelError, load_model, model_arrays, write_model
from partoken_jax.pretrained.files import KEY
from partoken_jax.training.initial_weights import initial_weights
from partoken_jax.training.objective import named_arrays
from partoken_jax.training.run_directory import CheckpointError
from partoken_jax.training.trained import TrainedModel
from tests.pretrained.conftest import random_state


@pytest.fixture(scope="module")
def model(run_dir):
    model = load_model(run_dir)
    return dataclasses.replace(model, calibration=1.5, training={"epochs": 3})


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "mine.safetensors"
    write_model(path, model)
    return path


def rewritten(file, folder, change, drop=()):
    """The same file with other metadata, without some arrays."""
    with safe_open(file, "numpy") as opened:
        arrays = {name: opened.get_tensor(name) for name in opened.keys() if name not in drop}  # noqa: SIM118
        meta = json.loads(opened.metadata()[KEY])
    change(meta)
    save_file(arrays, folder / "other.safetensors", {KEY: json.dumps(meta)})
    return folder / "other.safetensors"


def test_a_run_through_a_file_says_the_same_to_the_bit(model, file, proteins, tmp_path):
    back = load_model(file)
    for before, after in zip(model.predict(proteins), back.predict(proteins), strict=True):
        for name, x, y in zip(before._fields, before, after, strict=True):
            np.testing.assert_array_equal(x, y, err_msg=name)
    arrays = {field.name for field in dataclasses.fields(TrainedModel)} & {"graphdef", "params", "codebook"}
    for field in dataclasses.fields(TrainedModel):
        if field.name not in {*arrays, "source"}:
            assert getattr(back, field.name) == getattr(model, field.name), field.name
    write_model(tmp_path / "again.safetensors", back)
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_a_file_holds_the_codebook_and_float32(file):
    with safe_open(file, "numpy") as opened:
        names = set(opened.keys())
        assert {"codebook.embeddings", "codebook.counts", "partitioner.threshold.layers.0.kernel"} <= names
        types = {name: opened.get_slice(name).get_dtype() for name in names}
    assert types.pop("codebook.uses") == "I32" and set(types.values()) == {"F32"}


def test_whoever_may_read_new_files_may_read_a_model(file, tmp_path):
    (tmp_path / "other").write_text("")
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_training_can_start_from_a_file(model, file, tmp_path):
    config = dataclasses.replace(model.config, model=dataclasses.replace(model.config.model, num_classes=7))
    _, fresh = random_state(config)
    started, said, alone = initial_weights(str(file), fresh, model_arrays(file), config)
    assert "classifier.layers.2.kernel" in said[1] and "encoder" not in said[1]
    assert not alone  # so that a trained partitioner is not started again
    ours, theirs = (named_arrays(part.params, part.codebook) for part in (started, model))
    for name in ours.keys() - {"classifier.layers.2.kernel", "classifier.layers.2.bias", "codebook.uses"}:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    save_file({"W_v.0.scalar_norm.weight": np.zeros(6, np.float32)}, tmp_path / "theirs.safetensors")
    assert model_arrays(tmp_path / "theirs.safetensors") is None and model_arrays("w.pt") is None


def test_what_is_no_model_is_refused(file, run_dir, tmp_path):
    def changed(**values):
        return rewritten(file, tmp_path, lambda meta: meta.update(values))

    def says(words, source, error=ModelError):
        with pytest.raises(error) as refused:
            load_model(source)
        assert words in str(refused.value) and str(source) in str(refused.value)

    says("no model in the package of that name", "nonsense")
    says("ends in .safetensors", run_dir / "config.yaml")
    says("no 'best' checkpoint", tmp_path, CheckpointError)
    says("is written as partoken.model/9", changed(schema="partoken.model/9"))
    says("use that version", changed(config={"model": {"telepathy": True}}))
    says("temperature is missing", rewritten(file, tmp_path, lambda meta: meta.pop("temperature")))
    says(
        "node_gvp.ws.kernel is missing",
        rewritten(file, tmp_path, lambda _: None, ["encoder.node_gvp.ws.kernel"]),
    )
    says("codebook.embeddings is (8, 16), expected (9, 16)", rewritten(file, tmp_path, larger_codebook))
    save_file({"W_v.0.scalar_norm.weight": np.zeros(6, np.float32)}, tmp_path / "theirs.safetensors")
    says("`partoken convert`", tmp_path / "theirs.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:5000])
    says("is it complete", tmp_path / "cut.safetensors", ConvertError)


def larger_codebook(meta):
    meta["config"]["model"]["codebook"]["size"] = 9


def test_training_starts_from_a_model_of_the_package_by_its_name(file, monkeypatch, tmp_path):
    monkeypatch.setattr("partoken_jax.pretrained.load.BOX", file.parent)
    given = {}
    monkeypatch.setattr(
        "partoken_jax.training.loop.train", lambda config, **options: given.update(options, config=config)
    )
    short = ["--data.task", "cath-class", "--data.max-train", "8", "--data.max-eval", "4"]
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--init-from", "mine", *short]) == 0
    assert given["config"].init_from == str(file)
    np.testing.assert_array_equal(given["weights"]["codebook.sums"], model_arrays(file)["codebook.sums"])
