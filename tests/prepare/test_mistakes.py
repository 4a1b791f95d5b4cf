"""A mistake is answered in a sentence that names the file, and leaves nothing behind."""

import os

import pytest

from partoken_jax.cli import main
from tests.structure_files import chain_of, structure_of, write_structure

LABELS = {
    "no id": ("name,a\n1abc,x\n", "no column 'id'"),
    "no lines": ("", "no column 'id'"),
    "two ids": ("id,a\n1abc,x\n1abc,y\n", "line 3: the id '1abc' stands twice"),
    "an empty id": ("id,a\n,x\n", "line 2: the id is empty"),
    "a value too many": ("id,a\n1abc,x,y\n", "line 2: has not one value"),
    "a value too few": ("id,a,b\n1abc,x\n", "line 2: has not one value"),
    "one class": ("id,a\n1abc,x\n2xyz,x\n", "column 'a' has only one class, 'x'"),
    "no class": ("id,a\n1abc,\n2xyz,\n", "column 'a' has no class"),
    "two columns": ("id,a,a\n1abc,x,y\n", "two columns called 'a'"),
    "a path": ("id,../a\n1abc,x\n", "'../a'"),
    "no name": ("id,\n1abc,x\n", "called ''"),
    "a split": ("id,a,split\n1abc,x,training\n", "split is 'training'"),
    "nobody's": ("id,a\nq,x\nw,y\n", "none of its ids is that of a file, such as '1abc'"),
    "nobody's chain": (
        "id,a\n1abc_Q,x\n2xyz_Q,y\n",
        "none of its ids is that of a protein, such as '1abc_A'",
    ),
}


@pytest.fixture
def complaint(capsys, tmp_path):
    """complaint(arguments...) → the sentence with which `partoken prepare` refuses; no file has changed."""

    def complaint(*words) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(["prepare", *map(str, words)]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
        assert sorted(tmp_path.rglob("*")) == before
        return captured.err

    return complaint


@pytest.mark.parametrize("text, words", LABELS.values(), ids=LABELS)
def test_labels(text, words, structures, table, tmp_path, complaint):
    said = complaint(structures, tmp_path / "out", "--labels", table(text), "--workers", "1")
    assert "labels.csv" in said and words in said


def test_labels_that_are_no_text(structures, tmp_path, complaint):
    (tmp_path / "l.csv").write_bytes(b"id,a\n\xff\xfe,x\n")
    assert "l.csv: cannot be read as CSV" in complaint(
        structures, tmp_path / "out", "--labels", tmp_path / "l.csv"
    )
    assert "nowhere.csv: cannot be read (No such file or directory); check the path" in complaint(
        structures, tmp_path / "out", "--labels", tmp_path / "nowhere.csv"
    )
    assert "pdbs: is not a file" in complaint(structures, tmp_path / "out", "--labels", structures)
    assert "zero: is not a file" in complaint(structures, tmp_path / "out", "--labels", "/dev/zero")


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--neighbours", "0"), "neighbours is 0"),
        (("--neighbours", "1000000"), "neighbours is 1000000"),
        (("--workers", "0"), "workers is 0"),
        (("--workers", "-4"), "workers is -4"),
        (("--seed=-1",), "seed is -1"),
        (("--split", "0.8,0.2"), "split is 0.8,0.2"),
        (("--split", "0.8,0.1,0.2"), "split is 0.8,0.1,0.2"),
        (("--split", "nan,0.5,0.5"), "split is nan,0.5,0.5"),
        (("--split", "1.5,-0.5,0"), "split is 1.5,-0.5,0"),
        (("--split", "a,b,c"), "split is 'a,b,c'"),
        (("--chains", "Q"), "there is no protein that can be used"),
        (("--root", "somewhere"), "somewhere: only proteinshake-ec"),
    ],
)
def test_flags(flags, words, structures, tmp_path, complaint):
    assert words in complaint(structures, tmp_path / "out", *flags)


def test_sources(structures, some_npz, table, tmp_path, complaint):
    out = tmp_path / "out"
    assert "at least one source" in complaint(out)
    assert "nowhere: no such file" in complaint(tmp_path / "nowhere", out)
    assert "is no structure file by its name" in complaint(table(), out)
    assert "is a data set of its own" in complaint(some_npz, structures, out)
    assert "leave out --labels" in complaint(some_npz, out, "--labels", table())
    assert "leave out --chains" in complaint(some_npz, out, "--chains", "A")
    assert "leave out --split" in complaint(some_npz, out, "--split", "0.8,0.1,0.1")
    assert "leave out --split" in complaint(structures, out, "--labels", table(), "--split", "0.8,0.1,0.1")
    (tmp_path / "empty").mkdir()
    assert "holds no structure files" in complaint(tmp_path / "empty", out)
    (tmp_path / "file").touch()
    assert "file is a file; name another folder" in complaint(structures, tmp_path / "file" / "no" / "out")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "a.pdb").write_text("nothing")
    assert "no protein that can be used" in complaint(tmp_path / "nothing", tmp_path / "new" / "deep" / "out")
    (tmp_path / "bad.npz").write_bytes(b"PK\3\4 no zip")
    assert "bad.npz: not a readable .npz" in complaint(tmp_path / "bad.npz", out)
    (tmp_path / "weights.pt").write_bytes(b"")
    assert "can run code" in complaint(tmp_path / "weights.pt", out)
    assert "no such file; put ProteinShake's file there" in complaint(
        "proteinshake-ec", out, "--root", tmp_path
    )


def test_two_files_of_one_name(structures, chains, tmp_path, complaint):
    write_structure(structures / "1abc.cif", structure_of([chain_of(chains[0], "A")]))
    said = complaint(structures, tmp_path / "out")
    assert "1abc.pdb" in said and "1abc.cif" in said and "one name" in said


def test_nothing_but_what_cannot_be_used(tmp_path, complaint):
    (tmp_path / "pdbs").mkdir()
    (tmp_path / "pdbs" / "a.pdb").write_text("nothing")
    os.mkfifo(tmp_path / "pdbs" / "b.pdb")
    said = complaint(tmp_path / "pdbs", tmp_path / "out", "--workers", "1")
    assert "there is no protein that can be used; a: it holds no atoms" in said
