"""Scores against numbers worked out by hand."""

import json
import re
import tracemalloc

import numpy as np
import pytest

from partoken_jax.training.metrics import (
    classification,
    clustering,
    code_perplexity,
    distribution,
    effective_dimension,
    f1_interval,
    hits,
    macro_f1_interval,
    quantisation_error,
    wilson,
)
from partoken_jax.training.report import accuracy_with_interval, classification_table, clustering_summary

NAMES = ("a", "b", "c", "d")
TRUTH = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 1])


def test_scores_per_class_by_hand():
    scores = classification(TRUTH, PREDICTED, NAMES)
    assert scores["confusion"] == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert scores["accuracy"] == pytest.approx(3 / 6)
    assert scores["majority_share"] == pytest.approx(3 / 6)
    a, b, c, d = scores["classes"]
    assert (a["count"], a["predicted"]) == (3, 3)
    assert (a["precision"], a["recall"], a["f1"]) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert (b["precision"], b["recall"], b["f1"]) == pytest.approx((1 / 3, 1 / 2, 2 / 5))
    assert (c["count"], c["predicted"], c["f1"]) == (1, 0, 0)
    assert (d["count"], d["predicted"], d["f1"]) == (0, 0, 0)


def test_macro_f1_leaves_out_classes_that_occur_nowhere_but_not_missed_ones():
    # c is in the truth only and counts as 0; d is in neither and does not count.
    assert classification(TRUTH, PREDICTED, NAMES)["macro_f1"] == pytest.approx((2 / 3 + 2 / 5 + 0) / 3)
    # Given but never true counts as 0 too.
    assert classification(np.array([0, 0]), np.array([0, 3]), NAMES)["macro_f1"] == pytest.approx((2 / 3) / 2)


def test_perfect_predictions_score_1():
    scores = classification(TRUTH, TRUTH, NAMES)
    assert scores["accuracy"] == scores["macro_f1"] == 1


def test_proteins_without_a_label_are_counted_and_left_out():
    truth, predicted = np.append(TRUTH, [-1, -1]), np.append(PREDICTED, [3, 0])
    scores = classification(truth, predicted, NAMES)
    assert scores["unlabelled"] == 2
    assert {**scores, "unlabelled": 0} == classification(TRUTH, PREDICTED, NAMES)
    assert "6 proteins: accuracy 0.500" in classification_table(scores)
    assert "2 without a label are not scored" in classification_table(scores)
    assert "without a label" not in classification_table(classification(TRUTH, PREDICTED, NAMES))


def test_labels_are_needed_to_score():
    with pytest.raises(ValueError, match="no labelled proteins to score, only 3 without a label; choose"):
        classification(np.full(3, -1), np.zeros(3, int), NAMES)


@pytest.mark.parametrize("truth", [np.array([], int), np.array([0, -2]), np.array([0, 4])])
def test_nothing_to_score_or_unknown_labels_are_errors(truth):
    with pytest.raises(ValueError, match=r"proteins|labels"):
        classification(truth, np.zeros(len(truth), int), NAMES)


def test_perplexity_is_the_effective_number_of_codes():
    assert code_perplexity(np.array([3, 5, 7, -1, 9])) == pytest.approx(4)
    assert code_perplexity(np.array([[3, 3], [-1, 3]])) == pytest.approx(1)
    assert code_perplexity(np.array([1, 1, 1, 2])) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)
    assert code_perplexity(np.array([-1])) == 0


def test_distribution_quartiles():
    assert distribution(np.array([1, 2, 3, 4, 10])) == {
        "count": 5, "mean": 4.0, "min": 1.0, "q25": 2.0, "median": 3.0, "q75": 4.0, "max": 10.0,
    }  # fmt: skip


def test_clustering_counts_real_clusters_only():
    sizes = np.array([[5, 3, 0], [2, 0, 0]])
    codes = np.array([[7, 1, -1], [7, -1, -1]])
    result = clustering(sizes, codes, num_residues=40)
    assert result["coverage"] == pytest.approx(0.25)
    assert result["clusters_per_protein"] == pytest.approx(1.5)
    assert result["codes_used"] == 2
    assert result["cluster_sizes"]["mean"] == pytest.approx(10 / 3)
    assert result["perplexity"] == pytest.approx(code_perplexity(codes))


def test_use_of_the_codebook_is_a_share_of_its_size():
    sizes, codes = np.array([[5, 3, 0], [2, 0, 0]]), np.array([[7, 1, -1], [3, -1, -1]])
    features = np.array([[[1, 0], [2, 0], [99, 99]], [[6, 0], [99, 99], [99, 99]]], float)
    errors = np.array([[1, 1, 99], [2, 99, 99]], float)
    result = clustering(sizes, codes, 40, num_codes=12, features=features, squared_errors=errors)
    assert result["codes_used_share"] == pytest.approx(3 / 12)
    assert result["perplexity_share"] == pytest.approx(3 / 12)
    assert result["effective_dimension"] == pytest.approx(1)  # padding is no cluster
    assert result["quantisation_error"] == pytest.approx((4 / 3) / np.var([1, 2, 6]))
    said = clustering_summary(result)
    assert "3 codes used, perplexity 3.0 (25% and 25% of the codebook), 28.6% of the variance" in said
    none = clustering(
        sizes, np.full((2, 3), -1), 40, num_codes=12, features=features, squared_errors=0 * errors
    )
    assert none["codes_used_share"] == none["perplexity_share"] == none["quantisation_error"] == 0
    assert "of the codebook" not in clustering_summary(none)


