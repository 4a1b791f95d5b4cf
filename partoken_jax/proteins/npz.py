"""Reads the .npz format that data/README.md describes, and checks it."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

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
_BASE = ("step", "backbone", "sequence", "length", "first_residue_number", "id")
_KINDS = {"f": "floating point", "iu": "integer", "i": "signed integer", "S": "bytes"}


def read_arrays(path: Path, also: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The geometry and names of all chains of a file, and the arrays named in `also`.

    Raises DataError for a file that cannot be read, or an array that is missing, has the wrong
    type or shape, or contradicts another.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file; give the path of a .npz, or none for the embedded proteins")
    arrays = {}
    try:
        # Opened as a zip first: np.load would take other files for pickles and say so.
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            missing = [name for name in (*_BASE, *also) if name not in archive.files]
            if missing:
                raise DataError(
                    f"{path}: array {', '.join(map(repr, missing))} is missing; "
                    f"the task and split chosen need {', '.join((*_BASE, *also))}"
                )
            for name in (*_BASE, *also):
                arrays[name] = _read(archive, name, path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: not a readable .npz file ({error}); write it with np.savez") from None
    _check(arrays, path)
    return arrays


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


def _read(archive, name: str, path: Path) -> np.ndarray:
    try:
        return np.asarray(archive[name])
    except (ValueError, zlib.error, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: array {name!r} cannot be read ({error}); write the file anew") from None


def _check(arrays: dict[str, np.ndarray], path: Path) -> None:
    sizes = {"P": arrays["length"].size, "R": arrays["sequence"].size}
    for name, array in arrays.items():
        kind, words = _FORMAT[name]
        good = array.dtype.kind in kind if isinstance(kind, str) else array.dtype == kind
        if not good:
            wanted = _KINDS[kind] if isinstance(kind, str) else kind.name
            raise DataError(f"{path}: array {name!r} has type {array.dtype}, but must be {wanted}")
        shape = {"()": (), "(12, R)": (12, sizes["R"]), "(R,)": (sizes["R"],), "(P,)": (sizes["P"],)}[words]
        if array.shape != shape:
            raise DataError(
                f"{path}: array {name!r} has shape {array.shape}, but must be {words} = {shape} "
                f"for P = {sizes['P']} chains ('length') and R = {sizes['R']} residues ('sequence')"
            )
    lengths = arrays["length"] = arrays["length"].astype(np.int64)
    if (lengths < 1).any():
        i = int((lengths < 1).argmax())
        raise DataError(
            f"{path}: chain {arrays['id'][i].decode('latin-1')!r} has length {lengths[i]}; "
            "leave it out or give at least 1"
        )
    if lengths.sum() != sizes["R"]:
        raise DataError(
            f"{path}: array 'length' adds up to {lengths.sum()} residues, "
            f"but 'sequence' and 'backbone' hold {sizes['R']}; correct the lengths"
        )
    step = float(arrays["step"])
    if not (np.isfinite(step) and step > 0):
        raise DataError(
            f"{path}: 'step' is {step}, which makes coordinates non-finite or flat; "
            "it must be a positive number of Å"
        )
