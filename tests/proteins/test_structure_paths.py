"""What files are called, and that no folder is passed over in silence."""

import os
from pathlib import Path

import pytest

from partoken_jax.proteins import DataError
from partoken_jax.proteins.structure_paths import file_names, structure_files


@pytest.mark.parametrize(
    "names",
    [
        {"a.pdb": "a", "b.cif.gz": "b"},
        {"job1/r.pdb": "job1_r", "job2/r.cif": "job2_r", "job2/s.pdb": "s"},
        {"r.pdb": "r", "job1/r.pdb": "job1_r"},
        {"a/1/r.pdb": "a_1_r", "b/1/r.pdb": "b_1_r"},
        {"/1/r.pdb": "1_r", "/b/1/r.pdb": "b_1_r"},
        # No folder tells these apart.
        {"job1/r.pdb": "r", "job1/r.cif": "r"},
        {"job1/r.pdb": "job1_r", "job1/r.cif": "job1_r", "job2/r.pdb": "job2_r"},
    ],
)
def test_files_of_one_name_are_called_by_their_folders(names):
    assert file_names(map(Path, names)) == {Path(path): name for path, name in names.items()}


def test_a_folder_that_cannot_be_read_is_answered(tmp_path, monkeypatch):
    closed = tmp_path / "closed"
    closed.mkdir()
    (tmp_path / "x.pdb").touch()
    scan = os.scandir

    def scandir(path):
        if Path(path) == closed:  # as for a user without the right, which root always has
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert structure_files(tmp_path) == [closed, tmp_path / "x.pdb"]
    with pytest.raises(DataError, match=r"closed: cannot be read \(permission denied\)"):
        structure_files(closed)
