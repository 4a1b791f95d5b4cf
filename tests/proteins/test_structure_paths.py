"""What files are called, and that no folder is passed over in silence."""

import os
from pathlib import Path

import pytest

from partoken_jax.proteins import DataError
from partoken_jax.proteins.structure_paths import each_once, file_names, structure_files


@pytest.mark.parametrize(
    "names",
    [
        {"a.pdb": "a", "b.cif.gz": "b"},
        {"job1/r.pdb": "job1_r", "job2/r.cif": "job2_r", "job2/s.pdb": "s"},
        {"r.pdb": "r", "job1/r.pdb": "job1_r"},
        {"a/1/r.pdb": "a_1_r", "b/1/r.pdb": "b_1_r"},
        {"/1/r.pdb": "1_r", "/b/1/r.pdb": "b_1_r"},
        {"lists/../r.pdb": "r", "lists/../job1/r.pdb": "job1_r"},
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
    (tmp_path / "x.pdb").unlink()
    for path in (closed, tmp_path):
        with pytest.raises(DataError, match=r"closed: cannot be read \(permission denied\)"):
            structure_files(path)


def test_a_file_that_is_named_by_several_paths_is_one(tmp_path):
    (tmp_path / "more").mkdir()
    paths = [tmp_path / "x.pdb", tmp_path / "more" / ".." / "x.pdb", tmp_path / "link.pdb"]
    paths[0].touch()
    paths[2].symlink_to(paths[0])  # which is another protein by its name
    assert each_once(paths) == [paths[0], paths[2]]


def test_links_to_folders_are_followed_and_no_folder_is_read_twice(tmp_path):
    for place in ("pdbs/b/x.pdb", "pdbs/c/deep/y.pdb", "elsewhere/z.pdb"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    for link, target in (
        ("pdbs/a", "pdbs/b"),  # whose name comes first
        ("pdbs/c/loop", "pdbs"),
        ("pdbs/c/more", "elsewhere"),
        ("pdbs/d", "elsewhere"),
        ("elsewhere/again", "elsewhere"),
        ("whole", "pdbs"),
    ):
        (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
    (tmp_path / "pdbs" / "itself").symlink_to(tmp_path / "pdbs" / "itself")
    for top in ("pdbs", "whole"):
        files = structure_files(tmp_path / top)
        assert [str(file.relative_to(tmp_path / top)) for file in files] == [
            "b/x.pdb", "c/deep/y.pdb", "c/more/z.pdb",
        ]  # fmt: skip
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "all").symlink_to(tmp_path / "pdbs")
    assert len(structure_files(tmp_path / "links")) == 3


def test_names_that_are_no_text_become_text():
    files = [Path("job\udce9/r\udce9.pdb"), Path("job/r\udce9.pdb")]
    assert list(file_names(files).values()) == ["job\\udce9_r\\udce9", "job_r\\udce9"]
