"""Whether clusters find sites: the measures against slow or other versions, and on made-up models."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

from partoken_jax.interpret.bootstrap import ratio_estimate
from partoken_jax.interpret.mcsa import match_sites, read_mcsa
from partoken_jax.interpret.random_clusters import grow_random
from partoken_jax.interpret.site_table import sites_table, verdict
from partoken_jax.interpret.sites import (
    auroc,
    contact_number,
    count_sites,
    expected_by_layer,
    recall_at,
    residue_importance,
    site_report,
)
from partoken_jax.proteins import DataError, Protein
from partoken_jax.proteins.neighbours import neighbour_table
from partoken_jax.training.trained import Prediction
from tests.helpers import without_atoms

K, SIZES = 8, (6, 4, 5)


def folded(name: str, length: int = 60, seed: int = 0) -> Protein:
    """A chain whose CA atoms fill a ball."""
    rng = np.random.default_rng(seed)
    ca = rng.normal(size=(length, 1, 3)) * 6
    backbone = ca + rng.normal(size=(length, 4, 3)) * 0.5
    return Protein(name=name, sequence="ACDEFGHIKL" * (length // 10), backbone=backbone)


def table_of(protein: Protein) -> np.ndarray:
    return neighbour_table(protein.backbone[:, 1], protein.complete, K)


def said_of(protein: Protein, clusters: np.ndarray, codes=(3, 1, 4)) -> Prediction:
    """The prediction of a model that found these clusters, the second one most important."""
    empty = np.zeros(2, np.float32)
    return Prediction(
        name=protein.name, label="", probabilities=empty, logits=empty, clusters=clusters,
        seeds=np.array([int(np.argmax(clusters == i)) for i in range(3)]),
        codes=np.array(codes), importances=np.array([0.3, 0.5, 0.2], np.float32),
    )  # fmt: skip


def counted(protein, clusters, sites, draws=99, codes=(3, 1, 4)):
    return count_sites(
        protein, said_of(protein, clusters, codes), np.array(sites), neighbours=K, draws=draws, seed=1
    )


def test_random_clusters_are_disjoint_connected_and_of_their_sizes():
    protein = without_atoms(folded("1abc_A"), [5, 6])
    table = table_of(protein)
    drawn = grow_random(table, SIZES, 50, np.random.default_rng(0))
    assert drawn.shape == (50, 60) and (drawn[:, [5, 6]] == -1).all()
    assert len({tuple(row) for row in drawn}) == 50
    linked = np.zeros((60, 60), bool)
    linked[np.repeat(np.arange(60), K)[table.ravel() >= 0], table[table >= 0]] = True
    for row in drawn:
        for cluster, size in enumerate(SIZES):
            members = np.flatnonzero(row == cluster)
            assert len(members) == size
            reached, inside = {int(members[0])}, linked[np.ix_(members, members)]
            inside |= inside.T
            for _ in members:
                reached |= {int(members[j]) for i in reached for j in np.flatnonzero(inside[members == i][0])}
            assert reached == set(members.tolist())
    again = grow_random(table, SIZES, 50, np.random.default_rng(0))
    np.testing.assert_array_equal(again, drawn)


def test_random_clusters_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match=r"\[40, 30\] residues do not fit into a protein of 60"):
        grow_random(table_of(folded("1abc_A")), (40, 30), 3, np.random.default_rng(0))


def test_auroc_and_recall_with_ties():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(4, size=50).astype(float), rng.random(50) < 0.3
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert auroc(np.zeros(50), positive) == 0.5
    for share in (0.1, 0.5, 1.0):
        kept = int(share * 50)
        orders = [np.lexsort((rng.random(50), -scores))[:kept] for _ in range(4000)]
        slow = np.mean([positive[order].sum() / positive.sum() for order in orders])
        assert recall_at(scores, positive, share) == pytest.approx(slow, abs=0.01)
    with pytest.raises(ValueError, match="no pairs"):
        auroc(scores, np.zeros(50, bool))


def test_small_measures():
    clusters = np.array([-1, 0, 2, 2, -1])
    np.testing.assert_array_equal(residue_importance(clusters, np.array([3.0, 5.0, 1.0])), [0, 3, 1, 1, 0])
    line = np.arange(6)[:, None] * np.array([4.0, 0, 0])
    np.testing.assert_array_equal(contact_number(line), [2, 3, 4, 4, 3, 2])
    # Ten residues in five layers of two: of the chosen ones each layer gives its share of positives.
    chosen, positive = np.arange(10) < 3, np.isin(np.arange(10), [0, 3, 9])
    assert expected_by_layer(chosen, positive, np.arange(10.0)) == pytest.approx(2 * 1 / 2 + 1 * 1 / 2)


def test_a_protein_is_counted_as_by_hand():
    protein = without_atoms(folded("1abc_A"), [5])
    clusters = grow_random(table_of(protein), SIZES, 1, np.random.default_rng(3))[0]
    first, top = np.flatnonzero(clusters == 0)[:2], np.flatnonzero(clusters == 1)[:1]
    outside = np.flatnonzero((clusters < 0) & protein.complete)[:3]
    found = counted(protein, clusters, [5, *first, *top, *outside], draws=400)
    assert (found.residues, found.covered, found.sites) == (59, 15, 6)
    assert (found.in_cluster, found.in_top) == (3, 1)
    np.testing.assert_array_equal(found.holds, [True, True, False])
    assert found.random_in_cluster.mean() == pytest.approx(6 * 15 / 59, rel=0.3)
    assert found.random_in_top.mean() == pytest.approx(6 * 4 / 59, rel=0.5)


def test_a_planted_signal_is_found_and_said():
    counts = []
    for i in range(12):
        protein = folded(f"{i}abc_A", seed=i)
        clusters = grow_random(table_of(protein), SIZES, 1, np.random.default_rng(i))[0]
        counts.append(counted(protein, clusters, np.flatnonzero(clusters == 1)))
    report = json.loads(json.dumps(site_report(counts)))  # as it is read from a file
    assert report["clusters"]["share"] == [1, 1, 1] and report["top"]["share"][0] == 1
    assert report["clusters"]["enrichment"][1] > 2 and report["clusters"]["p"] == 0.01
    assert report["auroc"]["importance"] == [1, 1, 1] and report["auroc_difference"]["contacts"][1] > 0
    [most, *others] = report["tokens"]
    assert most["token"] == 1 and most["both"] == 12 and most["q"] < 1e-6 < 0.9 < min(o["q"] for o in others)
    said = verdict(report)
    assert "more often" in said and "better than chance" in said and "1 (12 of 12, 3.0 times)" in said
    assert "12 chains" in sites_table(report)
    assert "p ≤ 0.020" in sites_table(report), "the least that 99 draws can give"
    report["clusters"]["p"] = 0.02
    assert "p = 0.040" in sites_table(report)
    assert verdict(report | {"tokens": []}).endswith("The model has no tokens.")
    report["clusters"]["share"] = [0, 0, 0]
    assert verdict(report | {"tokens": []}).endswith("No cluster holds a catalytic residue.")


def test_few_chains_are_said_to_be_few_and_no_difference_is_none():
    protein = folded("1abc_A")
    clusters = grow_random(table_of(protein), SIZES, 1, np.random.default_rng(0))[0]
    outside = np.flatnonzero(clusters < 0)[:2]
    report = site_report([counted(protein, clusters, outside)] * 3)
    assert report["clusters"]["enrichment"].high == 0 and report["clusters"]["p_fewer"] > 0.025
    said = verdict(report)
    assert said.startswith("Only 3 groups of chains") and "not significantly more or less often" in said


def test_without_a_signal_p_is_uniform():
    """Clusters that are themselves random: their rank among random ones is any."""
    ps, enrichments = [], []
    for i in range(60):
        protein, rng = folded("1abc_A", seed=i % 3), np.random.default_rng(100 + i)
        clusters = grow_random(table_of(protein), SIZES, 1, rng)[0]
        report = site_report([counted(protein, clusters, rng.permutation(60)[:20], draws=99)] * 2)
        ps.append(report["clusters"]["p"] - rng.random() * 0.15)  # between the few values that p can have
        enrichments.append(report["clusters"]["enrichment"].value)
    assert kstest(ps, "uniform").pvalue > 0.01, sorted(ps)
    assert np.mean(enrichments) == pytest.approx(1, abs=0.1)


def test_relatives_are_drawn_together():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=20), 10)
    alone, together = (
        ratio_estimate(values, np.ones(200), groups)
        for groups in (np.arange(200), np.repeat(np.arange(20), 10))
    )
    assert alone.value == pytest.approx(values.mean()) == pytest.approx(together.value)
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert together.high - together.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(20), rel=0.2)


def written(path: Path, residues: list[dict]) -> Path:
    """A file like M-CSA's with one chain in two entries."""
    chain = {"pdb_id": "1abc", "chain_name": "A", "residues": dict(enumerate(residues))}
    path.write_text(json.dumps({"1": {"1abcA": chain}, "2": {"1abcA": chain}}))
    return path