def test_clusterings_of_before_had_no_shares():
    result = clustering(np.array([[5]]), np.array([[0]]), 9)
    for name in ("codes_used_share", "perplexity_share", "effective_dimension", "quantisation_error"):
        del result[name]
    assert clustering_summary(result).endswith("1 codes used, perplexity 1.0")


def test_effective_dimension_counts_directions():
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    corners = np.array([(a, b, c, 0, 0, 0) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) @ turn + 9
    assert effective_dimension(corners) == pytest.approx(3)
    assert effective_dimension(np.outer(rng.normal(size=20), turn[0])) == pytest.approx(1)
    p = np.array([16, 1]) / 17  # two directions, one with four times the spread
    assert effective_dimension(np.array([(4, 1), (-4, 1), (4, -1), (-4, -1)])) == pytest.approx(
        np.exp(-np.sum(p * np.log(p)))
    )
    assert effective_dimension(np.ones((5, 3))) == effective_dimension(np.zeros((0, 3))) == 0


def test_quantisation_error_is_1_where_every_code_is_the_mean():
    z = np.random.default_rng(0).normal(size=(50, 4)) + 3
    assert quantisation_error(z, np.square(z - z.mean(0)).sum(1)) == pytest.approx(1)
    assert quantisation_error(z, np.zeros(50)) == 0
    assert quantisation_error(np.ones((5, 4)), np.zeros(5)) == quantisation_error(z[:0], np.zeros(0)) == 0


def test_everything_is_plain_json():
    scores = classification(TRUTH, PREDICTED, NAMES)
    clusters = clustering(np.array([[5]]), np.array([[0]]), 9)
    assert json.loads(json.dumps([scores, clusters])) == [scores, clusters]


@pytest.mark.parametrize(
    "count_of_hits, count, low, high",
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I: Wilson's score interval without correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_are_those_of_the_literature(count_of_hits, count, low, high):
    assert wilson(count_of_hits, count) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(count - count_of_hits, count)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_one_protein_of_96_is_no_difference():
    """86 and 87 of 96: each share lies well within the interval of the other."""
    (low, high), (other_low, other_high) = wilson(86, 96), wilson(87, 96)
    assert low < 87 / 96 < high and other_low < 86 / 96 < other_high


@pytest.mark.parametrize("count_of_hits, count", [(-1, 5), (6, 5), (0, 0)])
def test_what_is_no_share_has_no_interval(count_of_hits, count):
    with pytest.raises(ValueError, match="is not a share"):
        wilson(count_of_hits, count)


def test_an_f1_lies_in_its_interval_which_is_that_of_a_share():
    """F1 = 2J/(1+J), where J = hits / (count + predicted - hits)."""
    low, high = f1_interval(6, 9, 8)
    assert low < 12 / 17 < high
    assert (low / (2 - low), high / (2 - high)) == pytest.approx(wilson(6, 11))
    assert f1_interval(0, 3, 0)[0] == 0 < f1_interval(0, 3, 0)[1] < 1


def test_macro_f1_has_an_interval_that_narrows_with_the_number_of_proteins():
    few, many = (
        classification(np.tile(TRUTH, repeats), np.tile(PREDICTED, repeats), NAMES) for repeats in (3, 300)
    )
    (low, high), (lower, higher) = macro_f1_interval(few), macro_f1_interval(many)
    assert few["macro_f1"] == pytest.approx(many["macro_f1"])
    assert low < few["macro_f1"] < high
    assert lower < many["macro_f1"] < higher
    assert (high - low) / (higher - lower) == pytest.approx(10, rel=0.3)  # as 1 / sqrt(proteins)
    assert macro_f1_interval(few) == (low, high)


def test_classes_without_proteins_change_no_interval_and_take_no_memory():
    truth, predicted = np.tile(TRUTH, 3), np.tile(PREDICTED, 3)
    few, many = (
        classification(truth, predicted, tuple(map(str, range(number)))) for number in (len(NAMES), 1500)
    )
    tracemalloc.start()
    try:
        assert macro_f1_interval(many) == macro_f1_interval(few)
        assert tracemalloc.get_traced_memory()[1] < 100e6, "the confusion matrix, a few times"
    finally:
        tracemalloc.stop()


def test_every_number_of_the_table_has_an_interval():
    _, _, *rows = classification_table(classification(TRUTH, PREDICTED, NAMES)).splitlines()[2:]
    for row, name in zip(rows, NAMES, strict=True):
        cells = [cell.strip() for cell in row.strip("| ").split(" | ")]
        assert cells[0] == name
        assert all(not cell or re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", cell) for cell in cells[3:])


def test_hits_are_the_diagonal():
    scores = classification(TRUTH, PREDICTED, NAMES)
    assert hits(scores) == int((TRUTH == PREDICTED).sum())
    text = classification_table(scores)
    assert "6 proteins: accuracy 0.500 (3 of 6; 95% interval 0.188 to 0.812)" in text
    assert accuracy_with_interval(scores) == "0.500 (3 of 6; 0.188 to 0.812)"
