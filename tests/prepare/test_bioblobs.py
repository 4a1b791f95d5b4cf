"""The layouts of BioBlobs, from small files as its code writes them."""

import json
from math import inf

import numpy as np
import pytest

from partoken_jax.cli import main
from partoken_jax.prepare import bioblobs, prepare
from tests.structure_files import chain_of, structure_of, write_structure

PARTS = {"train": (0, 1, 2), "val": (3,), "test": (4, 5)}


def write_json(folder, chains, name="ec", label=lambda i: i % 2, classes=("1", "3"), indent=2):
    """The published layout: a file for each split, `Infinity` where an atom is missing."""
    folder.mkdir(parents=True)
    for split, members in PARTS.items():
        proteins = []
        for i in members:
            coordinates = chains[i].backbone.astype(float).tolist()
            coordinates[2][3] = [inf, inf, inf]
            proteins.append(
                {
                    "name": f'{i}A"{{',
                    "seq": chains[i].sequence[:-1] + "X",
                    "coords": coordinates,
                    "label": label(i),
                }
            )
        (folder / f"{name}_{split}.json").write_text(json.dumps(proteins, indent=indent))
        (folder / f"{name}_{split}_filtered_indices.json").write_text(json.dumps(list(members)))
    (folder / f"{name}_token_map.json").write_text(json.dumps({k: i for i, k in enumerate(classes)}))
    return folder


@pytest.mark.parametrize("indent", [None, 2])
def test_the_published_layout(indent, chains, tmp_path, load, monkeypatch):
    monkeypatch.setattr(bioblobs, "CHUNK", 2)
    folder = write_json(tmp_path / "ec" / "structure", chains, indent=indent)
    prepare([str(folder)], tmp_path / "out", workers=1, neighbours=4)
    found = load(tmp_path / "out")
    assert found["id"].tolist() == [f'{i}A"{{'.encode() for i in range(6)]
    assert found["json"]["labels"]["ec-class"]["classes"] == ["oxidoreductase", "hydrolase"]
    assert found["labels/ec-class"].tolist() == [0, 1, 0, 1, 0, 1]
    assert found["splits/structure"].tolist() == [0, 0, 0, 1, 2, 2]
    for i in range(6):
        part = slice(*found["start"][i : i + 2])
        expected = chains[i].backbone.copy()
        expected[2, 3] = np.nan
        np.testing.assert_array_equal(found["backbone"][part], expected)
        assert found["sequence"][part].tobytes().decode() == chains[i].sequence[:-1] + "X"


def test_several_classes_in_the_published_layout(chains, tmp_path, load):
    def label(i):
        return [i % 2 == 0, i < 3, True]

    terms = ("GO:1", "GO:2", "GO:3")
    folder = write_json(tmp_path / "random", chains, "gene_ontology", label, terms)
    prepare([str(folder)], tmp_path / "out", workers=1, neighbours=4)
    found = load(tmp_path / "out")
    assert found["json"]["labels"]["gene_ontology"] == {
        "classes": list(terms),
        "several": True,
        "labelled": 6,
    }
    starts, values = found["labels/gene_ontology.start"], found["labels/gene_ontology"]
    for i in range(6):
        assert values[starts[i] : starts[i + 1]].tolist() == np.flatnonzero(label(i)).tolist()


def write_pdbs(folder, chains):
    """The later layout, but for its labels: a PDB file per protein, and tables of two schemes of splits."""
    (folder / "pdb").mkdir(parents=True)
    for i in range(6):
        write_structure(folder / "pdb" / f"{i}abc.pdb", structure_of([chain_of(chains[i], "A")]))
    for scheme, shift in (("random", 0), ("structure", 1)):
        (folder / scheme).mkdir()
        for split, members in PARTS.items():
            lines = ["pdb_id", *(f"{(i + shift) % 6}abc" for i in members)]
            (folder / scheme / f"{split}_split.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_later_layout(chains, tmp_path, load):
    folder = write_pdbs(tmp_path / "ec_proteinshake", chains)
    numbers = ("2.7.7.4", "1.1.1.1", "2.1", "3.1.1.1", "3.4.1.1", "1.2.3.4")
    rows = [f"{i}abc,{number}" for i, number in enumerate(numbers)]
    (folder / "labels.csv").write_text("\n".join(["pdb_id,label", *rows]))
    prepare([str(folder)], tmp_path / "out", workers=1, neighbours=4)
    found = load(tmp_path / "out")
    assert found["id"].tolist() == [f"{i}abc_A".encode() for i in range(6)]
    classes = found["json"]["labels"]["ec-class"]["classes"]
    assert [classes[label] for label in found["labels/ec-class"]] == [
        "transferase", "oxidoreductase", "transferase", "hydrolase", "hydrolase", "oxidoreductase",
    ]  # fmt: skip
    assert found["splits/random"].tolist() == [0, 0, 0, 1, 2, 2]
    assert found["splits/structure"].tolist() == [2, 0, 0, 0, 1, 2]


@pytest.mark.parametrize("several", [False, True])
def test_targets_of_the_later_layout(several, chains, tmp_path, load):
    folder = write_pdbs(tmp_path / "pfam_proteinshake", chains)
    (folder / "token_map.json").write_text(json.dumps({"PF2": 1, "PF1": 0, "PF3": 2}))
    rows = [
        {"pdb_id": f"{i}abc", **({"label_ids": [i % 2, 2]} if several else {"label_id": i % 2})}
        for i in range(6)
    ]
    (folder / "targets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare([str(folder)], tmp_path / "out", workers=1, neighbours=4)
    found = load(tmp_path / "out")
    assert found["json"]["labels"]["pfam"]["classes"] == ["PF1", "PF2", "PF3"]
    assert found["json"]["labels"]["pfam"]["several"] == several
    expected = [0, 2, 1, 2] * 3 if several else [0, 1] * 3
    assert found["labels/pfam"].tolist() == expected


def test_folders_that_are_not_whole(chains, tmp_path, capsys):
    folder = write_json(tmp_path / "ec" / "random", chains)

    def complaint(path, change):
        whole = path.read_bytes()
        changed = change(whole)
        path.write_bytes(changed) if changed is not None else path.unlink()
        assert main(["prepare", str(folder), str(tmp_path / "out"), "--workers", "1"]) == 2
        path.write_bytes(whole)
        assert not list(tmp_path.glob("out*"))
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and str(path) in said
        return said

    val, classes = folder / "ec_val.json", folder / "ec_token_map.json"
    assert "no such file" in complaint(val, lambda whole: None)
    for change in (
        lambda whole: b"",
        lambda whole: whole[:-20],
        lambda whole: b"{}",
        lambda whole: whole + b"{",
    ):
        assert "write it anew" in complaint(val, change)
    assert "does not begin a protein" in complaint(val, lambda whole: whole.replace(b"coords", b"coord"))
    assert "label must be" in complaint(val, lambda whole: whole.replace(b'"label": 1', b'"label": 2'))
    assert "does not name the classes" in complaint(classes, lambda whole: None)
    assert "does not name the classes" in complaint(classes, lambda whole: b"[1]")
    assert "numbered from 0" in complaint(classes, lambda whole: b'{"1": 1, "2": 2}')
