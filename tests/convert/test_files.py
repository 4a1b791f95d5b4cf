"""Files without PyTorch: npz and safetensors."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from partoken_jax.convert import ConvertError, Weights, read_weights, write_weights

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "empty": np.zeros(0, np.float32),
    "epoch": np.array(7),
}
HYPER = {"model_cfg": {"node_in_dim": [6, 3], "drop_rate": 0.1}, "num_classes": 7}


def assert_same(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert set(got) == set(want)
    for key, array in want.items():
        assert got[key].dtype == array.dtype and got[key].shape == array.shape
        np.testing.assert_array_equal(got[key], array)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_written_files_read_the_same_without_torch(tmp_path, monkeypatch, suffix):
    monkeypatch.setitem(sys.modules, "torch", None)  # any import of it fails
    write_weights(tmp_path / f"w{suffix}", Weights(ARRAYS, HYPER))
    back = read_weights(tmp_path / f"w{suffix}")
    assert_same(back.arrays, ARRAYS)
    assert back.hyper_parameters == (HYPER if suffix == ".safetensors" else {})


def test_a_file_is_lost_to_no_failed_write(tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    write_weights(path, Weights(ARRAYS, HYPER))
    before = path.read_bytes()

    def full(file, **arrays):
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ConvertError, match=r"w\.npz: cannot be written \(no space left"):
        write_weights(path, Weights({}, {}))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_a_missing_package_is_needed_for_is_said(tmp_path, monkeypatch):
    for suffix in (".pt", ".ckpt"):
        path = tmp_path / f"w{suffix}"
        path.write_bytes(b"")
        with monkeypatch.context() as patch, pytest.raises(ConvertError) as error:
            patch.setitem(sys.modules, "torch", None)
            read_weights(path)
        assert str(path) in str(error.value) and "pip install torch" in str(error.value)


def test_bfloat16_of_safetensors_widens_exactly(tmp_path):
    from safetensors.flax import save_file

    values = jnp.array([1 / 3, -7e4, 1e-30], jnp.bfloat16)
    save_file({"a": values, "b": jnp.arange(3.0)}, tmp_path / "w.safetensors")
    arrays = read_weights(tmp_path / "w.safetensors").arrays
    assert {name: array.dtype for name, array in arrays.items()} == {"a": np.float32, "b": np.float32}
    np.testing.assert_array_equal(arrays["a"], values.astype(jnp.float32))


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors"])
def test_damaged_files_are_named(tmp_path, name):
    write_weights(tmp_path / name, Weights(ARRAYS, HYPER))
    whole = (tmp_path / name).read_bytes()
    for content in (b"", b"something else entirely", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConvertError, match=rf"{name}: (cannot be read as|not a readable)"):
            read_weights(tmp_path / name)


def test_an_npz_of_python_objects_is_not_unpickled(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.array([{}], object))
    with pytest.raises(ConvertError, match="'a' holds Python objects"):
        read_weights(tmp_path / "w.npz")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ConvertError, match=r"\.pt, \.pth, \.ckpt, \.safetensors or \.npz"):
        read_weights(tmp_path / "w.bin")
    with pytest.raises(ConvertError, match="no such file"):
        read_weights(tmp_path / "w.npz")
