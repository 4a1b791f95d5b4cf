"""Opens .npz files with suspicion: what an array claims to be is known, and checked, before it is read.

`np.load` reads whatever a file declares. A few kilobytes can declare gigabytes, and an array of objects is a
program. Here the size of a file bounds what is read of it.
"""

import contextlib
import math
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from partoken_jax.files import unreadable
from partoken_jax.proteins.protein import DataError

MAX_EXPANSION = 100
"""How many times its size a file may take in memory. Coordinates pack to a half, zeros a thousandfold."""
_MAY_EXPAND = 2**26
"""Bytes; a file that takes no more may be packed as well as it likes."""


class Header(NamedTuple):
    """What an array claims to be."""

    dtype: np.dtype
    shape: tuple[int, ...]


class Archive:
    """The arrays of an open .npz file by name."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path, self._file = path, file
        self._members = {_array_name(info): info for info in file.infolist()}
        self.headers: dict[str, Header] = {}
        """What the arrays that `check` has looked at claim to be."""

    @property
    def names(self) -> list[str]:
        """Names of all arrays."""
        return list(self._members)

    def header(self, name: str) -> Header:
        """What an array claims to be. Raises DataError for one that cannot be read, or not safely."""
        if name not in self.headers:
            member = self._members[name]
            with self._open(name) as stream:
                read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
                version = npy.read_magic(stream)
                if version not in read:
                    raise ValueError(f"unknown .npy version {version}")
                shape, _, dtype = read[version](stream)
                start = stream.tell()
            if dtype.hasobject:
                raise DataError(
                    f"{self.path}: array {name!r} holds Python objects, which can run any code when they are "
                    "read; write numbers or bytes"
                )
            size = math.prod(shape) * dtype.itemsize
            if start + size != member.file_size:
                raise DataError(
                    f"{self.path}: array {name!r} claims shape {shape} of {dtype}, which takes {size:,} "
                    f"bytes, but {member.file_size - start:,} are there; write the file anew"
                )
            self.headers[name] = Header(dtype, shape)
        return self.headers[name]

    def read(self, name: str) -> np.ndarray:
        """An array. Raises DataError for one that cannot be read, or not safely."""
        self.header(name)
        with self._open(name) as stream:
            return np.asarray(npy.read_array(stream, allow_pickle=False))

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        try:
            with self._file.open(self._members[name]) as stream:
                yield stream
        except DataError:
            raise
        except Exception as error:  # what a damaged array raises depends on where it is damaged
            raise DataError(
                f"{self.path}: array {name!r} cannot be read ({_reason(error)}); write the file anew"
            ) from None


def check_archive(path: Path) -> None:
    """Raises DataError for what is no regular file or no zip file by its end."""
    if reason := unreadable(path):
        raise DataError(
            f"{path}: {reason}; give the path of a .npz file or of a prepared set, or none for the embedded "
            "proteins"
        )
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not a readable .npz file; write it with np.savez")


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Opens an .npz file.

    Raises DataError for what is no regular file, no zip file or an empty one, names an array twice, or would
    take more memory than `MAX_EXPANSION` times its size.
    """
    check_archive(path)
    try:
        file = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{path}: not a readable .npz file ({_reason(error)}); write it with np.savez"
        ) from None
    with file:
        counts = Counter(_array_name(info) for info in file.infolist())
        if not counts:
            raise DataError(f"{path}: holds no arrays; write it with np.savez")
        [(name, count)] = counts.most_common(1)
        if count > 1:
            raise DataError(f"{path}: holds {count} arrays called {name!r}; write the file anew")
        size, expanded = path.stat().st_size, sum(info.file_size for info in file.infolist())
        if expanded > max(_MAY_EXPAND, MAX_EXPANSION * size):
            raise DataError(
                f"{path}: has {size:,} bytes that would take {expanded:,} in memory, more than "
                f"{MAX_EXPANSION} times as many; check where it comes from, or write it with np.savez"
            )
        yield Archive(path, file)


def _array_name(info: zipfile.ZipInfo) -> str:
    return info.filename.removesuffix(".npy")


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".") or type(error).__name__
