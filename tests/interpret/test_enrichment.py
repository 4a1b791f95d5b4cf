"""Tokens and labels: against numbers computed by hand, and on labels that say nothing."""

from math import comb

import numpy as np
import pytest

from partoken_jax.interpret.enrichment import fisher_enrichment
from partoken_jax.interpret.purity import association, purity


def test_fisher_by_hand():
    """Token 7 has 3 clusters, all of class a, of which there are 4 among 8."""
    tokens = np.array([7, 7, 7, 2, 2, 2, 2, 2, -1, 7])
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, -1])
    found = {(row.token, row.label): row for row in fisher_enrichment(tokens, labels, {0: "a", 1: "b"})}
    assert len(found) == 4
    row = found[7, "a"]
    assert (row.both, row.of_token, row.of_label, row.clusters, row.ratio) == (3, 3, 4, 8, 2.0)
    assert row.p == pytest.approx(comb(4, 3) * comb(4, 0) / comb(8, 3))
    assert found[2, "b"].p == pytest.approx(comb(4, 4) * comb(4, 1) / comb(8, 5))
    # Both are 1/14, the smallest of four: times 4 over their rank, which is 2.
    assert row.q == found[2, "b"].q == pytest.approx(4 / 14 / 2)
    assert found[7, "b"].p == found[2, "a"].q == 1


def test_nothing_to_test():
    assert fisher_enrichment(np.array([-1]), np.array([0]), {0: "a"}) == []
    assert fisher_enrichment(np.array([1]), np.array([0]), {1: "b"}) == []


def test_few_pairs_are_told_where_there_is_nothing():
    rng = np.random.default_rng(0)
    found = fisher_enrichment(rng.integers(8, size=400), rng.integers(4, size=400), dict(enumerate("abcd")))
    assert len(found) == 32 and min(row.q for row in found) > 0.05


def test_purity_by_hand():
    rng = np.random.default_rng(1)
    tokens = rng.integers(5, size=200)
    labels = (tokens + rng.integers(3, size=200)) % 4
    assert purity(tokens, labels) == sum(np.bincount(labels[tokens == t]).max() for t in range(5)) / 200


def test_tokens_of_a_class_are_told_from_shuffled_labels():
    rng = np.random.default_rng(2)
    labels = rng.integers(3, size=60)
    labels[:5] = -1
    protein = np.repeat(np.arange(60), 4)
    tokens = np.where(rng.random(240) < 0.5, labels[protein] + 10, rng.integers(8, size=240))
    found = association(purity, tokens, protein, labels, shuffles=200)
    assert found["p"] == pytest.approx(1 / 201) and found["value"] > found["shuffled_interval"][1]
    nothing = association(purity, rng.integers(8, size=240), protein, labels, shuffles=200)
    assert nothing["p"] > 0.05
    assert nothing["shuffled_interval"][0] <= nothing["shuffled"] <= nothing["shuffled_interval"][1]
    with pytest.raises(ValueError, match="no cluster has a token and a label"):
        association(purity, np.full(240, -1), protein, labels)
