"""Files of weights: damaged, of something else, not numbers, or too large."""

import importlib.util
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.config import ModelConfig
from partoken_jax.convert import state_dict_shapes
from tests.bad_input.case import Case
from tests.bad_input.made_files import Make, bomb, claimed, sparse, write
from tests.helpers import tiny

Arrays = dict[str, np.ndarray]
CONVERT = ("convert", "w.npz", "run")
HYDRA = Path(__file__).parents[1] / "convert" / "hydra.ckpt"
HEAD = "classifier.0.weight"


def _weights(config: ModelConfig) -> Arrays:
    """A state_dict of the original."""
    rng = np.random.default_rng(0)
    return {
        key: rng.normal(size=shape).astype(np.float32) for key, shape in state_dict_shapes(config).items()
    }


def _file(change: Callable[[Arrays], Any], **config: Any) -> Make:
    """Writes w.npz of a model, changed."""

    def make(folder: Path) -> None:
        arrays = _weights(tiny(kind="gvp", **config))
        arrays = change(arrays) or arrays
        np.savez(folder / "w.npz", **arrays)

    return make


def _with(key: str, array: Any, **config: Any) -> Make:
    return _file(lambda arrays: arrays.update({key: np.asarray(array)}), **config)


def _planted(key: str, value: float) -> Make:
    return _file(lambda arrays: arrays[key].flat.__setitem__(-1, value))


