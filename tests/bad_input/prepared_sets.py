"""Prepared sets that are damaged, and sources that none can be made of."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.proteins import LabelColumn, Protein, write_prepared
from tests.bad_input.case import Case
from tests.bad_input.made_files import LENGTHS, data, write

TRAIN = ("train", "--data.path", "set", "--data.task", "colour", "--data.split-scheme", "given")
PREPARE = ("prepare", "data.npz", "set")


def _set(folder: Path) -> None:
    """A set of six chains on straight lines."""
    proteins = [
        Protein(f"p{i}", "A" * length, np.arange(length)[:, None, None] * 3.8 + np.eye(4, 3)[None])
        for i, length in enumerate(LENGTHS)
    ]
    labels = {"colour": LabelColumn(("red", "blue"), np.array([0, 1, 0, 1, 0, 1], np.int32))}
    splits = {"given": np.array([0, 0, 0, 0, 1, 2], np.int8)}
    write_prepared(folder / "set", proteins, labels=labels, splits=splits, neighbours=4)


def _damaged(damage: Callable[[Path], Any]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _set(folder)
        damage(folder / "set")

    return make


def _described(text: str) -> Callable[[Path], None]:
    return _damaged(lambda made: (made / "dataset.json").write_text(text))


def _cut(name: str) -> Callable[[Path], None]:
    return _damaged(lambda made: (made / name).write_bytes((made / name).read_bytes()[:-8]))


def _changed(**values: Any) -> Callable[[Path], None]:
    def damage(made: Path) -> None:
        path = made / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return _damaged(damage)


def _case(name: str, make: Callable[[Path], Any], *words: str, args: tuple[str, ...] = TRAIN) -> Case:
    return Case(f"prepared: {name}", args, words, make)


CASES = [
    _case("a folder of something else", lambda folder: (folder / "set").mkdir(), "set", "no prepared set"),
    *(
        _case(f"dataset.json {text[:20]!r}", _described(text), "dataset.json")
        for text in ("", "{}", "[1]", "null", "garbage", "[" * 5000, '{"format": "partoken-prepared"}')
    ),
    *(
        _case(f"{field} is {value!r}", _changed(**{field: value}), "set")
        for field, value in (
            ("version", 2),
            ("proteins", 2**40),
            ("residues", -1),
            ("labels", 3),
            ("files", []),
        )
    ),
    *(
        _case(f"{name} cut off", _cut(name), "set", name)
        for name in ("backbone.npy", "start.npy", "id.npy", "labels/colour.npy", "splits/given.npy")
    ),
    *(
        _case(f"without {name}", _damaged(lambda made, name=name: (made / name).unlink()), "set", name)
        for name in ("backbone.npy", "start.npy", "labels/colour.npy")
    ),
    _case("an unknown task", _set, "unknown task 'ec-class'", "colour", args=TRAIN[:3]),
    _case("an unknown scheme", _set, "unknown split_scheme 'identity'", "given", args=TRAIN[:5]),
    _case("prepare without words", lambda folder: None, "name at least one source", args=("prepare",)),
    _case("one path", lambda folder: None, "last the folder", args=("prepare", "out")),
    _case("no source", lambda folder: None, "data.npz", args=PREPARE),
    _case(
        "a source that is damaged", write("data.npz", "hello"), "data.npz: not a readable .npz", args=PREPARE
    ),
    _case("seeds in words", data(), "seed is 'x'", "whole number", args=(*PREPARE, "--seed", "x")),
    _case("half a worker", data(), "workers is '0.5'", "whole number", args=(*PREPARE, "--workers", "0.5")),
    _case("neighbours in words", data(), "neighbours is 'many'", args=(*PREPARE, "--neighbours", "many")),
    _case("no neighbours", data(), "neighbours is 0", args=(*PREPARE, "--neighbours", "0")),
    _case(
        "neighbours without end", data(), "neighbours is 1000000", args=(*PREPARE, "--neighbours", "1000000")
    ),
    _case("a negative seed", data(), "seed is -1", args=(*PREPARE, "--seed", "-1")),
    _case("no workers", data(), "workers is 0", args=(*PREPARE, "--workers", "0")),
    _case("shares that are none", data(), "split", args=(*PREPARE, "--split", "a,b")),
    _case("shares above 1", data(), "split", args=(*PREPARE, "--split", "2,3,4")),
    _case("labels that are not there", data(), "no.csv", args=(*PREPARE, "--labels", "no.csv")),
    _case("a set that is there", lambda d: (_set(d), data()(d)), "set", "--overwrite", args=PREPARE),
    _case("a target that is a file", lambda d: (write("set", "mine")(d), data()(d)), "set", args=PREPARE),
    _case(
        "overwriting what is no set",
        lambda d: ((d / "set").mkdir(), (d / "set" / "a.txt").write_text("mine"), data()(d)),
        "set",
        args=(*PREPARE, "--overwrite"),
    ),
]