def test_residues_are_matched_by_number_and_type(tmp_path):
    listed = read_mcsa(written(tmp_path / "sites.json", [
        {"resid": 3, "auth_resid": 9, "code": "ASP"},
        {"resid": 4, "auth_resid": 9, "code": "Asp"},
        {"resid": 90, "auth_resid": 9, "code": "ASP"},
        {"resid": 5, "auth_resid": 9, "code": "SEC"},
        {"resid": None, "auth_resid": 9, "code": "ASP"},
    ]))  # fmt: skip
    found = match_sites(listed, [folded("1ABC_A"), folded("1ABC_a"), folded("other")])
    assert (found.numbering, found.asked, found.matched) == ("sequence", 4, 1)
    np.testing.assert_array_equal(found.sites["1ABC_A"], [2])
    assert found.unmatched == [
        "1ABC_A ASP 4: E in the chain",
        "1ABC_A SEC 5: not a standard residue",
        "1ABC_A ASP 90: outside the chain",
    ]


def numbered(protein: Protein, numbers, codes: str) -> Protein:
    return dataclasses.replace(protein, residue_numbers=np.array(numbers), insertion_codes=codes)


def test_chains_with_the_numbers_of_their_author_are_matched_by_these(tmp_path):
    """Residues 3 to 5 of the sequence are 3A, 103 and 104; in the sequence's numbers 3 would be another D."""
    listed = read_mcsa(written(tmp_path / "sites.json", [
        {"resid": 4, "auth_resid": 103, "code": "GLU"},
        {"resid": 5, "auth_resid": 104, "code": "PHE"},
        {"resid": 13, "auth_resid": 112, "code": "ASP"},
        {"resid": 14, "auth_resid": None, "code": "GLU"},
    ]))  # fmt: skip
    sequence = folded("1abc_A")
    author = numbered(sequence, [1, 2, 3, *range(103, 160)], "  A" + " " * 57)
    found = match_sites(listed, [author])
    assert (found.numbering, found.asked, found.unmatched) == ("author", 3, [])
    np.testing.assert_array_equal(found.sites["1abc_A"], [3, 4, 12])
    # Of a whole set one numbering is taken.
    found = match_sites(listed, [author, *[dataclasses.replace(sequence, name="1ABC_A")] * 2])
    assert (found.numbering, found.asked) == ("sequence", 12) and found.sites.keys() == {"1ABC_A"}


def test_a_residue_with_an_insertion_code_is_never_meant(tmp_path):
    listed = read_mcsa(
        written(
            tmp_path / "sites.json", [{"resid": 3, "auth_resid": 3, "code": code} for code in ("ASP", "GLU")]
        )
    )
    inserted = numbered(folded("1abc_A"), [1, 2, 3, 3, *range(4, 60)], "   A" + " " * 56)
    found = match_sites(listed, [inserted])
    np.testing.assert_array_equal(found.sites["1abc_A"], [2])
    assert found.unmatched == ["1abc_A GLU 3: D in the chain"]


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"1": {"1abcA": {}}}', '{"1": 3}'])
def test_another_file_than_that_of_mcsa(tmp_path, text):
    (tmp_path / "sites.json").write_text(text)
    with pytest.raises(DataError, match=r"sites\.json: is not the list of catalytic residues"):
        read_mcsa(tmp_path / "sites.json")
