"""The classification loss: real proteins only."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partoken_jax.training.losses import balanced_weights, cross_entropy

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


def test_label_smoothing_is_the_cross_entropy_with_a_smoothed_target():
    labels, mask = jnp.array([0, 2, -1]), jnp.array([True, True, False])
    target = 0.7 * np.eye(3)[[0, 2]] + 0.1
    log_p = np.asarray(jax.nn.log_softmax(LOGITS))[:2]
    want = -(target * log_p).sum(1).mean()
    assert cross_entropy(LOGITS, labels, mask, label_smoothing=0.3) == pytest.approx(want, rel=1e-6)


def test_class_weights_scale_what_a_protein_adds_not_the_count():
    labels, mask = jnp.array([0, 2, -1]), jnp.array([True, True, False])
    log_p = np.asarray(jax.nn.log_softmax(LOGITS))
    want = -(2 * log_p[0, 0] + 0.5 * log_p[1, 2]) / 2
    got = cross_entropy(LOGITS, labels, mask, class_weights=jnp.array([2.0, 9.0, 0.5]))
    assert got == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_balanced_weights_keep_the_scale_of_the_loss(balance):
    counts = np.array([90, 0, 10])
    weights = balanced_weights(counts, balance)
    assert weights @ counts == pytest.approx(counts.sum(), rel=1e-6)
    assert weights[2] / weights[0] == pytest.approx(9**balance, rel=1e-6) and weights[1] == 0


def test_without_balance_nothing_is_weighed():
    assert balanced_weights(np.array([90, 10]), 0.0) is None
    assert balanced_weights(np.array([0, 0]), 0.3) is None  # pretraining has no labels
