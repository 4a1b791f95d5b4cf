"""How alike two clusterings are."""

import numpy as np
import pytest

from partoken_jax.interpret.stability import (
    agreement,
    agreement_of_all,
    noisy,
    same_tokens,
)
from partoken_jax.proteins import DataError
from partoken_jax.training.trained import Prediction


def test_agreement_by_hand():
    first, second = np.array([0, 0, 1, 1, -1, -1]), np.array([2, 2, 2, -1, 0, -1])
    found = agreement(first, second)
    # Of 15 pairs 1 is together in both, 3 in the first and 4 in the second, which chance would give 0.8.
    assert found.adjusted_rand == pytest.approx((1 - 0.8) / (3.5 - 0.8))
    assert found.adjusted_rand_clustered == 0  # all in one cluster says nothing of two
    assert agreement(first, np.where(first < 0, -1, 7 - first)) == (1, 1, 1)  # by other numbers
    assert found.overlap == 3 / 5
    mean = agreement_of_all([first, second, first])
    assert mean.overlap == pytest.approx((3 / 5 + 1 + 3 / 5) / 3)
    nothing = np.full(6, -1)
    assert agreement(nothing, nothing) == (1, 1, 1)
    with pytest.raises(DataError, match="give two or more"):
        agreement_of_all([first])
    with pytest.raises(DataError, match="of 6 and 5 residues"):
        agreement(first, second[:5])


def test_noise_has_its_size(chains):
    shaken = noisy(chains[1], 0.3, np.random.default_rng(0))
    moved = shaken.backbone - chains[1].backbone
    assert moved.std() == pytest.approx(0.3, rel=0.1) and shaken.sequence == chains[1].sequence
    whole = noisy(chains[1], 0.3, np.random.default_rng(0), whole_residues=True).backbone - chains[1].backbone
    np.testing.assert_allclose(whole, np.broadcast_to(whole[:, :1], whole.shape), atol=1e-4)
    assert whole.std() == pytest.approx(0.3, rel=0.2)


def test_tokens_are_compared_where_clusters_grew_from_the_same_residue():
    def said(seeds, codes):
        none = np.zeros(0)
        return Prediction("", "", none, none, none, np.array(seeds), np.array(codes), none)

    first = said([4, 9, 20, -1], [1, 2, 3, -1])
    assert same_tokens(first, said([9, 4, 30, -1], [2, 8, 3, -1])) == (1, 2)
    assert same_tokens(first, said([9, 4, 30, -1], [-1, -1, -1, -1])) == (0, 0)
