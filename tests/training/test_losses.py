"""The classification loss: real proteins only."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partoken_jax.training.losses import cross_entropy

LOGITS = jnp.array([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0], [9.0, 9.0, -9.0]])


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
