"""Annotations: what a model found, told the same way whatever the source, the order and the company."""

import dataclasses
import gzip
import json
import os

import numpy as np
import pytest

from partoken_jax.interpret import annotate as module
from partoken_jax.interpret.annotate import annotate
from partoken_jax.interpret.tables import as_json
from partoken_jax.proteins import DataError, ProteinDataset
from partoken_jax.proteins.tasks import ARCHITECTURES, class_title
from tests.helpers import crop, without_atoms
from tests.interpret.conftest import write_pdb


@pytest.fixture(scope="module")
def proteins(chains):
    return [without_atoms(chains[0], [3, 4]), *chains[1:5]]


def assert_alike(got, want):
    """The same decisions, and the same numbers up to the rounding of a batch."""
    one, other = json.loads(json.dumps(as_json(got))), json.loads(json.dumps(as_json(want)))
    np.testing.assert_allclose(one.pop("probabilities"), other.pop("probabilities"), atol=1e-5)
    for name in ("confidence", "importance_concentration", "importance_scores", "blob_importance"):
        np.testing.assert_allclose(one.pop(name), other.pop(name), atol=1e-4)
    for mine, theirs in zip(one["blobs"], other["blobs"], strict=True):
        for name in ("attention", "distance"):
            np.testing.assert_allclose(mine.pop(name), theirs.pop(name), atol=1e-3)
    assert one == other
    np.testing.assert_allclose(got.residue_features, want.residue_features, atol=1e-4)


def test_clusters_are_those_of_the_model_by_importance(model, proteins):
    for annotation, said in zip(annotate(proteins, model), model.predict(proteins), strict=True):
        assert annotation.label == said.label
        np.testing.assert_allclose(annotation.probabilities, said.probabilities, atol=1e-6)
        importances = [cluster.importance for cluster in annotation.clusters]
        assert importances == sorted(importances, reverse=True) and sum(importances) == pytest.approx(1)
        assert [cluster.rank for cluster in annotation.clusters] == list(range(1, len(importances) + 1))
        in_none = np.ones(len(annotation.protein), bool)
        for cluster in annotation.clusters:
            np.testing.assert_array_equal(cluster.residues, np.flatnonzero(said.clusters == cluster.index))
            assert cluster.seed in cluster.residues and cluster.token == said.codes[cluster.index]
            mean = annotation.residue_features[cluster.residues].mean(axis=0)
            np.testing.assert_allclose(cluster.features, mean, atol=1e-4)
            assert (annotation.rank_of_residue[cluster.residues] == cluster.rank).all()
            in_none[cluster.residues] = False
        assert (annotation.rank_of_residue[in_none] == 0).all()
        assert annotation.coverage == pytest.approx(1 - in_none.mean())
        assert not annotation.residue_features[~annotation.protein.complete].any()


def test_a_token_is_the_nearest_code_and_its_distance_the_way_there(model, proteins):
    codes = np.asarray(model.model.codebook.embeddings[...])
    distances = [
        (cluster, np.linalg.norm(codes - cluster.features, axis=1))
        for annotation in annotate(proteins, model)
        for cluster in annotation.clusters
    ]
    assert len({cluster.token for cluster, _ in distances}) > 3
    for cluster, distance in distances:
        assert cluster.token == distance.argmin()
        np.testing.assert_allclose(cluster.distance, distance.min(), atol=1e-2)


def test_a_protein_is_annotated_alike_in_any_company(model, proteins, monkeypatch):
    together = list(annotate(proteins, model))
    monkeypatch.setattr(module, "AT_A_TIME", 2)
    for got, want in zip(annotate(proteins[::-1], model), together[::-1], strict=True):
        assert_alike(got, want)


def test_a_file_is_annotated_as_its_proteins_are(model, proteins, tmp_path):
    path = write_pdb(tmp_path / "1abc.pdb", proteins)
    found = list(annotate(path, model))
    assert [annotation.protein.name for annotation in found] == [f"1abc_{c}" for c in "ABCDE"]
    for got, want in zip(found, annotate(proteins, model), strict=True):
        assert got.origin.path == path and got.origin.chain == got.protein.chain
        np.testing.assert_array_equal(got.protein.residue_numbers, want.protein.residue_numbers)
        np.testing.assert_allclose(got.probabilities, want.probabilities, atol=1e-2)  # 0.001 Å in a file
    assert [a.protein.name for a in annotate([str(path)], model, chains=["C"])] == ["1abc_C"]


def test_what_is_left_out_is_said(model, proteins, tmp_path):
    write_pdb(tmp_path / "good.pdb", proteins[:2])
    (tmp_path / "bad.cif").write_text("nothing")
    skipped = []
    names = [a.protein.name for a in annotate(tmp_path, model, max_length=25, skipped=skipped)]
    long = [p for p in proteins[:2] if len(p) > 25]
    assert len(names) == 2 - len(long) and long
    assert {(entry.name, entry.what) for entry in skipped} >= {("bad", "file"), ("good_B", "chain")}
    cropped = list(annotate(tmp_path / "good.pdb", model, max_length=25, too_long="crop", skipped=[]))
    assert [len(annotation.protein) for annotation in cropped] == [24, 25]
    assert all(len(a.origin.label_numbers) == len(a.protein) for a in cropped)
    with pytest.warns(UserWarning, match="bad.cif is left out"):
        list(annotate(tmp_path, model))


