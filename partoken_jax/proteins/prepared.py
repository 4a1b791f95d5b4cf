"""The prepared format: a folder of NumPy files that can be read in parts (docs/guide/data.md has the table).

P proteins, R residues one after another, K neighbours of each. NumPy alone opens every file:
`np.load(folder / "backbone.npy", mmap_mode="r")`.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.proteins.neighbours import neighbour_table
from partoken_jax.proteins.protein import UNKNOWN_RESIDUE, DataError, Protein

FORMAT, VERSION = "partoken-prepared", 1
SPLITS = {"train": 0, "val": 1, "test": 2}
"""What stands for a split in `splits/<scheme>.npy`; -1 stands for none."""

RESIDUE_FILES: dict[str, tuple[type, tuple[str | int, ...]]] = {
    "backbone": (np.float32, (4, 3)),
    "sequence": (np.uint8, ()),
    "residue_number": (np.int32, ()),
    "insertion_code": (np.uint8, ()),
    "neighbours": (np.int16, ("K",)),
}
"""Type and shape per residue of the files with a row for every residue."""

MAX_LENGTH = np.iinfo(np.int16).max
"""Residues of a protein whose neighbours an int16 can tell."""
MAX_NAME = 255
"""Bytes of an id or a chain."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""What a label column or a scheme may be called: it names a file."""


@dataclass(frozen=True, eq=False)
class LabelColumn:
    """The labels of P proteins for one question."""

    classes: tuple[str, ...]
    """Names of the C classes."""
    values: np.ndarray
    """int32 [P]: class of each protein, -1 where it has none. With `starts`, the classes of the first
    protein, then those of the second, and so on."""
    starts: np.ndarray | None = None
    """int64 [P + 1]: protein i has the classes `values[starts[i]:starts[i + 1]]`. None: one class at most."""

    @property
    def several(self) -> bool:
        """Whether a protein may have several labels."""
        return self.starts is not None


