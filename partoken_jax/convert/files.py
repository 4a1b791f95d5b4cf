"""Files of weights: PyTorch (.pt, .pth), Lightning (.ckpt), safetensors and npz.

Only .pt, .pth and .ckpt need torch, which like safetensors is imported where it is used. Reading runs no code
that a file carries, unless the caller says that it may.
"""

import json
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from partoken_jax.files import unreadable
from partoken_jax.proteins import DataError
from partoken_jax.proteins.archive import open_archive

MAX_BYTES = 2**29
"""Of a file of weights, and of what it unpacks to: a hundred times what the published models need."""
SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors", ".npz")
# Where Lightning, and the original's own checkpoints of a stage, keep weights and hyper-parameters.
_STATE_KEYS = ("state_dict", "model_state_dict")
_HYPER_KEYS = ("hyper_parameters", "model_config")
# Lightning migrates what an older version wrote, and asks for that version.
_LIGHTNING_VERSION = "2.0.0"
# What the settings of a Lightning checkpoint are made of when they came from hydra, as the original's do.
_SETTINGS = re.compile(r"omegaconf(\.\w+)+|typing\.\w+|builtins\.(dict|list|tuple|str|int|float|bool)")


class ConvertError(ValueError):
    """Weights that cannot be converted; the message names the file and says what to do."""


class Weights(NamedTuple):
    """What a file of weights holds."""

    arrays: dict[str, np.ndarray]
    """A `state_dict`, prefixes included."""
    hyper_parameters: dict[str, Any]
    """As plain dictionaries, lists and values; empty if the file has none."""


class _Inert:
    """Stands in for a class of omegaconf while a file is read: keeps what was stored, runs nothing."""

    def __init__(self, *stored: Any):
        self.stored: Any = stored

    def __setstate__(self, stored: Any) -> None:
        self.stored = stored

    def value(self) -> Any:
        """Content of a container, value of a node; neither interpolated nor converted."""
        stored = self.stored if isinstance(self.stored, Mapping) else {}
        return stored.get("_content", stored.get("_val"))


