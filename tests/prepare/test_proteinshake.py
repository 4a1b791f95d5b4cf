"""ProteinShake's releases, from small files of their layout: an Avro record per protein, atoms as lists."""

import dataclasses

import numpy as np
import pytest

from partoken_jax.cli import main
from partoken_jax.prepare import prepare, proteinshake
from partoken_jax.proteins import DataError
from partoken_jax.proteins.structures import BACKBONE

fastavro = pytest.importorskip("fastavro")

SPLITS = {
    "random_split": ("train", "val", "test", "train"),
    "sequence_split_0.3": ("train", "train", "val", "test"),
    "structure_split_0.7": ("none", "train", "val", "test"),
}
SAID = {
    "EnzymeCommissionDataset": {"EC": ("2.7.7.4", "1.1.1.1", "2.1.1", "7.1.1.2")},
    "GeneOntologyDataset": {
        "molecular_function": (["GO:3", "GO:1"], ["GO:1"], ["GO:2"], ["GO:1", "GO:1", "GO:2"]),
        "cellular_component": (["GO:9"], ["GO:8"], ["GO:9"], ["GO:9"]),
        "biological_process": (["GO:7"], ["GO:7"], ["GO:7"], ["GO:7"]),
    },
    "SCOPDataset": {
        "SCOP-CL": ("1000000", "1000001", "1000000", "1000000"),
        "SCOP-FA": ("4000010", "4000002", "4000010", "4000003"),
    },
}


def record(protein, place, said, resolution="atom"):
    """A protein as ProteinShake writes it, with side chains and a second place of the first CA, but without
    the O of the fourth residue."""
    keys = ("atom_number", "atom_type", "residue_number", "residue_type", "x", "y", "z")
    atoms = {key: [] for key in keys}

    def add(kind, number, letter, xyz):
        values = (len(atoms["x"]) + 1, kind, number, letter, *map(float, xyz))
        for key, value in zip(atoms, values, strict=True):
            atoms[key].append(value)

    for i, (letter, backbone, number) in enumerate(
        zip(protein.sequence, protein.backbone, protein.residue_numbers.tolist(), strict=True)
    ):
        for kind, xyz in zip(BACKBONE, backbone, strict=True):
            if (i, kind) != (3, "O"):
                add(kind, number, letter, xyz)
        add("CB", number, letter, backbone[1] + 1)
        if i == 0:
            add("CA", number, letter, backbone[1] + 5)
    values = {key: of[place] for key, of in (said | SPLITS).items()}
    return {"protein": {"ID": f"{place}ABC", "sequence": protein.sequence, **values}, resolution: atoms}


def write_release(folder, dataset, chains, resolution="atom"):
    """A file of four proteins, each in a block of its own."""
    records = [record(chains[i], i, SAID[dataset], resolution) for i in range(4)]
    parsed = fastavro.parse_schema({"namespace": "Dataset", **schema("Protein", records[0])})
    path = folder / f"{dataset}.{resolution}.avro"
    with path.open("wb") as file:
        fastavro.writer(file, parsed, records, sync_interval=1, metadata={"number_of_proteins": "4"})
    return path


