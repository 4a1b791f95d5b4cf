"""The folder of annotations: complete, documented, written once, and never over something else."""

import csv
import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from partoken_jax.config import ConfigError
from partoken_jax.interpret import tables
from partoken_jax.interpret.annotate import annotate
from partoken_jax.interpret.tables import as_json
from partoken_jax.interpret.write import AnnotationFolder
from partoken_jax.proteins.structures import Skipped

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "annotate.md"


@pytest.fixture(scope="module")
def annotations(model, chains):
    return list(annotate(chains[:3], model))


def write(path, annotations, **settings):
    with AnnotationFolder(path, annotations[0].class_names, **settings) as folder:
        for annotation in annotations:
            folder.add(annotation)
        folder.finish({"command": "as given"}, [Skipped("x", "file", "why", "x.pdb")])
    return path


def test_tables_json_and_arrays_say_the_same(tmp_path, annotations):
    folder = write(tmp_path / "out", annotations)
    rows = {
        name: list(csv.DictReader((folder / f"{name}.csv").open()))
        for name in ("predictions", "clusters", "residues")
    }
    arrays = np.load(folder / "embeddings.npz")
    assert [row["id"] for row in rows["predictions"]] == [a.protein.name for a in annotations]
    for annotation, row in zip(annotations, rows["predictions"], strict=True):
        name = annotation.protein.name
        stored = json.loads((folder / "proteins" / f"{name}.json").read_text())
        assert stored == json.loads(json.dumps(as_json(annotation)))
        assert row["pred_label"] == stored["prediction_name"]
        assert float(row["top1_prob"]) == stored["confidence"] == max(stored["probabilities"])
        clusters = [r for r in rows["clusters"] if r["id"] == name]
        for mine, blob in zip(clusters, stored["blobs"], strict=True):
            assert mine["residues"].split() == blob["residue_numbers"]
            assert (int(mine["rank"]), int(mine["token"])) == (blob["rank"], blob["token"])
            assert stored["blob_composition"][str(blob["blob"])] == blob["residue_indices"]
        residues = [r for r in rows["residues"] if r["id"] == name]
        assert [int(r["cluster"] or 0) for r in residues] == stored["residues"]["rank"]
        assert "".join(r["type"] for r in residues) == stored["sequence"]
        np.testing.assert_array_equal(arrays[f"residues/{name}"], annotation.residue_features)
        assert arrays[f"clusters/{name}"].shape[0] == stored["num_valid_blobs"]
        np.testing.assert_array_equal(arrays[f"protein/{name}"], annotation.protein_features)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["state"] == "done" and manifest["proteins"] == 3
    assert manifest["skipped"] == [{"name": "x", "what": "file", "reason": "why", "path": "x.pdb"}]
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert there == {*manifest["files"], "manifest.json"}


def test_equal_annotations_give_equal_files(tmp_path, annotations):
    one, other = write(tmp_path / "one", annotations), write(tmp_path / "other", annotations)
    for path in one.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (other / path.relative_to(one)).read_bytes(), path


def test_every_field_is_documented_and_no_other(tmp_path, annotations):
    folder = write(tmp_path / "out", annotations)
    text = GUIDE.read_text()
    parts = {
        "predictions": text.split("column of predictions.csv")[1].split("column of clusters.csv")[0],
        "clusters": text.split("column of clusters.csv")[1].split("column of residues.csv")[0],
        "residues": text.split("column of residues.csv")[1].split("## ")[0],
    }
    for name, part in parts.items():
        columns = (folder / f"{name}.csv").read_text().splitlines()[0].split(",")
        columns = ["prob_CLASS" if column.startswith("prob_") else column for column in columns]
        assert _named(part) == set(columns), name
    stored = as_json(annotations[0])
    fields = text.split("| field | meaning |")[1]
    inner = set(stored["blobs"][0]) | set(stored["residues"])
    listed = _named(fields) | {word for word in fields.split("`")[1::2]}
    assert set(stored) | inner == listed


def _named(part):
    """The names in the first column of a table."""
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {word for cell in cells for word in cell.split("`")[1::2]}