def _safetensors(header: Any, payload: bytes = b"", length: int | None = None) -> Make:
    """Writes w.safetensors by hand."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(encoded) if length is None else length
    return write("w.safetensors", size.to_bytes(8, "little") + encoded + payload)


def _case(name: str, make: Make, *words: str, args: tuple[str, ...] = CONVERT, heavy: bool = False) -> Case:
    return Case(f"weights: {name}", args, (f"{args[1]}: ", *words), make, heavy)


def _of(suffix: str, name: str, make: Make, *words: str) -> Case:
    return _case(f"{name} ({suffix})", make, *words, args=("convert", f"w.{suffix}", "run"), heavy=True)


def _pickled(folder: Path) -> None:
    (folder / "w.pt").write_bytes(pickle.dumps({"a": print}, protocol=2))


def _cut(folder: Path) -> None:
    (folder / "w.ckpt").write_bytes(HYDRA.read_bytes()[:-2000])


def _zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "w.pth", "w") as file:
        file.writestr("archive/data.pkl", b"garbage")
        file.writestr("archive/version", b"3")


def _other_features(folder: Path) -> None:
    from safetensors.numpy import save_file

    save_file(_weights(tiny(kind="gvp", node_in=(7, 3))), folder / "w.safetensors")


def _taken(folder: Path) -> None:
    _file(lambda arrays: None)(folder)
    (folder / "run").mkdir()
    (folder / "run" / "notes.txt").write_text("mine")


def _taken_by_a_file(folder: Path) -> None:
    _file(lambda arrays: None)(folder)
    (folder / "run").write_text("mine")


def _renamed(arrays: Arrays) -> Arrays:
    return {key.replace("classifier", "decoder"): array for key, array in arrays.items()}


TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
CASES = [
    _case("no file", lambda folder: None, "no such file", "give a file of weights"),
    _case("an unknown kind", write("w.h5", b""), ".safetensors or .npz", args=("convert", "w.h5", "run")),
    _case("no suffix", write("w", b""), ".safetensors or .npz", args=("convert", "w", "run")),
    _case("a pipe", lambda d: os.mkfifo(d / "w.npz"), "is a pipe or a device", "give a file of weights"),
    _case("a link to nothing", lambda d: (d / "w.npz").symlink_to("gone"), "a link to a file that does not"),
    _case("an empty file", write("w.npz", b""), "not a readable .npz file"),
    _case("text", write("w.npz", "hello"), "not a readable .npz file"),
    _case("an archive without arrays", lambda d: np.savez(d / "w.npz"), "holds no arrays"),
    _case("5 GB", sparse("w.npz", 5 * 10**9), "5,000,000,000 bytes", "one model alone"),
    _case("a bomb of 3 GB", bomb("w.npz", f"{HEAD}.npy", (3 * 2**30,)), "would take 3,221,", "check where"),
    _case(
        "an array that claims 1e30 values",
        lambda d: zipfile.ZipFile(d / "w.npz", "w").writestr(f"{HEAD}.npy", claimed((10**30,))),
        "claims shape",
        "write the file anew",
    ),
    _case("Python objects", _with(HEAD, np.array([None, {}], object)), f"'{HEAD}' holds Python objects"),
    _case(
        "of something else",
        lambda d: np.savez(d / "w.npz", conv1=np.zeros(3)),
        "not the weights of ParToken",
        "conv1",
    ),
    _case(
        "of two models",
        _file(lambda a: {f"{p}.{k}": v for k, v in a.items() for p in "ab"}),
        "several models",
        "save one",
    ),
    _case("without its classifier", _file(_renamed), "classifier.6.weight is missing"),
    _case("a key missing", _file(lambda a: {k: v for k, v in a.items() if k != HEAD}), f"missing: {HEAD}"),
    _case("a key too many", _with("bonus.weight", np.zeros(3, np.float32)), "unknown: bonus.weight"),
    _case(
        "a wrong shape", _with(HEAD, np.zeros((3, 3), np.float32)), f"misshapen: {HEAD} is (3, 3), expected"
    ),
    _case("a scalar", _with(HEAD, np.float32(1)), f"misshapen: {HEAD} is (), expected"),
    _case(
        "a scalar that gives a size", _with("classifier.6.weight", np.float32(1)), "classifier.6.weight is ()"
    ),
    _case(
        "whole numbers",
        _with("classifier.0.bias", np.zeros(32, int)),
        "not of floating point: classifier.0.bias is int64",
    ),
    _case(
        "complex numbers",
        _with("classifier.0.bias", np.zeros(32, complex)),
        "not of floating point: classifier.0.bias",
    ),
    _case(
        "text for numbers",
        _with("classifier.0.bias", np.array(["a"] * 32)),
        "not of floating point: classifier.0.bias",
    ),
    _case("NaN", _planted(HEAD, np.nan), f"NaN or infinite values in {HEAD}", "an earlier checkpoint"),
    _case("an infinite weight", _planted(HEAD, -np.inf), f"NaN or infinite values in {HEAD}", "an earlier"),
    Case(
        "weights: NaN to start from",
        ("train", "--init-from", "w.npz"),
        ("w.npz: ", f"NaN or infinite values in {HEAD}"),
        _planted(HEAD, np.nan),
        heavy=True,
    ),
    _case(
        "residues with features of their own",
        _file(lambda a: None, node_in=(7, 3)),
        "model.node_in is (7, 3)",
        "(6, 3)",
    ),
    _case(
        "edges with features of their own",
        _file(lambda a: None, edge_in=(16, 1)),
        "model.edge_in is (16, 1)",
        "(32, 1)",
    ),
    _case(
        "one class",
        _with("classifier.6.weight", np.zeros((1, 16), np.float32)),
        "model.num_classes is 1",
        "from 2 to",
    ),
    _case(
        "classes of another task",
        _file(lambda a: None),
        "has 3 classes",
        "'cath-class' has 4",
        args=(*CONVERT, "--data.task", "cath-class"),
    ),
    _case(
        "a setting that contradicts them",
        _file(lambda a: None),
        "model.num_layers is 2",
        "but 3 according to",
        "correct one",
        args=(*CONVERT, "--model.num-layers", "3"),
    ),
    _case(
        "a setting that is none",
        _file(lambda a: None),
        "model.dropout is 'x'",
        args=(*CONVERT, "--model.dropout", "x"),
    ),
    Case("weights: a target that is taken", CONVERT, ("run has content", "name another"), _taken),
    Case(
        "weights: a target that is a file", CONVERT, ("run is a file", "name a directory"), _taken_by_a_file
    ),
]

if importlib.util.find_spec("safetensors") is not None:
    CASES += [
        _of("safetensors", "an empty file", write("w.safetensors", b""), "cannot be read", "complete"),
        _of("safetensors", "text", write("w.safetensors", "hello, world"), "cannot be read", "complete"),
        _of("safetensors", "a header of 1e18 bytes", _safetensors({}, length=10**18), "cannot be read"),
        _of("safetensors", "a header that is no JSON", _safetensors(b"{" * 50), "cannot be read"),
        _of(
            "safetensors",
            "an array beyond the end",
            _safetensors({"a": TENSOR | {"shape": [10**9], "data_offsets": [0, 4 * 10**9]}}),
            "cannot be read",
        ),
        _of(
            "safetensors",
            "a shape of 1e30",
            _safetensors({"a": TENSOR | {"shape": [10**15, 10**15]}}, b"\0" * 4),
            "cannot be read",
        ),
        _of(
            "safetensors",
            "settings 5,000 deep",
            _safetensors({"__metadata__": {"hyper_parameters": "[" * 5000}, "a": TENSOR}, b"\0" * 4),
            "cannot be read",
        ),
        _of(
            "safetensors",
            "settings that are a list",
            _safetensors({"__metadata__": {"hyper_parameters": "[1]"}, "a": TENSOR}, b"\0" * 4),
            "hyper-parameters are a list",
        ),
        _of(
            "safetensors",
            "of something else",
            _safetensors({"a": TENSOR}, b"\0" * 4),
            "not the weights of ParToken",
        ),
        Case(
            "weights: no model of ours",
            ("evaluate", "--model", "w.safetensors"),
            ("no model of partoken_jax", "`partoken convert`"),
            _safetensors({"a": TENSOR}, b"\0" * 4),
        ),
        Case(
            "weights: a model of another time",
            ("evaluate", "--model", "w.safetensors"),
            ("partoken.model/9", "use the version that wrote it"),
            _safetensors(
                {"__metadata__": {"partoken": '{"schema": "partoken.model/9"}'}, "a": TENSOR}, b"\0" * 4
            ),
        ),
        Case(
            "weights: a model cut off",
            ("evaluate", "--model", "w.safetensors"),
            ("w.safetensors: cannot be read", "complete"),
            _safetensors({"a": TENSOR}, b"\0" * 3),
        ),
        _of("safetensors", "features of their own", _other_features, "model.node_in is (7, 3)", "(6, 3)"),
        _of(
            "safetensors",
            "5 GB",
            sparse("w.safetensors", 5 * 10**9),
            "5,000,000,000 bytes",
            "one model alone",
        ),
    ]
if importlib.util.find_spec("torch") is not None:
    CASES += [
        _of("pt", "an empty file", write("w.pt", b""), "cannot be read", "complete"),
        _of("pth", "text", write("w.pth", "hello, world"), "w.pth: "),
        _of("pt", "a pickle of a function", _pickled, "refused", "--trust-pickle"),
        _of("ckpt", "cut off", _cut, "cannot be read", "complete"),
        _of("pth", "an archive of garbage", _zip, "w.pth: "),
        _of("pt", "5 GB", sparse("w.pt", 5 * 10**9), "5,000,000,000 bytes", "one model alone"),
        _of("pt", "endless", lambda d: (d / "w.pt").symlink_to("/dev/zero"), "is a pipe or a device"),
    ]
