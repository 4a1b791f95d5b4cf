"""The project's .npz files (proteins/data/README.md) as a source: all tasks and both schemes of splits."""

import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.prepare.records import Chunk, Column, Contents, Plan, Record
from partoken_jax.proteins import DataError, Protein
from partoken_jax.proteins.dataset import SPLIT_ARRAYS, SPLITS
from partoken_jax.proteins.npz import decode_backbone, read_arrays
from partoken_jax.proteins.tasks import TASK_ARRAYS, task_labels

CHUNK = 256
"""Proteins read at a time."""


def plan(path: Path) -> Plan:
    """How a file is read. Raises DataError for one that cannot be."""
    arrays, _, classes = _load(path)
    chunks: list[Chunk] = [
        {"reader": "npz", "size": min(CHUNK, len(arrays["id"]) - first), "path": str(path), "first": first}
        for first in range(0, len(arrays["id"]), CHUNK)
    ]
    columns = {task: Column(names=names) for task, names in classes.items()}
    has_splits = any(array in arrays for array in SPLIT_ARRAYS.values())
    return Plan(".npz", "proteins", chunks, columns, has_splits, [str(path)])


def read(chunk: Chunk) -> Contents:
    """The proteins of a chunk."""
    path = Path(chunk["path"])
    arrays, labels, classes = _load(path)
    first, stop = chunk["first"], chunk["first"] + chunk["size"]
    chosen = np.zeros(len(arrays["id"]), bool)
    chosen[first:stop] = True
    backbone = decode_backbone(arrays, chosen)
    letters = arrays["sequence"][np.repeat(chosen, arrays["length"])].tobytes().decode("latin-1")
    contents = Contents()
    place = 0
    for i in range(first, stop):
        name, length = arrays["id"][i].decode("utf-8", "replace"), int(arrays["length"][i])
        number = int(arrays["first_residue_number"][i])
        part = slice(place, place + length)
        place += length
        try:
            protein = Protein(
                name=name,
                sequence=letters[part],
                backbone=backbone[part],
                residue_numbers=np.arange(number, number + length, dtype=np.int32),
                chain=name.rpartition("_")[2],
            )
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        contents.add(
            Record(
                protein,
                {task: (classes[task][of[i]],) for task, of in labels.items() if of[i] >= 0},
                {
                    scheme: _NAMES[int(arrays[array][i])]
                    for scheme, array in SPLIT_ARRAYS.items()
                    if array in arrays
                },
            )
        )
    return contents


_NAMES = {number: split for split, number in SPLITS.items()} | {-1: "none"}


@lru_cache(maxsize=1)
def _load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """The arrays of a file, and labels and names of classes by task; those of the last file are kept."""
    optional = (*dict.fromkeys(TASK_ARRAYS.values()), *SPLIT_ARRAYS.values())
    try:
        with zipfile.ZipFile(path) as archive:
            there = {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        there = set(optional)  # read_arrays says what is wrong
    arrays: dict[str, Any] = read_arrays(
        path, tuple(name for name in optional if name in there), judge_chains=False
    )
    names = [name.decode("utf-8", "replace") for name in arrays["id"].tolist()]
    labels, classes = {}, {}
    try:
        for task, array in TASK_ARRAYS.items():
            if array in arrays:
                labels[task], classes[task] = task_labels(task, arrays[array], names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    for array in SPLIT_ARRAYS.values():
        if array in arrays and not np.isin(arrays[array], list(_NAMES)).all():
            raise DataError(f"{path}: array {array!r} must hold 0 (train), 1 (val), 2 (test) or -1 (none)")
    return arrays, labels, classes
