"""A right file of proteins, what writes it wrongly, and files that no reader should read whole."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

LENGTHS = (12, 9, 15, 8, 10, 11)
Make = Callable[[Path], Any]


def proteins() -> dict[str, Any]:
    """Six chains with residues 3.8 Å apart: four to train on, of two classes, and one each to validate and to
    test."""
    rng = np.random.default_rng(0)
    steps = rng.normal(size=(4, sum(LENGTHS), 3))
    steps *= (np.array([3.8, 1.46, 1.52, 2.4]) / 0.05)[:, None, None] / np.linalg.norm(
        steps, axis=-1, keepdims=True
    )
    return {
        "step": np.float32(0.05),
        "backbone": steps.transpose(0, 2, 1).reshape(12, -1).astype(np.int8),
        "sequence": np.frombuffer(b"ARNDCQEGHILKMFPSTWYV" * 4, np.uint8)[: sum(LENGTHS)],
        "length": np.array(LENGTHS, np.int32),
        "first_residue_number": np.array([1, -2, 10, 7, 1, 1], np.int32),
        "id": np.array([b"1ABC_A", b"2XYZ_B", b"3DEF_AA", b"4GHI_C", b"5JKL_A", b"6MNO_A"]),
        "ec_class": np.array([1, 2, 1, 2, 1, 2], np.int8),
        "cath": np.array([b"1.10.8.10", b"3.40.50.720", b"", b"2.60.40.10", b"1.10.8.10", b"3.40.50.720"]),
        "split": np.array([0, 0, 0, 0, 1, 2], np.int8),
        "split_superfamily": np.array([0, 1, -1, -1, 2, 0], np.int8),
    }


def data(**changes: Any) -> Make:
    """Writes data.npz with arrays replaced; None leaves one out."""

    def make(folder: Path) -> None:
        arrays = {name: array for name, array in (proteins() | changes).items() if array is not None}
        np.savez(folder / "data.npz", **arrays)

    return make


def changed(name: str, place: Any, value: Any, dtype: Any = None) -> Make:
    """Writes data.npz with one value of an array replaced."""
    array = proteins()[name].astype(dtype) if dtype else proteins()[name].copy()
    array[place] = value
    return data(**{name: array})


def write(name: str, content: bytes | str) -> Make:
    """Writes a file."""
    encoded = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(encoded)


def sparse(name: str, size: int, start: bytes = b"") -> Make:
    """Writes a file of many zeros that takes no room."""

    def make(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.write(start)
            file.truncate(size)

    return make


def with_members(name: str, members: list[tuple[str, bytes]]) -> Make:
    """Writes data.npz of the arrays of `proteins`, but for the one called `name`, and other members."""

    def make(folder: Path) -> None:
        arrays = proteins()
        arrays.pop(name, None)
        np.savez(folder / "data.npz", **arrays)
        with zipfile.ZipFile(folder / "data.npz", "a") as file:
            for member, content in members:
                file.writestr(member, content)

    return make


def claimed(shape: Any, descr: str = "|i1", payload: bytes = b"\1" * 100) -> bytes:
    """An .npy file whose header claims a shape."""
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + payload


def claims(name: str, shape: Any, descr: str = "|i1") -> Make:
    """Writes data.npz in which an array claims a shape that it does not have."""
    return with_members(name, [(f"{name}.npy", claimed(shape, descr))])


def bomb(name: str, member: str, shape: tuple[int, ...]) -> Make:
    """Writes a zip file of one array of zeros, a thousand times smaller than what it holds."""

    def make(folder: Path) -> None:
        head = claimed(shape, payload=b"")
        block = 2**24
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed_head = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
        packed_block = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
        count = int(np.prod(shape, dtype=object)) // block
        packed = packed_head + packed_block * count + packer.flush(zlib.Z_FINISH)
        size, encoded = len(head) + block * count, member.encode()
        # The checksum, 0, is wrong, which is known only at the end of the reading that must not begin.
        fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 0, 0, len(packed), size, len(encoded), 0)
        local = b"PK\x03\x04" + fields + encoded
        directory = (
            b"PK\x01\x02" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, 0) + encoded
        )
        where = len(local) + len(packed)
        end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), where, 0)
        (folder / name).write_bytes(local + packed + directory + end)

    return make
