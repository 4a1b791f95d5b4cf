"""Attention over clusters and the gate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn.attention import ClusterAttention
from partoken_jax.nn.fusion import GatedFusion
from tests.helpers import assert_close, by_path

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
    plain, dropped = attention(*inputs, MASK), attention(*inputs, MASK, key=jax.random.key(0))
    np.testing.assert_array_equal(plain.importance, dropped.importance)
    assert np.abs(plain.pooled - dropped.pooled).max() > 0.01


def test_temperature_sharpens(attention, inputs):
    cold, warm = (attention(*inputs, MASK, temperature=t).weights for t in (0.01, 100.0))
    assert np.all(cold[:3].max(-1) >= warm[:3].max(-1))
    np.testing.assert_allclose(warm[0, :, :3], 1 / 3, atol=0.01)


def test_gate_lies_in_the_unit_interval_and_zero_clusters_change_nothing(inputs):
    fusion = GatedFusion(WIDTH, rngs=nnx.Rngs(0))
    protein, clusters = inputs[0], inputs[1][:, 0]
    fused, beta = fusion(protein, clusters)
    assert np.all((beta > 0) & (beta < 1))
    wide = np.asarray(protein, np.float64) + np.asarray(beta) * np.asarray(fusion.project(clusters))
    want = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    assert_close(fused, want)
    without, _ = fusion(protein, jnp.zeros_like(clusters))
    assert_close(without, fusion.norm(protein))