def write_prepared(
    out: str | Path,
    proteins: Iterable[Protein],
    *,
    labels: Mapping[str, LabelColumn],
    splits: Mapping[str, np.ndarray],
    neighbours: int,
    tables: Iterable[np.ndarray] | None = None,
    sources: Sequence[Mapping[str, Any]] = (),
    skipped: Sequence[Mapping[str, str]] = (),
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Writes a prepared set, protein by protein, beside `out`, and renames it to `out` once it is whole.

    Labels, splits, sources, skipped and summary are read after the last protein: what yields the proteins may
    fill them meanwhile.

    Args:
      out: the folder to make; it must not exist.
      proteins: each with a name of its own. Their `label` is not used.
      labels: columns by name.
      splits: int8 [P] by name of the scheme: 0 train, 1 val, 2 test, -1 none.
      neighbours: K.
      tables: int32 [L, K] per protein, as `neighbour_table` makes them; None: computed here.
      sources: where the proteins come from, as JSON; for instance file, bytes and sha256.
      skipped: what was left out, as {"name": ..., "reason": ...}.
      summary: more for `summary` in dataset.json, as JSON.

    Raises DataError if `out` exists or anything does not fit together; nothing is left behind then.
    """
    out = Path(out)
    if out.exists():
        raise DataError(f"{out}: already exists; choose another folder, or remove this one first")
    if neighbours < 1:
        raise DataError(f"{out}: neighbours is {neighbours}, but each residue needs at least 1")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        counts, index = _write_residues(partial, proteins, tables, neighbours)
        num_proteins = len(index["start"]) - 1
        for name, array in index.items():
            np.save(partial / f"{name}.npy", array)
        meta: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "proteins": num_proteins,
            "residues": int(index["start"][-1]),
            "neighbours": neighbours,
            "labels": {
                name: _write_labels(partial, name, column, num_proteins) for name, column in labels.items()
            },
            "splits": {
                name: _write_split(partial, name, split, num_proteins) for name, split in splits.items()
            },
            "sources": list(sources),
            "skipped": list(skipped),
            "summary": {**_lengths(index["start"]), **counts, **(summary or {})},
            "files": {
                str(path.relative_to(partial)): {"bytes": path.stat().st_size, "sha256": checksum(path)}
                for path in sorted(partial.rglob("*.npy"))
            },
        }
        meta["fingerprint"] = fingerprint(
            {name: file["sha256"] for name, file in meta["files"].items()},
            {name: column["classes"] for name, column in meta["labels"].items()},
        )
        (partial / "dataset.json").write_text(json.dumps(meta, indent=1) + "\n")
        os.rename(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def fingerprint(checksums: Mapping[str, str], classes: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of what a set holds: the checksums of its files, and the class names of its label columns."""
    return hashlib.sha256(json.dumps([checksums, classes], sort_keys=True).encode()).hexdigest()


def checksum(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` says it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _GrowingArray:
    """A .npy file that rows are appended to; its header is written again when their number is known."""

    def __init__(self, path: Path, dtype: type, shape: tuple[int, ...]):
        self.dtype, self.shape, self.rows = np.dtype(dtype), shape, 0
        self.file = path.open("wb")
        self._header()

    def _header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self.file,
            {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.shape)},
        )  # NumPy leaves room in it for any number of rows

    def append(self, rows: np.ndarray) -> None:
        rows = np.ascontiguousarray(rows, self.dtype)
        self.file.write(rows.data)
        self.rows += len(rows)

    def close(self) -> None:
        self.file.seek(0)
        self._header()
        self.file.close()


def _write_residues(
    folder: Path, proteins: Iterable[Protein], tables: Iterable[np.ndarray] | None, k: int
) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """Writes the files of residues. Returns counts of them, and the small arrays: start, id, chain,
    incomplete."""
    files = {
        name: _GrowingArray(folder / f"{name}.npy", dtype, tuple(k if n == "K" else int(n) for n in shape))
        for name, (dtype, shape) in RESIDUE_FILES.items()
    }
    lengths: list[int] = []
    chains: list[bytes] = []
    incomplete: list[int] = []
    unknown = 0
    names: dict[bytes, None] = {}
    try:
        for protein, table in _with_tables(proteins, tables, k):
            name, chain = _name(protein, "name", protein.name), _name(protein, "chain", protein.chain)
            if not name:
                raise DataError(f"protein {len(lengths) + 1} has an empty name; give every protein its own")
            if name in names:
                raise DataError(f"{protein.name}: two proteins have this name; give every protein its own")
            names[name] = None
            rows = {
                "backbone": protein.backbone,
                "sequence": np.frombuffer(protein.sequence.encode(), np.uint8),
                "residue_number": protein.residue_numbers,
                "insertion_code": np.frombuffer(protein.insertion_codes.encode(), np.uint8),
                "neighbours": neighbour_offsets(protein, table, k),
            }
            for key, array in rows.items():
                files[key].append(array)
            lengths.append(len(protein))
            chains.append(chain)
            incomplete.append(int((~protein.complete).sum()))
            unknown += protein.sequence.count(UNKNOWN_RESIDUE)
    finally:
        for file in files.values():
            file.close()
    if not lengths:
        raise DataError(f"{folder}: there are no proteins to write; give at least one")
    counts = {"incomplete_residues": sum(incomplete), "unknown_residues": unknown}
    return counts, {
        "start": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "id": np.array(list(names)),
        "chain": np.array(chains),
        "incomplete": np.array(incomplete, np.int32),
    }


def _with_tables(
    proteins: Iterable[Protein], tables: Iterable[np.ndarray] | None, k: int
) -> Iterator[tuple[Protein, np.ndarray]]:
    if tables is None:
        for protein in proteins:
            yield protein, neighbour_table(protein.backbone[:, 1], protein.complete, k)
        return
    for protein, table in zip_longest(proteins, tables):
        if protein is None or table is None:
            raise DataError("the numbers of proteins and neighbour tables differ; give one table per protein")
        yield protein, table


def neighbour_offsets(protein: Protein, table: np.ndarray, k: int) -> np.ndarray:
    """int16 [L, K]: neighbour minus residue, 0 where there is none, for nobody is their own neighbour.

    Raises DataError for a table of another protein, or a protein of more than `MAX_LENGTH` residues.
    """
    length = len(protein)
    if length > MAX_LENGTH:
        raise DataError(
            f"{protein.name}: has {length} residues, but a prepared set holds proteins of at most "
            f"{MAX_LENGTH}; leave it out or cut it"
        )
    if table.shape != (length, k) or table.max() >= length:
        raise DataError(
            f"{protein.name}: neighbour table has shape {table.shape}, but must be ({length}, {k}) and name "
            f"residues below {length}; compute it anew"
        )
    return np.where(table < 0, 0, table - np.arange(length)[:, None]).astype(np.int16)


def _name(protein: Protein, what: str, text: str) -> bytes:
    code = text.encode()
    if len(code) > MAX_NAME or not text.isprintable():
        raise DataError(
            f"{text[:40]!r}: the {what} of a protein must be printable text of at most {MAX_NAME} bytes"
        )
    return code


def _write_labels(folder: Path, name: str, column: LabelColumn, num_proteins: int) -> dict[str, Any]:
    """Writes a column of labels. Returns what dataset.json says of it."""
    _check_name("label column", name)
    values = np.asarray(column.values)
    if column.starts is None:
        if values.shape != (num_proteins,):
            raise DataError(f"labels {name!r} have shape {values.shape}, but must be ({num_proteins},)")
        lowest, labelled = -1, int((values >= 0).sum())
    else:
        starts = np.asarray(column.starts)
        if starts.shape != (num_proteins + 1,) or starts[0] != 0 or starts[-1] != len(values):
            raise DataError(
                f"labels {name!r}: starts has shape {starts.shape} and must have ({num_proteins + 1},), "
                f"from 0 to the number of labels, {len(values)}"
            )
        if (np.diff(starts) < 0).any():
            raise DataError(f"labels {name!r}: starts must not fall")
        lowest, labelled = 0, int((np.diff(starts) > 0).sum())
    num_classes = len(column.classes)
    if len(set(column.classes)) != num_classes or not all(column.classes):
        raise DataError(
            f"labels {name!r}: every class needs a name of its own, but they are {column.classes}"
        )
    wrong = (values < lowest) | (values >= num_classes)
    if wrong.any():
        raise DataError(
            f"labels {name!r} hold {values[wrong.argmax()]}, but there are {num_classes} classes; give "
            f"{lowest} to {num_classes - 1}"
        )
    (folder / "labels").mkdir(exist_ok=True)
    np.save(folder / "labels" / f"{name}.npy", values.astype(np.int32))
    if column.starts is not None:
        np.save(folder / "labels" / f"{name}.start.npy", np.asarray(column.starts, np.int64))
    return {"classes": list(column.classes), "several": column.several, "labelled": labelled}


def _write_split(folder: Path, name: str, split: np.ndarray, num_proteins: int) -> dict[str, int]:
    """Writes a scheme. Returns its counts for dataset.json."""
    _check_name("split scheme", name)
    split = np.asarray(split)
    if split.shape != (num_proteins,) or not np.isin(split, (-1, 0, 1, 2)).all():
        raise DataError(
            f"split scheme {name!r} must give each of the {num_proteins} proteins 0 (train), 1 (val), 2 "
            f"(test) or -1 (none); its shape is {split.shape}"
        )
    (folder / "splits").mkdir(exist_ok=True)
    np.save(folder / "splits" / f"{name}.npy", split.astype(np.int8))
    return {split_name: int((split == code).sum()) for split_name, code in {**SPLITS, "none": -1}.items()}


def _check_name(what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise DataError(f"{what} {name!r} names a file: use letters, digits, '-' and '_' only")


def _lengths(start: np.ndarray) -> dict[str, Any]:
    quantiles = np.quantile(np.diff(start), (0, 0.25, 0.5, 0.75, 1))
    return {"lengths": dict(zip(("min", "lower", "median", "upper", "max"), quantiles.tolist(), strict=True))}
