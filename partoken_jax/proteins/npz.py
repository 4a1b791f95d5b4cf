"""Reads the .npz format that data/README.md describes, and checks it."""

import math
from pathlib import Path

import numpy as np

from partoken_jax.proteins.archive import Archive, Header, open_archive
from partoken_jax.proteins.geometry import CLOSEST, FARTHEST, implausible
from partoken_jax.proteins.protein import DataError

# What each array must be: NumPy type kinds or the exact type, and its shape in words.
# P chains, R residues; the numbers themselves come from the file.
_FORMAT: dict[str, tuple[str | np.dtype, str]] = {
    "step": ("f", "()"),
    "backbone": (np.dtype(np.int8), "(12, R)"),
    "sequence": (np.dtype(np.uint8), "(R,)"),
    "length": ("iu", "(P,)"),
    "first_residue_number": ("iu", "(P,)"),
    "id": ("S", "(P,)"),
    "ec_class": ("iu", "(P,)"),
    "cath": ("S", "(P,)"),
    "split": ("i", "(P,)"),
    "split_superfamily": ("i", "(P,)"),
}
_BASE = ("step", "id", "length", "first_residue_number", "sequence", "backbone")
_KINDS = {"f": "floating point", "iu": "integer", "i": "signed integer", "S": "bytes"}


MAX_LENGTH = 100_000
"""Residues; the longest chain known has 35,000."""
_MAX_NAME = 1000
"""Bytes of an id or a CATH code."""


def read_arrays(path: Path, also: tuple[str, ...], *, judge_chains: bool = True) -> dict[str, np.ndarray]:
    """The geometry and names of all chains of a file, and the arrays named in `also`.

    Nothing is read before its type and shape are known to fit. Ids are then valid UTF-8 and each is there
    once, and coordinates are at the scale of proteins; without `judge_chains` the caller sees to that, chain
    by chain.

    Raises DataError for a file that cannot be read, or an array that is missing, has the wrong type or shape,
    contradicts another, or holds what no protein has.
    """
    with open_archive(path) as archive:
        missing = [name for name in (*_BASE, *also) if name not in archive.names]
        if missing:
            raise DataError(
                f"{path}: array {', '.join(map(repr, missing))} is missing; "
                f"the task and split chosen need {', '.join((*_BASE, *also))}"
            )
        sizes = {"P": _size(archive, "length"), "R": _size(archive, "sequence")}
        for name in ("length", "sequence", *_BASE, *also):
            _check_header(path, name, archive.header(name), sizes)
        arrays = {}
        for name, check in _CHECKS.items():
            arrays[name] = archive.read(name)
            if judge_chains or check not in (_check_names, _check_scale):
                check(path, arrays)
        return arrays | {name: archive.read(name) for name in also}


def decode_backbone(arrays: dict[str, np.ndarray], chosen: np.ndarray) -> np.ndarray:
    """float32 [R', 4, 3]: N, CA, C, O in Å of all residues of the chosen chains (bool [P]).

    CA is the cumulative sum of its steps within the chain; N, C and O are offsets from CA.
    """
    lengths = arrays["length"][chosen]
    packed = arrays["backbone"][:, np.repeat(chosen, arrays["length"])]
    steps = packed[:3]
    ca = np.cumsum(steps, axis=1, dtype=np.int32)
    first = np.cumsum(lengths) - lengths
    ca -= np.repeat(ca[:, first] - steps[:, first], lengths, axis=1)
    atoms = np.empty((packed.shape[1], 4, 3), np.float32)
    atoms[:, 1] = ca.T
    for atom, row in ((0, 3), (2, 6), (3, 9)):
        atoms[:, atom] = (ca + packed[row : row + 3]).T
    atoms *= np.float32(arrays["step"])
    return atoms


def _size(archive: Archive, name: str) -> int:
    return math.prod(archive.header(name).shape)


def _check_header(path: Path, name: str, header: Header, sizes: dict[str, int]) -> None:
    """Raises DataError for an array of the wrong type or shape, given the numbers of chains and residues."""
    dtype, shape = header
    kind, words = _FORMAT[name]
    if not (dtype.kind in kind if isinstance(kind, str) else dtype == kind):
        right = _KINDS[kind] if isinstance(kind, str) else kind.name
        raise DataError(f"{path}: array {name!r} has type {dtype}, but must be {right}; convert it")
    if kind == "S" and dtype.itemsize > _MAX_NAME:
        raise DataError(
            f"{path}: array {name!r} holds texts of {dtype.itemsize:,} bytes, but they may have at most "
            f"{_MAX_NAME:,}; shorten them"
        )
    wanted = {"()": (), "(12, R)": (12, sizes["R"]), "(R,)": (sizes["R"],), "(P,)": (sizes["P"],)}[words]
    if shape != wanted:
        raise DataError(
            f"{path}: array {name!r} has shape {shape}, but must be {words} = {wanted} "
            f"for P = {sizes['P']} chains ('length') and R = {sizes['R']} residues ('sequence')"
        )


