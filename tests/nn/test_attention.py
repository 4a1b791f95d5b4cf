"""Attention over clusters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn.attention import ClusterAttention, attended_values, attention_weights, importance
from tests.helpers import assert_close, by_path, noise_of

WIDTH, HEADS = 12, 4
MASK = jnp.array([[1, 1, 1, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(4, WIDTH)), jnp.float32), jnp.asarray(
        rng.normal(size=(4, 4, WIDTH)), jnp.float32
    )


@pytest.fixture(scope="module")
def attention():
    return ClusterAttention(WIDTH, HEADS, dropout=0.5, rngs=nnx.Rngs(0))


def test_against_numpy_loops(attention, inputs):
    protein, clusters = (np.asarray(x, np.float64) for x in inputs)
    weights = {name: array.astype(np.float64) for name, array in by_path(nnx.state(attention)).items()}
    depth = WIDTH // HEADS
    pooled, importance = np.zeros((4, WIDTH)), np.zeros((4, 4))
    for b in range(4):
        valid = np.flatnonzero(MASK[b])
        if not len(valid):
            continue
        for head in range(HEADS):
            part = slice(head * depth, (head + 1) * depth)
            query = (protein[b] @ weights["query.kernel"])[part]
            keys = (clusters[b, valid] @ weights["key.kernel"])[:, part]
            score = np.exp(keys @ query / depth**0.5)
            share = score / score.sum()
            importance[b, valid] += share / HEADS
            pooled[b, part] = share @ (clusters[b, valid] @ weights["value.kernel"])[:, part]
    out = attention(*inputs, MASK)
    assert_close(out.importance, importance)
    assert_close(out.pooled, pooled @ weights["out.kernel"])


def test_weights_sum_to_one_over_valid_clusters_only(attention, inputs):
    out = attention(*inputs, MASK)
    np.testing.assert_allclose(
        out.weights.sum(-1), np.array([1, 1, 1, 0])[:, None] * np.ones(HEADS), atol=1e-6
    )
    np.testing.assert_array_equal(np.asarray(out.importance)[~np.asarray(MASK)], 0)
    np.testing.assert_array_equal(out.pooled[3], 0)
    spoiled = jnp.where(MASK[..., None], inputs[1], 1e4)
    np.testing.assert_array_equal(attention(inputs[0], spoiled, MASK).pooled, out.pooled)


def test_every_weight_and_cluster_gets_a_gradient(attention, inputs):
    """REFERENCE fault 1: query and key of the published attention never learn."""
    graphdef, params = nnx.split(attention)

    def total(params, protein, clusters):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params)(protein, clusters, MASK).pooled))

    params, protein, clusters = jax.grad(total, argnums=(0, 1, 2))(params, *inputs)
    for name, gradient in by_path(params).items():
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-4, name
    live = np.abs(clusters).max(-1) > 0
    np.testing.assert_array_equal(live, MASK)
    # Weights of a protein with one cluster cannot move, nor those of one without.
    np.testing.assert_array_equal(np.abs(protein).max(-1) > 1e-6, [True, True, False, False])


def test_dropout_acts_on_the_pooled_vector_and_not_on_importance(attention, inputs):
    plain, dropped = attention(*inputs, MASK), attention(*inputs, MASK, noise=noise_of(len(MASK)))
    np.testing.assert_array_equal(plain.importance, dropped.importance)
    assert np.abs(plain.pooled - dropped.pooled).max() > 0.01


def test_temperature_sharpens(attention, inputs):
    cold, warm = (attention(*inputs, MASK, temperature=t).weights for t in (0.01, 100.0))
    assert np.all(cold[:3].max(-1) >= warm[:3].max(-1))
    np.testing.assert_allclose(warm[0, :, :3], 1 / 3, atol=0.01)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_weights_values_and_importance_against_numpy(temperature):
    rng = np.random.default_rng(1)
    depth = WIDTH // HEADS
    query, keys = rng.normal(size=(4, HEADS, depth)), rng.normal(size=(4, 4, HEADS, depth))
    values = rng.normal(size=(4, 4, HEADS, depth))
    want, pooled = np.zeros((4, HEADS, 4)), np.zeros((4, WIDTH))
    for b, head in np.ndindex(4, HEADS):
        valid = np.flatnonzero(MASK[b])
        if len(valid):
            score = np.exp(keys[b, valid, head] @ query[b, head] / depth**0.5 / temperature)
            want[b, head, valid] = score / score.sum()
        pooled[b, head * depth : (head + 1) * depth] = want[b, head] @ values[b, :, head]
    got = attention_weights(*(jnp.asarray(a, jnp.float32) for a in (query, keys)), MASK, temperature)
    assert_close(got, want)
    assert_close(attended_values(got, jnp.asarray(values, jnp.float32)), pooled)
    assert_close(importance(got), want.mean(1))