def read_weights(path: str | Path, *, trust_pickle: bool = False) -> Weights:
    """Reads a file, by its suffix.

    PyTorch files are read as weights only, with settings of omegaconf as plain data (the package is not
    needed). One that needs other Python objects can run any code when it is read: it is refused, unless
    `trust_pickle` says that its source is trusted.

    Raises ConvertError for a file that is refused, damaged, of another kind, or needs a missing package.
    """
    path = Path(path)
    check_suffix(path)
    if path.suffix == ".safetensors":
        arrays, metadata = read_safetensors(path)
        return Weights(arrays, _checked(path, metadata_json(path, metadata, "hyper_parameters")))
    _check_readable(path)
    if path.suffix == ".npz":
        return Weights(_read_npz(path), {})
    return _read_torch(path, trust_pickle)


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a safetensors file, and its metadata.

    Raises ConvertError for a file that cannot be read or is damaged.
    """
    from safetensors import safe_open

    _check_readable(path)
    try:
        with safe_open(path, "numpy") as file:
            arrays = {
                # NumPy has no bfloat16; float32 holds every value of it
                name: _widened(path, name)
                if file.get_slice(name).get_dtype() == "BF16"
                else file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
            }
            return arrays, file.metadata() or {}
    except Exception as error:
        raise _damaged(path, "a safetensors file", error) from None


def metadata_json(path: Path, metadata: Mapping[str, str], name: str) -> Any:
    """A value of a safetensors file's metadata, read as JSON; an empty dictionary where there is none.

    Raises ConvertError for one that is no JSON.
    """
    try:
        return json.loads(metadata.get(name, "{}"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "a safetensors file", error) from None


def write_weights(path: str | Path, weights: Weights, *, epoch: int = 0) -> None:
    """Writes a file, by its suffix. `epoch` is Lightning's counter, for .ckpt alone.

    .pt, .pth and .npz hold the `state_dict` and nothing else. .safetensors has the hyper-parameters in its
    metadata (as JSON), .ckpt where Lightning has them, with keys that begin with "model.".

    A file that is there already is replaced once the new one is whole.

    Raises ConvertError for another suffix, a missing package or a file that cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    _write_whole(path, lambda part: _write(part, weights, epoch))


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Writes arrays and metadata; the same ones give the same bytes.

    A file that is there already is replaced once the new one is whole. Raises ConvertError for a file that
    cannot be written.
    """
    _write_whole(path, lambda part: _save(part, arrays, metadata))


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        write(part)
        part.replace(path)
    except ConvertError:
        raise
    except Exception as error:  # torch and safetensors have errors of their own for a full disk
        raise ConvertError(
            f"{path}: cannot be written ({_reason(error)}); is there room, and leave?"
        ) from None
    finally:
        part.unlink(missing_ok=True)


def _write(path: Path, weights: Weights, epoch: int) -> None:
    if path.suffix == ".npz":
        np.savez(path, **weights.arrays)  # type: ignore[arg-type]
    elif path.suffix == ".safetensors":
        metadata = {"hyper_parameters": json.dumps(weights.hyper_parameters)}
        _save(path, weights.arrays, metadata)
    else:
        torch = _torch(path)
        state = {key: torch.from_numpy(array) for key, array in weights.arrays.items()}
        if path.suffix == ".ckpt":
            state = {
                "epoch": epoch,
                "global_step": 0,
                "pytorch-lightning_version": _LIGHTNING_VERSION,
                "state_dict": {f"model.{key}": tensor for key, tensor in state.items()},
                "hyper_parameters": weights.hyper_parameters,
            }
        torch.save(state, path)


def _save(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    from safetensors.numpy import save

    # It writes the buffers as they lie in memory. Not `save_file`, whose file is for its owner alone in newer
    # versions.
    path.write_bytes(save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata))


def check_suffix(path: Path) -> None:
    """Raises ConvertError for a file that is of no kind known here."""
    if path.suffix not in SUFFIXES:
        raise ConvertError(f"{path}: a file of weights ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def _check_readable(path: Path) -> None:
    if reason := unreadable(path):
        raise ConvertError(f"{path}: {reason}; give a file of weights")
    _check_size(path, path.stat().st_size)


def _check_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise ConvertError(
            f"{path}: has {size:,} bytes of weights, but these models have at most {MAX_BYTES:,}; "
            "give a file of one model alone"
        )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with open_archive(path) as archive:
            headers = {name: archive.header(name) for name in archive.names}
            _check_size(path, sum(math.prod(shape) * dtype.itemsize for dtype, shape in headers.values()))
            return {name: archive.read(name) for name in archive.names}
    except DataError as error:
        raise ConvertError(str(error)) from None


def _widened(path: Path, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(path, "flax") as file:  # imports JAX
        return np.asarray(file.get_tensor(name), np.float32)


def _read_torch(path: Path, trust_pickle: bool) -> Weights:
    torch = _torch(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            _check_size(path, sum(info.file_size for info in file.infolist()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what is wrong is said below
            with torch.serialization.safe_globals(_stand_ins(torch, path)):
                content = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except ModuleNotFoundError as error:
        raise ConvertError(
            f"{path}: holds objects of the package {error.name!r}, which is not installed; install it"
        ) from None
    except pickle.UnpicklingError as error:
        if trust_pickle:
            raise _damaged(path, "a PyTorch file", error) from None
        raise ConvertError(
            f"{path}: refused, because it holds more than weights ({_foreign(torch, path)}) and reading that "
            "can run any code the file carries; save its state_dict alone, or pass --trust-pickle if you "
            "trust its source"
        ) from None
    except Exception as error:
        raise _damaged(path, "a PyTorch file", error) from None
    return _weights(path, content, torch)


def _weights(path: Path, content: Any, torch: Any) -> Weights:
    if not isinstance(content, Mapping):
        raise ConvertError(
            f"{path}: holds a {type(content).__name__}, not a state_dict; save model.state_dict() instead"
        )
    state = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    hyper: Any = {}
    if state is not content:
        hyper = next((content[key] for key in _HYPER_KEYS if key in content), {})
    others = [str(key) for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if others or not state:
        raise ConvertError(
            f"{path}: expected a state_dict of tensors, or a checkpoint with one under 'state_dict', but "
            f"{', '.join(others) or 'its state_dict'} {'is no tensor' if others else 'is empty'}"
        )
    arrays = {str(key): _numpy(path, key, tensor, torch) for key, tensor in state.items()}
    return Weights(arrays, _checked(path, hyper))


def _checked(path: Path, hyper: Any) -> dict[str, Any]:
    if not isinstance(hyper, Mapping):
        raise ConvertError(
            f"{path}: its hyper-parameters are a {type(hyper).__name__}, not names with values; save its "
            "state_dict alone and give them with --config"
        )
    try:
        return _plain(hyper)
    except Exception as error:  # a trusted file's own containers may refuse to give their values
        raise _damaged(path, "hyper-parameters", error) from None


def _numpy(path: Path, key: Any, tensor: Any, torch: Any) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:  # NumPy has no such type; float32 holds every value of it
        tensor = tensor.float()
    try:
        return tensor.detach().numpy()
    except (TypeError, RuntimeError):
        raise ConvertError(
            f"{path}: {key} is a tensor of {tensor.dtype}, {tensor.layout}; save it dense, as float32"
        ) from None


def _plain(value: Any) -> Any:
    """Dictionaries and lists for whatever acts like them."""
    if isinstance(value, _Inert):
        value = value.value()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    return value


def _stand_ins(torch: Any, path: Path) -> list[tuple[Any, str]]:
    """For torch.load: what to take instead of each class of omegaconf that the file names."""
    settings = [name for name in _unknown(torch, path) if _SETTINGS.fullmatch(name)]
    return [*((_Inert, name) for name in settings), (_empty, "collections.defaultdict")]


def _empty(*_: Any) -> dict:
    return {}


def _foreign(torch: Any, path: Path) -> str:
    """What a file would import, by name."""
    unknown = [name for name in _unknown(torch, path) if not _SETTINGS.fullmatch(name)]
    return ", ".join(unknown) or "a pickle of Python objects"


def _unknown(torch: Any, path: Path) -> list[str]:
    """Everything that a file names and torch does not take for safe. Reading the names runs nothing."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a whole file of torch.save; reading it will say so
        return []


def _torch(path: Path) -> Any:
    try:
        import torch
    except ModuleNotFoundError:
        raise ConvertError(
            f"{path}: {path.suffix} files need PyTorch; `pip install torch`, or use .safetensors or .npz"
        ) from None
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < (2, 6):  # reading weights only could run code before (CVE-2025-32434)
        raise ConvertError(
            f"{path}: PyTorch {torch.__version__} cannot read files safely; `pip install 'torch>=2.6'`"
        )
    return torch


def _damaged(path: Path, kind: str, error: Exception) -> ConvertError:
    return ConvertError(
        f"{path}: cannot be read as {kind} ({_reason(error)}); is it complete, and of that kind?"
    )


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0] or type(error).__name__
