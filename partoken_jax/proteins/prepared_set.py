"""Reads the prepared format: what is small at once, residues when they are asked for.

Ranges are read, not mapped: pages of a memory map would count as memory of the process, the more the longer
it runs.
"""

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from pydantic import NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from partoken_jax.proteins.prepared import (
    FORMAT,
    RESIDUE_FILES,
    VERSION,
    LabelColumn,
    checksum,
    fingerprint,
)
from partoken_jax.proteins.protein import DataError, Protein


@dataclass(frozen=True)
class _Column:
    classes: list[str]
    several: bool


@dataclass(frozen=True)
class _File:
    bytes: NonNegativeInt
    sha256: str


@dataclass(frozen=True)
class _Meta:
    """What the reader needs of dataset.json."""

    format: Literal["partoken-prepared"]
    version: PositiveInt
    proteins: PositiveInt
    residues: PositiveInt
    neighbours: PositiveInt
    labels: dict[str, _Column]
    splits: dict[str, dict[str, int]]
    files: dict[str, _File]
    fingerprint: str


class _Rows:
    """A .npy file whose rows are read by range."""

    def __init__(self, path: Path):
        mapped: Any = _load(path, mmap_mode="r")  # checks the header
        self.path, self.offset = path, mapped.offset
        self.dtype: np.dtype = mapped.dtype
        self.shape: tuple[int, ...] = mapped.shape
        self.stride = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)

    def read(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """`counts[i]` rows from `starts[i]` on, for every i, one after another."""
        out = np.empty((int(counts.sum()), *self.shape[1:]), self.dtype)
        if not out.size:
            return out
        view = memoryview(out.data).cast("B")
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
            self._fill(view[: count * self.stride], self.offset + start * self.stride)
            view = view[count * self.stride :]
        return out

    def _fill(self, view: memoryview, place: int) -> None:
        while len(view):
            try:
                count = os.preadv(self.descriptor, [view], place)
            except OSError as error:
                raise DataError(f"{self.path}: cannot be read ({error.strerror}); check the disk") from None
            if count == 0:
                raise DataError(f"{self.path}: ends too early; it has changed since it was opened")
            view, place = view[count:], place + count


@dataclass(frozen=True, eq=False)
class PreparedSet:
    """A prepared set of P proteins, open for reading. Made by `open_prepared`."""

    path: Path
    fingerprint: str
    """Changes with anything that the set holds."""
    neighbours: int
    """K."""
    start: np.ndarray
    """int64 [P + 1]: protein i has the residues start[i] to start[i + 1]."""
    names: np.ndarray
    """bytes [P], UTF-8."""
    chains: np.ndarray
    """bytes [P], UTF-8."""
    incomplete: np.ndarray
    """int32 [P]: residues that lack an atom."""
    labels: dict[str, LabelColumn]
    splits: dict[str, np.ndarray]
    """int8 [P] by scheme: 0 train, 1 val, 2 test, -1 none."""
    rows: dict[str, _Rows]

    def __len__(self) -> int:
        return len(self.names)


class PreparedProteins(Sequence[Protein]):
    """P proteins of a prepared set; each is read when it is asked for."""

    def __init__(
        self, prepared: PreparedSet, number: np.ndarray, labels: np.ndarray, max_length: int | None = None
    ):
        """`number` int64 [P]: places in the set; `labels` int32 [P]; of each protein the first `max_length`
        residues."""
        self.prepared, self.number, self.labels, self.max_length = prepared, number, labels, max_length
        self.start = prepared.start[number]
        whole = prepared.start[number + 1] - self.start
        self.lengths = whole if max_length is None else np.minimum(whole, max_length)
        self.is_cropped = self.lengths < whole
        """bool [P]: longer in the set, so that the neighbours there are not those within what is left."""

    def __len__(self) -> int:
        return len(self.number)

    @overload
    def __getitem__(self, i: int) -> Protein: ...

    @overload
    def __getitem__(self, i: slice) -> "PreparedProteins": ...

    def __getitem__(self, i):
        if isinstance(i, slice):
            return self.take(np.arange(len(self))[i])
        if not -len(self) <= i < len(self):
            raise IndexError(f"protein {i} of {len(self)}")
        place = np.array([i % len(self)])
        letters, codes = (self.read(name, place).tobytes() for name in ("sequence", "insertion_code"))
        try:
            return Protein(
                name=self.name(i),
                sequence=letters.decode("latin-1"),
                backbone=self.read("backbone", place),
                label=int(self.labels[i]),
                residue_numbers=self.read("residue_number", place),
                chain=_text(self.prepared.chains[self.number[i]]),
                insertion_codes=codes.decode("latin-1"),
            )
        except DataError as error:
            raise DataError(f"{self.prepared.path}: {error}") from None

    def name(self, i: int) -> str:
        return _text(self.prepared.names[self.number[i]])

    @property
    def names(self) -> list[str]:
        """Name of each protein."""
        return [self.name(i) for i in range(len(self))]

    def read(self, name: str, places: np.ndarray) -> np.ndarray:
        """The rows of the proteins at these places, one after another, in a file of residues
        (`RESIDUE_FILES`)."""
        return self.prepared.rows[name].read(self.start[places], self.lengths[places])

    @cached_property
    def num_incomplete(self) -> int:
        """Residues that lack an atom."""
        whole = self.prepared.incomplete[self.number[~self.is_cropped]].sum()
        cropped = sum(int((~self[i].complete).sum()) for i in np.flatnonzero(self.is_cropped).tolist())
        return int(whole) + cropped

    def take(self, places: np.ndarray) -> "PreparedProteins":
        """The proteins at these places."""
        return PreparedProteins(self.prepared, self.number[places], self.labels[places], self.max_length)

    def cropped(self, max_length: int) -> "PreparedProteins":
        """The first `max_length` residues of every protein."""
        length = max_length if self.max_length is None else min(max_length, self.max_length)
        return PreparedProteins(self.prepared, self.number, self.labels, length)


def _text(code: Any) -> str:
    return code.decode("utf-8", "replace")


def open_prepared(path: str | Path) -> PreparedSet:
    """Opens a prepared set. Checks sizes and shapes of all files, and checksums of those that are small.

    Raises DataError for a folder that is not a prepared set or is not whole.
    """
    path = Path(path)
    meta = _read_meta(path)
    for name, file in meta.files.items():
        size = (path / name).stat().st_size if (path / name).is_file() else None
        if size != file.bytes:
            found = "is missing" if size is None else f"has {size} bytes in place of {file.bytes}"
            raise DataError(f"{path / name}: {found}; copy or prepare the set again")
    large = {f"{name}.npy" for name in RESIDUE_FILES}
    _check_sums(path, {name: file for name, file in meta.files.items() if name not in large})
    num, residues = meta.proteins, meta.residues
    rows = {}
    for name, (dtype, shape) in RESIDUE_FILES.items():
        rows[name] = _Rows(_listed(path, meta, name))
        want = (residues, *(meta.neighbours if n == "K" else n for n in shape))
        _check_shape(rows[name].path, rows[name].dtype, rows[name].shape, np.dtype(dtype), want)
    start = _small(path, meta, "start", np.int64, (num + 1,))
    if start[0] != 0 or start[-1] != residues or (np.diff(start) < 1).any():
        raise DataError(f"{path / 'start.npy'}: must rise from 0 to {residues}; prepare the set again")
    labels = {}
    for name, column in meta.labels.items():
        starts = None
        if column.several:
            starts = _small(path, meta, f"labels/{name}.start", np.int64, (num + 1,))
        count = num if starts is None else int(starts[-1])
        values = _small(path, meta, f"labels/{name}", np.int32, (count,))
        labels[name] = LabelColumn(tuple(column.classes), values, starts)
    return PreparedSet(
        path=path,
        fingerprint=meta.fingerprint,
        neighbours=meta.neighbours,
        start=start,
        names=_small(path, meta, "id", np.bytes_, (num,)),
        chains=_small(path, meta, "chain", np.bytes_, (num,)),
        incomplete=_small(path, meta, "incomplete", np.int32, (num,)),
        labels=labels,
        splits={name: _small(path, meta, f"splits/{name}", np.int8, (num,)) for name in meta.splits},
        rows=rows,
    )


def verify_prepared(path: str | Path) -> None:
    """Reads every file of a set and compares its checksum. Raises DataError that names the first to
    differ."""
    path = Path(path)
    open_prepared(path)
    _check_sums(path, dict(_read_meta(path).files))


def _read_meta(path: Path) -> _Meta:
    file = path / "dataset.json"
    if not file.is_file():
        raise DataError(
            f"{path}: is a folder without dataset.json, so it is no prepared set; make one with "
            "`partoken prepare`, or give a .npz file"
        )
    try:
        meta = TypeAdapter(_Meta).validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        if isinstance(error, OSError):
            why = str(error.strerror)
        else:
            fault = error.errors(include_url=False)[0]
            why = f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".lstrip(": ")
        raise DataError(f"{file}: does not describe a prepared set ({why}); prepare the set again") from None
    if meta.version != VERSION:
        raise DataError(
            f"{file}: has version {meta.version} of the format {FORMAT}, but this package reads version "
            f"{VERSION}; prepare the set again, or install the package that made it"
        )
    checksums = {name: held.sha256 for name, held in meta.files.items()}
    classes = {name: column.classes for name, column in meta.labels.items()}
    if meta.fingerprint != fingerprint(checksums, classes):
        raise DataError(f"{file}: has been changed since the set was written; prepare the set again")
    return meta


def _check_sums(path: Path, files: dict[str, _File]) -> None:
    for name, file in files.items():
        if checksum(path / name) != file.sha256:
            raise DataError(
                f"{path / name}: its content does not have the checksum in dataset.json; copy or prepare the "
                "set again"
            )


def _listed(path: Path, meta: _Meta, name: str) -> Path:
    """The file of an array that the set must have."""
    if f"{name}.npy" not in meta.files:
        raise DataError(f"{path / 'dataset.json'}: does not list {name}.npy; prepare the set again")
    return path / f"{name}.npy"


def _small(path: Path, meta: _Meta, name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    file = _listed(path, meta, name)
    array = _load(file)
    _check_shape(file, array.dtype, array.shape, np.dtype(dtype), shape)
    return array


def _load(file: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    try:
        return np.load(file, mmap_mode=mmap_mode, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{file}: is no readable .npy file ({error}); prepare the set again") from None


def _check_shape(file: Path, dtype: np.dtype, shape: tuple, want: np.dtype, want_shape: tuple) -> None:
    if dtype.kind != want.kind or (want.kind != "S" and dtype != want) or shape != want_shape:
        raise DataError(
            f"{file}: holds {dtype} of shape {shape}, but must hold {want} of shape {want_shape}; "
            "prepare the set again"
        )