def test_other_files_are_never_touched(tmp_path, annotations):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        write(out, annotations)
    with pytest.raises(ConfigError, match="holds other files"):
        write(out, annotations, overwrite=True)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_annotations_are_replaced_on_request_alone(tmp_path, annotations):
    out = write(tmp_path / "out", annotations)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="--overwrite"):
        write(out, annotations)
    write(out, annotations[:1], overwrite=True)
    assert [path.stem for path in (out / "proteins").iterdir()] == [annotations[0].protein.name]
    assert (out / "notes.txt").read_text() == "mine"


def test_csv_holds_every_protein_as_soon_as_it_is_added(tmp_path, annotations):
    with AnnotationFolder(tmp_path / "out", annotations[0].class_names) as folder:
        for number, annotation in enumerate(annotations, 1):
            folder.add(annotation)
            for name in ("predictions", "clusters", "residues"):
                with (tmp_path / "out" / f"{name}.csv").open() as file:
                    ids = list(dict.fromkeys(row["id"] for row in csv.DictReader(file)))
                assert ids == [a.protein.name for a in annotations[:number]]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_all_files_hold_a_protein_during_which_the_run_is_stopped(number, tmp_path, annotations, monkeypatch):
    rows = tables.residue_rows

    def stopped(annotation):
        if annotation is annotations[1]:
            os.kill(os.getpid(), number)
        return rows(annotation)

    def heard(number, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "residue_rows", stopped)
    earlier = signal.signal(number, heard)
    try:
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, annotations)
        assert signal.getsignal(number) == heard
    finally:
        signal.signal(number, earlier)
    names = [annotation.protein.name for annotation in annotations[:2]]
    for table in ("predictions", "clusters", "residues"):
        ids = [row["id"] for row in csv.DictReader((tmp_path / f"{table}.csv").open())]
        assert list(dict.fromkeys(ids)) == names
    with np.load(tmp_path / "embeddings.npz") as arrays:
        assert [f"protein/{name}" in arrays for name in names] == [True, True]
    assert json.loads((tmp_path / "manifest.json").read_text())["proteins"] == 2


def test_an_interrupted_folder_can_be_written_again(tmp_path, annotations):
    with (
        pytest.raises(KeyboardInterrupt),
        AnnotationFolder(tmp_path / "out", annotations[0].class_names) as folder,
    ):
        folder.add(annotations[0])
        raise KeyboardInterrupt
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["state"] == "stopped"
    write(tmp_path / "out", annotations, overwrite=True)


def test_what_a_killed_run_left_is_cleared(tmp_path, annotations):
    """It could list nothing."""
    out = write(tmp_path / "out", annotations)
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"state": "running", "files": []}))
    write(out, annotations[:1], overwrite=True)
    assert [path.stem for path in (out / "proteins").iterdir()] == [annotations[0].protein.name]


@pytest.mark.parametrize("name", ["名" * 100, "prot\udce9ine", "a/b:c*d", "x" * 300])
def test_any_name_becomes_a_file(tmp_path, annotations, name):
    named = name.encode(errors="backslashreplace").decode()  # as `annotate` does
    protein = dataclasses.replace(annotations[0].protein, name=named)
    folder = write(tmp_path / "out", [dataclasses.replace(annotations[0], protein=protein)])
    (path,) = (folder / "proteins").iterdir()
    assert json.loads(path.read_text())["name"] == named
    assert np.load(folder / "embeddings.npz")[f"protein/{named}"].ndim == 1


def test_a_protein_of_the_same_name_is_not_written_over(tmp_path, annotations):
    with AnnotationFolder(tmp_path / "out", annotations[0].class_names) as folder:
        assert folder.add(annotations[0]) and folder.add(annotations[0]) is None
        folder.finish({}, [])
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 2


def test_parquet_has_the_rows_of_csv(tmp_path, annotations):
    pq = pytest.importorskip("pyarrow.parquet")
    plain, packed = write(tmp_path / "a", annotations), write(tmp_path / "b", annotations, table="parquet")
    for name in ("predictions", "clusters", "residues"):
        rows = pq.read_table(packed / f"{name}.parquet").to_pylist()
        as_text = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
        assert as_text == list(csv.DictReader((plain / f"{name}.csv").open()))