def schema(name, value):
    """The Avro type of a value, told from the value as ProteinShake does."""
    if isinstance(value, dict):
        fields = [{"name": key, "type": schema(key, of)} for key, of in value.items()]
        return {"type": "record", "name": name, "fields": fields}
    if isinstance(value, list):
        return {"type": "array", "items": schema(name, value[0])}
    return {int: "int", float: "float", str: "string"}[type(value)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(proteinshake, "CHUNK", 3)


def test_enzymes(chains, tmp_path, load):
    write_release(tmp_path, "EnzymeCommissionDataset", chains)
    prepare(["proteinshake-ec"], tmp_path / "out", root=tmp_path, workers=1, neighbours=4)
    found = load(tmp_path / "out")
    assert found["id"].tolist() == [b"0ABC", b"1ABC", b"2ABC", b"3ABC"]
    classes = found["json"]["labels"]["ec-class"]["classes"]
    assert [classes[label] for label in found["labels/ec-class"]] == [
        "transferase", "oxidoreductase", "transferase", "translocase",
    ]  # fmt: skip
    assert {name: found[f"splits/{name}"].tolist() for name in found["json"]["splits"]} == {
        "random": [0, 1, 2, 0],
        "sequence-30": [0, 0, 1, 2],
        "structure-70": [-1, 0, 1, 2],
    }
    for i in range(4):
        part = slice(*found["start"][i : i + 2])
        expected = chains[i].backbone.copy()
        expected[3, 3] = np.nan
        np.testing.assert_array_equal(found["backbone"][part], expected)
        np.testing.assert_array_equal(found["residue_number"][part], chains[i].residue_numbers)
        assert found["sequence"][part].tobytes().decode() == chains[i].sequence


def test_terms_of_the_gene_ontology(chains, tmp_path, load, capsys):
    write_release(tmp_path, "GeneOntologyDataset", chains)
    prepare(["proteinshake-go"], tmp_path / "out", root=tmp_path, workers=1, neighbours=4)
    found = load(tmp_path / "out")
    assert found["json"]["labels"]["molecular_function"] == {
        "classes": ["GO:1", "GO:2", "GO:3"], "several": True, "labelled": 4,
    }  # fmt: skip
    assert found["labels/molecular_function.start"].tolist() == [0, 2, 3, 4, 6]
    assert found["labels/molecular_function"].tolist() == [2, 0, 0, 1, 0, 1]
    assert sorted(found["json"]["labels"]) == ["cellular_component", "molecular_function"]
    assert (
        "'biological_process' are left out, because the proteins have only one class"
        in capsys.readouterr().out
    )


def test_levels_of_scop_by_path(chains, tmp_path, load):
    path = write_release(tmp_path, "SCOPDataset", chains)
    prepare([str(path)], tmp_path / "out", workers=1, neighbours=4)
    found = load(tmp_path / "out")
    assert found["json"]["labels"]["SCOP-FA"]["classes"] == ["4000002", "4000003", "4000010"]
    assert found["labels/SCOP-FA"].tolist() == [2, 0, 2, 1]
    assert found["labels/SCOP-CL"].tolist() == [0, 1, 0, 0]


def test_a_split_that_there_is_not_and_coordinates_without_end(chains, tmp_path, load, monkeypatch):
    broken = dataclasses.replace(chains[1], backbone=chains[1].backbone.copy())
    broken.backbone[2, 1, 0] = np.inf
    path = write_release(tmp_path, "SCOPDataset", [chains[0], broken, *chains[2:]])
    prepare([str(path)], tmp_path / "out", workers=1, neighbours=4)
    (skipped,) = load(tmp_path / "out")["json"]["skipped"]
    assert skipped["name"] == "1ABC" and "infinite" in skipped["reason"]
    monkeypatch.setitem(SPLITS, "random_split", ("training", "val", "test", "train"))
    path = write_release(tmp_path, "SCOPDataset", chains)
    with pytest.raises(DataError, match="0ABC: its split of scheme 'random' is 'training'"):
        prepare([str(path)], tmp_path / "other", workers=1, neighbours=4)


def test_files_that_cannot_be_used(chains, tmp_path, capsys):
    def complaint():
        assert main(["prepare", "proteinshake-scop", str(tmp_path / "out"), "--root", str(tmp_path)]) == 2
        assert not list(tmp_path.glob("out*"))
        return capsys.readouterr().err

    residues = write_release(tmp_path, "SCOPDataset", chains, "residue")
    assert "which has CA atoms alone" in complaint()
    path = residues.with_name("SCOPDataset.atom.avro")
    path.write_bytes(residues.read_bytes())
    assert "has CA atoms alone" in complaint()
    whole = write_release(tmp_path, "SCOPDataset", chains).read_bytes()
    for damaged in (b"", b"Obj\1", b"no avro", whole[: len(whole) // 2], whole[:-9]):
        path.write_bytes(damaged)
        assert "is not a whole file of ProteinShake's proteins" in complaint(), len(damaged)
    path.unlink()
    path.with_name("SCOPDataset.atom.avro.gz").write_bytes(b"")
    assert "run gunzip on it first" in complaint()
