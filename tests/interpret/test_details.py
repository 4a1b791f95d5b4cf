"""The details of an evaluation, on made-up annotations."""

import csv

import numpy as np
import pytest

from partoken_jax.interpret.annotation import Annotation, Cluster
from partoken_jax.interpret.details import TYPICAL, details
from partoken_jax.interpret.details_files import write_details
from tests.helpers import real_protein

NAMES = ("alpha", "beta", "none of them")


def annotated(number: int, predicted: int, tokens: tuple[int | None, ...]) -> Annotation:
    """A protein of 20 residues with clusters of 3, the later ones nearer to their codes."""
    probabilities = np.full(3, 0.1)
    probabilities[predicted] = 0.8
    return Annotation(
        protein=real_protein(f"p{number}", 20, number),
        origin=None,
        class_names=NAMES,
        probabilities=probabilities,
        clusters=tuple(
            Cluster(
                rank=i + 1, index=i, importance=1 / len(tokens), seed=3 * i,
                residues=np.arange(3 * i, 3 * i + 3), token=token,
                distance=None if token is None else 1.0 / (number + 1), features=np.zeros(2, np.float32),
            )
            for i, token in enumerate(tokens)
        ),
        residue_features=np.zeros((20, 2), np.float32),
        protein_features=np.zeros(2, np.float32),
    )  # fmt: skip


def made() -> tuple[list[Annotation], np.ndarray]:
    """Eight proteins: token 5 in alpha alone, token 2 everywhere."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, -1])
    predicted = [0, 0, 0, 1, 1, 1, 0, 0]
    return [
        annotated(i, predicted[i], (5, 5, 2) if label == 0 else (2, 9)) for i, label in enumerate(labels)
    ], labels


def test_what_is_counted():
    annotations, labels = made()
    found = details(annotations, labels)
    np.testing.assert_array_equal(found.confusion, [[3, 1, 0], [1, 2, 0], [0, 0, 0]])
    assert (
        sum(b["count"] for b in found.reliability) == 7 and sum(b["correct"] for b in found.reliability) == 5
    )
    assert found.sizes["count"] == 20 and found.sizes["mean"] == 3
    assert found.clusters["mean"] == 2.5 and found.coverage["max"] == 9 / 20
    uses = [(row.token, row.clusters, row.proteins) for row in found.codes]
    assert uses == [(2, 8, 8), (5, 8, 4), (9, 4, 4)]
    assert sum(row.share for row in found.codes) == pytest.approx(1)
    first = found.enrichment[0]
    assert (first.token, first.label, first.both, first.of_token) == (5, "alpha", 8, 8) and first.q < 0.1


def test_typical_clusters_are_the_nearest_of_different_proteins():
    annotations, labels = made()
    rows = [row for row in details(annotations, labels).typical if row.token == 5]
    assert [row.protein for row in rows] == ["p3", "p2", "p1"] and len(rows) == TYPICAL
    assert [row.rank for row in rows] == [1, 1, 1] and {row.label for row in rows} == {"alpha"}
    protein = annotations[3].protein
    numbers = [f"{protein.residue_numbers[i]}{protein.insertion_codes[i].strip()}" for i in range(3)]
    assert rows[0].residues.split() == numbers


def test_files(tmp_path):
    annotations, labels = made()
    paths = write_details(tmp_path / "new" / "details", details(annotations, labels))
    assert all(path.stat().st_size for path in paths)
    tables = {path.stem: list(csv.reader(path.open())) for path in paths if path.suffix == ".csv"}
    assert tables["confusion"] == [
        ["true class", *NAMES],
        ["alpha", "3", "1", "0"],
        ["beta", "1", "2", "0"],
        ["none of them", "0", "0", "0"],
    ]
    assert [row[0] for row in tables["codes"]] == ["token", "2", "5", "9"]
    assert len(tables["typical_clusters"]) == 10 and len(tables["reliability"]) == 11
    text = (tmp_path / "new" / "details" / "details.md").read_text()
    assert "3 codes are in use." in text and "pairs of a code and a class" in text


def test_a_model_without_tokens_or_clusters(tmp_path):
    labels = np.array([0, 1])
    for tokens in ((None, None), ()):
        annotations = [annotated(i, i, tokens) for i in range(2)]
        found = details(annotations, labels)
        assert found.codes == found.enrichment == found.typical == []
        write_details(tmp_path, found)
        assert "0 codes are in use." in (tmp_path / "details.md").read_text()
