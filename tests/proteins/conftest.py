"""A small file of the right format, and a way to spoil it."""

from typing import Any

import numpy as np
import pytest

LENGTHS = (5, 3, 4, 2)


def tiny_arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    num_residues = sum(LENGTHS)
    return {
        "step": np.float32(0.05),
        "backbone": rng.integers(-100, 100, (12, num_residues), np.int8),
        "sequence": np.frombuffer(b"ARNDCQEGHILKMF", np.uint8),
        "length": np.array(LENGTHS, np.int32),
        "first_residue_number": np.array([1, -2, 10, 7], np.int32),
        "id": np.array([b"1ABC_A", b"2XYZ_B", b"3DEF_AA", b"4GHI_C"]),
        "ec_class": np.array([1, 0, 7, 3], np.int8),
        "cath": np.array([b"1.10.8.10", b"3.40.50.720", b"", b"2.60.40.10"]),
        "split": np.array([0, 0, 1, 0], np.int8),
        "split_superfamily": np.array([0, 1, -1, -1], np.int8),
    }


@pytest.fixture
def write(tmp_path):
    """write(name=array, ...) → path of the tiny file with those arrays replaced; None leaves one out."""

    def write(**changes):
        arrays = {k: v for k, v in (tiny_arrays() | changes).items() if v is not None}
        path = tmp_path / "tiny.npz"
        np.savez(path, **arrays)
        return path

    return write
