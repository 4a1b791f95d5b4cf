"""`partoken annotate`: results on disk, an exit code that says how it went, and mistakes in a sentence."""

import csv
import json
import os
import signal

import numpy as np
import pytest

from partoken_jax.cli import main
from partoken_jax.interpret.write import AnnotationFolder
from tests.cli.test_main import complaint
from tests.interpret.conftest import write_pdb
from tests.pretrained.conftest import make_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return str(make_run(tmp_path_factory.mktemp("model") / "run"))


@pytest.fixture
def folder(tmp_path, chains):
    """Two good structures and one that is none."""
    folder = tmp_path / "structures"
    folder.mkdir()
    write_pdb(folder / "one.pdb", chains[:2])
    write_pdb(folder / "two.pdb", chains[2:3])
    (folder / "bad.pdb").write_text("nothing\n")
    return folder


def ids(out):
    return [row["id"] for row in csv.DictReader((out / "predictions.csv").open())]


def test_a_folder_is_annotated_as_far_as_it_can_be(folder, tmp_path, capsys, run_dir):
    out = tmp_path / "out"
    assert main(["annotate", str(folder), "--model", run_dir, "--out", str(out)]) == 3
    assert ids(out) == ["one_A", "one_B", "two_A"]
    said = capsys.readouterr().out
    assert "one_A: " in said and "1 of 3 files gave no protein" in said
    assert f"left out: {folder}/bad.pdb: it " in said
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["state"] == "done" and len(manifest["inputs"]) == 3
    assert str(folder / "bad.pdb") in [entry["path"] for entry in manifest["skipped"]]
    assert manifest["model"]["task"] == "cath-class"


def test_exit_codes_of_all_and_none(folder, tmp_path, run_dir):
    good, bad = str(folder / "two.pdb"), str(folder / "bad.pdb")
    assert main(["annotate", good, "--model", run_dir, "--out", str(tmp_path / "a")]) == 0
    assert main(["annotate", bad, "--model", run_dir, "--out", str(tmp_path / "b")]) == 4


def test_a_list_names_files_from_its_own_folder(folder, tmp_path, run_dir):
    (folder / "list.txt").write_text("# mine\ntwo.pdb\n\none.pdb\n")
    out = tmp_path / "out"
    args = ["annotate", str(folder / "list.txt"), "--model", run_dir, "--out", str(out), "--chains", "A"]
    assert main(args) == 0
    assert ids(out) == ["two_A", "one_A"]


def test_structures_and_pages_are_files_of_the_annotations(folder, tmp_path, capsys, run_dir):
    out = tmp_path / "out"
    args = ["annotate", str(folder), "--model", run_dir, "--out", str(out)]
    assert main([*args, "--structures", "--pages"]) == 3
    assert "index.html shows them" in capsys.readouterr().out
    listed = set(json.loads((out / "manifest.json").read_text())["files"])
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert there == listed | {"manifest.json"}
    for name in ("one_A", "one_B", "two_A"):
        assert {f"proteins/{name}.{kind}" for kind in ("json", "cif", "pdb", "pml", "html")} <= there
    assert main([*args, "--overwrite"]) == 3
    assert not (out / "index.html").exists() and not (out / "proteins" / "one_A.cif").exists()


def test_what_a_list_names_may_be_missing(folder, tmp_path, capsys, run_dir):
    (folder / "list.txt").write_text("\ufefftwo.pdb\nnowhere.pdb\n")
    out = tmp_path / "out"
    assert main(["annotate", str(folder / "list.txt"), "--model", run_dir, "--out", str(out)]) == 3
    assert ids(out) == ["two_A"]
    assert f"left out: {folder}/nowhere.pdb: it is not a file" in capsys.readouterr().out


def test_annotations_are_never_read_as_structures(folder, tmp_path, run_dir, monkeypatch):
    monkeypatch.chdir(folder)
    args = ["annotate", ".", "--model", run_dir, "--structures"]
    for more in ([], ["--overwrite"], ["--out", "elsewhere"]):
        assert main([*args, *more]) == 3
    assert ids(folder / "annotation") == ids(folder / "elsewhere") == ["one_A", "one_B", "two_A"]


def test_two_files_of_one_name(folder, tmp_path, capsys, chains, run_dir):
    (folder / "more").mkdir()
    write_pdb(folder / "more" / "two.pdb", chains[:1])
    out = tmp_path / "out"
    (folder / "more" / "two.cif").write_bytes((folder / "more" / "two.pdb").read_bytes())
    write_pdb(folder / "more" / "two.ent", chains[:1])
    assert main(["annotate", str(folder), "--model", run_dir, "--out", str(out)]) == 3
    assert sorted(ids(out)) == ["more_two_A", "one_A", "one_B", "structures_two_A"]
    said = capsys.readouterr().out
    assert f"more_two_A of {folder}/more/two.pdb: another protein has the same name" in said


@pytest.mark.parametrize("table", ["csv", "parquet"])
def test_sigterm_leaves_what_was_done(table, folder, tmp_path, capsys, run_dir, monkeypatch):
    if table == "parquet":
        pytest.importorskip("pyarrow")
    handler, add, out = signal.getsignal(signal.SIGTERM), AnnotationFolder.add, tmp_path / "out"

    def stopping(self, annotation):
        stem = add(self, annotation)
        if len(self.names) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return stem

    monkeypatch.setattr(AnnotationFolder, "add", stopping)
    args = ["annotate", str(folder), "--model", run_dir, "--out", str(out), "--format", table]
    assert main(args) == 130 and "interrupted" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == handler
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["state"], manifest["proteins"]) == ("stopped", 2)
    if table == "csv":
        assert ids(out) == ["one_A", "one_B"]
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        assert pq.read_table(out / "predictions.parquet")["id"].to_pylist() == ["one_A", "one_B"]
    with np.load(out / "embeddings.npz") as arrays:
        assert {name for name in arrays if name.startswith("protein/")} == {"protein/one_A", "protein/one_B"}


def test_mistakes_change_nothing(folder, tmp_path, capsys, run_dir):
    out = tmp_path / "out"
    good = str(folder / "two.pdb")
    assert "nowhere.pdb" in complaint(capsys, "annotate", "nowhere.pdb", "--out", str(out))
    assert "no model" in complaint(capsys, "annotate", good, "--model", "cath-clas", "--out", str(out))
    assert "max_length" in complaint(capsys, "annotate", good, "--max-length", "0", "--out", str(out))
    assert "no source" in complaint(capsys, "annotate", "--out", str(out))
    (folder / "empty.txt").write_text("\n")
    assert "empty.txt" in complaint(capsys, "annotate", str(folder / "empty.txt"), "--out", str(out))
    assert not out.exists()
    assert "holds other files" in complaint(capsys, "annotate", good, "--out", str(folder))
    assert main(["annotate", good, "--model", run_dir, "--out", str(out)]) == 0
    capsys.readouterr()
    assert "--overwrite" in complaint(capsys, "annotate", good, "--model", run_dir, "--out", str(out))
