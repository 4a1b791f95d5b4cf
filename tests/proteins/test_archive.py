"""Archives are read as NumPy reads them, where they are what they say."""

import numpy as np
import pytest

from partoken_jax.proteins import DataError
from partoken_jax.proteins.archive import open_archive

ARRAYS = {
    "numbers": np.arange(12, dtype=">i4").reshape(3, 4),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "texts": np.array([b"a", b"bc"]),
    "one": np.float32(0.05),
    "none": np.zeros((0, 3), np.int8),
    "records": np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_that_numpy_reads(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    with open_archive(tmp_path / "a.npz") as archive, np.load(tmp_path / "a.npz") as expected:
        assert archive.names == list(ARRAYS)
        for name in archive.names:
            got = archive.read(name)
            assert archive.header(name) == (got.dtype, got.shape)
            assert got.dtype == expected[name].dtype
            np.testing.assert_array_equal(got, expected[name])


def test_what_packs_well_is_read_while_it_is_small(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", zeros=np.zeros(10**6))
    with open_archive(tmp_path / "a.npz") as archive:
        assert archive.read("zeros").nbytes == 8 * 10**6
    np.savez_compressed(tmp_path / "b.npz", zeros=np.zeros(10**7))
    with pytest.raises(DataError, match=r"b\.npz: has .* bytes that would take 80,000,"):
        open_archive(tmp_path / "b.npz").__enter__()