def _check_step(path: Path, arrays: dict[str, np.ndarray]) -> None:
    step = float(arrays["step"])
    if not (np.isfinite(step) and step > 0):
        raise DataError(
            f"{path}: 'step' is {step}, which makes coordinates non-finite or flat; "
            "it must be a positive number of Å"
        )


def _check_names(path: Path, arrays: dict[str, np.ndarray]) -> None:
    names: dict[str, int] = {}
    for i, encoded in enumerate(arrays["id"].tolist(), 1):
        try:
            name = encoded.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{path}: the id {encoded!r} of chain {i} is not UTF-8; encode it so") from None
        if not name.strip() or not name.isprintable():
            what = "is empty" if not name.strip() else f"{name!r} holds characters that cannot be shown"
            raise DataError(f"{path}: the id of chain {i} {what}; give every chain a name")
        if (first := names.setdefault(name, i)) != i:
            raise DataError(
                f"{path}: chains {first} and {i} are both called {name!r}; give every chain an id of its own"
            )


def _check_lengths(path: Path, arrays: dict[str, np.ndarray]) -> None:
    lengths = arrays["length"]
    wrong = (lengths < 1) | (lengths > MAX_LENGTH)
    if wrong.any():
        i = int(wrong.argmax())
        raise DataError(
            f"{path}: chain {_name(arrays, i)!r} has length {lengths[i]}, but must have 1 to {MAX_LENGTH:,} "
            "residues; correct it or leave the chain out"
        )
    arrays["length"] = lengths.astype(np.int64)


def _check_numbers(path: Path, arrays: dict[str, np.ndarray]) -> None:
    first, most = arrays["first_residue_number"], np.iinfo(np.int32).max - MAX_LENGTH
    wrong = (first < -most) | (first > most)
    if wrong.any():
        i = int(wrong.argmax())
        raise DataError(
            f"{path}: the first residue of {_name(arrays, i)!r} has number {first[i]}, but must have one "
            f"from {-most:,} to {most:,}; correct 'first_residue_number'"
        )


def _check_sequence(path: Path, arrays: dict[str, np.ndarray]) -> None:
    lengths, letters = arrays["length"], arrays["sequence"]
    if lengths.sum() != letters.size:
        raise DataError(
            f"{path}: array 'length' adds up to {lengths.sum():,} residues, but 'sequence' and 'backbone' "
            f"hold {letters.size:,}; correct the lengths"
        )
    wrong = (letters < ord("A")) | (letters > ord("Z"))
    if wrong.any():
        place = int(wrong.argmax())
        ends = np.cumsum(lengths)
        i = int(np.searchsorted(ends, place, side="right"))
        number = arrays["first_residue_number"][i] + place - (ends[i] - lengths[i])
        raise DataError(
            f"{path}: {_name(arrays, i)}: residue {number} is {chr(letters[place])!r}, but must be one of "
            "the capital letters that stand for amino acids; correct 'sequence'"
        )


def _check_scale(path: Path, arrays: dict[str, np.ndarray]) -> None:
    steps = arrays["backbone"][:3]
    distances = np.sqrt(sum(row.astype(np.float32) ** 2 for row in steps)) * float(arrays["step"])
    if (fault := implausible(distances, arrays["length"])) is not None:
        raise DataError(
            f"{path}: consecutive CA atoms of {_name(arrays, fault.chain)} are {fault.distance:.3g} Å apart "
            f"in the median, but {CLOSEST:g} to {FARTHEST:g} Å is possible; correct 'step' or 'backbone', or "
            "leave the chain out"
        )


_CHECKS = {
    "step": _check_step,
    "id": _check_names,
    "length": _check_lengths,
    "first_residue_number": _check_numbers,
    "sequence": _check_sequence,
    "backbone": _check_scale,
}
"""What every array must hold, in the order of reading: small ones vouch for large ones."""


def _name(arrays: dict[str, np.ndarray], chain: int) -> str:
    return arrays["id"][chain].decode("utf-8", "replace")
