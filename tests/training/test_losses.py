"""The objective: each term once, real proteins only."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partoken_jax.training.losses import LossWeights, cross_entropy, total_loss


class Auxiliary(NamedTuple):
    vq: jax.Array
    coverage: jax.Array
    cardinality: jax.Array


LOGITS = jnp.array([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [9.0, 9.0, -9.0]])
AUXILIARY = Auxiliary(jnp.float32(2.0), jnp.float32(-0.5), jnp.float32(8.0))


def test_cross_entropy_is_the_mean_over_real_proteins():
    got = cross_entropy(LOGITS, jnp.array([0, 2, -1]), jnp.array([True, True, False]))
    first = -np.log(np.exp(2) / (np.exp(2) + 1 + np.exp(-1)))
    assert got == pytest.approx((first + np.log(3)) / 2, rel=1e-6)


def test_padding_has_no_influence_and_no_gradient():
    mask, labels = jnp.array([True, True, False]), jnp.array([0, 2, -1])
    gradient = jax.grad(cross_entropy)(LOGITS.at[2].set(1e30), labels, mask)
    chex.assert_tree_all_finite(gradient)
    assert jnp.all(gradient[2] == 0) and jnp.all(gradient[:2] != 0)


def test_a_protein_without_a_label_counts_as_little_as_padding():
    """Neither as class 0 nor in the number that the mean is taken over."""
    labels, everyone = jnp.array([0, 2, -1]), jnp.ones(3, bool)
    loss, gradient = jax.value_and_grad(cross_entropy)(LOGITS, labels, everyone)
    want, want_gradient = jax.value_and_grad(cross_entropy)(LOGITS, labels, jnp.array([True, True, False]))
    assert loss == want
    np.testing.assert_array_equal(gradient, want_gradient)
    assert jnp.all(gradient[2] == 0)
    loss, gradient = jax.value_and_grad(cross_entropy)(LOGITS, jnp.full(3, -1), everyone)
    assert loss == 0 and jnp.all(gradient == 0)


def test_a_batch_without_proteins_costs_nothing():
    assert cross_entropy(LOGITS, jnp.full(3, -1), jnp.zeros(3, bool)) == 0


def test_total_counts_every_term_once():
    weights = LossWeights(vq=0.1, coverage=3.0, cardinality=0.005)
    terms = total_loss(LOGITS[:2], jnp.array([0, 2]), jnp.ones(2, bool), AUXILIARY, weights)
    assert terms.total == pytest.approx(terms.cross_entropy + 0.1 * 2 - 3 * 0.5 + 0.005 * 8)
    assert (terms.vq, terms.coverage, terms.cardinality) == (2.0, -0.5, 8.0)


@pytest.mark.parametrize("term", Auxiliary._fields)
def test_weight_of_a_term_is_its_gradient(term):
    weights = LossWeights(vq=0.1, coverage=3.0, cardinality=0.005)

    def total(auxiliary):
        return total_loss(LOGITS[:2], jnp.array([0, 2]), jnp.ones(2, bool), auxiliary, weights).total

    assert getattr(jax.grad(total)(AUXILIARY), term) == pytest.approx(getattr(weights, term))


def test_without_auxiliary_terms_the_total_is_the_cross_entropy():
    terms = total_loss(LOGITS[:2], jnp.array([0, 2]), jnp.ones(2, bool), None, LossWeights(1.0, 1.0, 1.0))
    assert terms.total == terms.cross_entropy > 0
    assert terms.vq == terms.coverage == terms.cardinality == 0