def test_a_chain_of_which_cropping_leaves_nothing_does_not_stop_the_others(model, proteins, tmp_path):
    long = next(protein for protein in proteins if len(protein) > 25)
    bare = without_atoms(long, list(range(21)))
    write_pdb(tmp_path / "a.pdb", [bare, proteins[0]])
    write_pdb(tmp_path / "b.pdb", proteins[:1])
    for source, path in (([tmp_path], str(tmp_path / "a.pdb")), ([bare, proteins[0], proteins[0]], "")):
        skipped = []
        found = list(annotate(source, model, max_length=20, too_long="crop", skipped=skipped))
        assert [len(annotation.protein) for annotation in found] == [20, 20]
        left_out = [(entry.reason, entry.path) for entry in skipped if entry.what == "chain"]
        ((reason, place),) = left_out
        assert reason.startswith("none of its first 20 residues, which alone would be left, has all four")
        assert place == path


def test_impossible_coordinates_are_left_out_as_prepare_leaves_them_out(model, proteins, tmp_path):
    nm = dataclasses.replace(proteins[1], backbone=proteins[1].backbone * 0.1)
    flat = dataclasses.replace(proteins[2], backbone=np.ones_like(proteins[2].backbone))
    write_pdb(tmp_path / "x.pdb", [nm, flat, proteins[3]])
    dataset = ProteinDataset([nm, flat, proteins[3]], model.class_names, "cath-class", "test", "made up")
    for source in (tmp_path / "x.pdb", [nm, flat, proteins[3]], dataset):
        skipped = []
        assert len(list(annotate(source, model, skipped=skipped))) == 1
        first, second = [entry for entry in skipped if entry.what == "chain"]
        assert "Å apart (median), but 3.8 in a protein" in first.reason
        assert second.reason == "all its CA atoms are in one place"
        assert {first.path, second.path} == {str(source) if source == tmp_path / "x.pdb" else ""}


def test_a_protein_without_finite_numbers_does_not_stop_the_others(model, proteins):
    class Refusing:
        """Of protein 1 it makes no finite numbers."""

        class_names = model.class_names

        def require_classifier(self):
            pass

        def outputs(self, some):
            if any(protein is proteins[1] for protein in some):
                raise DataError(f"{proteins[1].name}: the model's output is not finite")
            return model.outputs(some)

    skipped = []
    names = [a.protein.name for a in annotate(proteins[:3], Refusing(), skipped=skipped)]
    assert names == [proteins[0].name, proteins[2].name]
    assert [entry.name for entry in skipped] == [proteins[1].name] and "not finite" in skipped[0].reason


def test_a_source_of_another_kind_is_answered_at_once(model, proteins):
    for wrong, name in ((proteins[0].backbone, "ndarray"), ([proteins[0], None], "NoneType")):
        with pytest.raises(
            DataError, match=f"^annotate takes structure files, .* or a list of these, not {name}$"
        ):
            annotate(wrong, model)


@pytest.mark.parametrize("source", ["missing.pdb", "folder"])
def test_a_path_without_structures_is_answered_at_once(model, tmp_path, source):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=source):
        annotate(tmp_path / source, model)


def test_files_that_cannot_be_read_do_not_stop_the_others(model, proteins, tmp_path):
    write_pdb(tmp_path / "good.pdb", proteins[:1])
    (tmp_path / "table.csv").write_text("id\n")
    (tmp_path / "cut.pdb.gz").write_bytes(gzip.compress((tmp_path / "good.pdb").read_bytes())[:300])
    (tmp_path / "nowhere.pdb").symlink_to(tmp_path / "missing.pdb")
    os.mkfifo(tmp_path / "pipe.pdb")
    skipped = []
    found = list(annotate([tmp_path, tmp_path / "table.csv"], model, skipped=skipped))
    assert [annotation.protein.name for annotation in found] == ["good_A"]
    left_out = {entry.name: entry.reason for entry in skipped if entry.what == "file"}
    assert left_out.keys() == {"table.csv", "cut", "nowhere", "pipe"}
    assert "cannot be read" in left_out["cut"] and "not a file" in left_out["pipe"]


def test_a_data_set_brings_true_classes_by_their_names(model, chains):
    """Its classes may be numbered otherwise than the model's."""
    names = tuple(reversed(model.class_names))
    labelled = [dataclasses.replace(chain, label=i % 3 - 1) for i, chain in enumerate(chains[:3])]
    dataset = ProteinDataset(labelled, names, "cath-class", "test", "made up")
    found = [as_json(annotation) for annotation in annotate(dataset, model)]
    assert [one["true_label"] for one in found] == [None, len(names) - 1, len(names) - 2]
    want = [None if t is None else t == one["prediction"] for one in found for t in [one["true_label"]]]
    assert [one["is_correct"] for one in found] == want
    assert [one["true_label"] for one in map(as_json, annotate(labelled, model))] == [None] * 3


def test_one_residue_can_be_annotated(model, chains):
    (annotation,) = annotate(crop(chains[0], 5, 1), model)
    assert len(annotation.protein) == 1 and annotation.coverage == len(annotation.clusters)


def test_architectures_of_the_model_have_titles():
    from partoken_jax.pretrained.files import read_model
    from partoken_jax.pretrained.load import find_model

    names = read_model(find_model()).class_names
    assert set(names) <= set(ARCHITECTURES)
    assert class_title("3.30") == "3.30 (2-layer sandwich)" and class_title("hydrolase") == "hydrolase"
