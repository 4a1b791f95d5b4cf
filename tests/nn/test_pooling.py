"""Pooling of residues to proteins against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn.pooling import Pool, weighted_sum
from tests.helpers import SLOTS, assert_close, residues_in_slots

GRAPHS = len(SLOTS) + 1
WIDTH = 6


@pytest.fixture(scope="module")
def data():
    return residues_in_slots(WIDTH)


def members(data):
    x, mask, index = map(np.asarray, data)
    return [x[mask & (index == g)] for g in range(GRAPHS)]


@pytest.mark.parametrize("pooling", ["mean", "max", "sum", "attention"])
def test_pooling_against_numpy(data, pooling):
    pool = Pool(pooling, WIDTH, rngs=nnx.Rngs(0))

    def attention(rows):
        first, last = pool.score.layers
        hidden = np.maximum(rows @ np.asarray(first.kernel[...]) + np.asarray(first.bias[...]), 0)
        score = hidden @ np.asarray(last.kernel[...]) + np.asarray(last.bias[...])
        weight = np.exp(score - score.max())
        return (weight / weight.sum() * rows).sum(0)

    numpy = {"mean": lambda r: r.mean(0), "max": lambda r: r.max(0), "sum": lambda r: r.sum(0)}
    expected = numpy.get(pooling, attention)
    got = pool(*data, GRAPHS)
    want = [expected(rows) if len(rows) else np.zeros(WIDTH) for rows in members(data)]
    assert_close(got, np.stack(want))
    np.testing.assert_array_equal(got[2], 0)
    np.testing.assert_array_equal(got[-1], 0)


def test_attention_pooling_gradients_are_finite_and_stay_in_the_protein(data):
    pool = Pool("attention", WIDTH, rngs=nnx.Rngs(0))
    gradient = jax.grad(lambda x: jnp.sum(pool(x, *data[1:], GRAPHS)[0] ** 2))(data[0])
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:4]).min(axis=1).max() > 0
    np.testing.assert_array_equal(gradient[4:], 0)


def test_weighted_sum(data):
    x, _, index = data
    weight = np.random.default_rng(1).random(len(x)).astype(np.float32)
    want = [weight[here] @ np.asarray(x)[here] for here in (np.asarray(index) == g for g in range(GRAPHS))]
    assert_close(weighted_sum(x, weight, index, GRAPHS), np.stack(want))


@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_a_normalised_pool_does_not_tell_long_proteins_by_their_size(data, pooling):
    pool = Pool(pooling, WIDTH, norm=True, rngs=nnx.Rngs(0))
    x, mask, index = data
    got, large = np.asarray(pool(x, mask, index, GRAPHS)), pool(100 * x, mask, index, GRAPHS)
    full = [g for g, rows in enumerate(members(data)) if len(rows)]
    np.testing.assert_allclose(got[full].mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(got[full].std(1), 1, atol=1e-3)
    np.testing.assert_allclose(large, got, atol=2e-3)
    np.testing.assert_array_equal(got[-1], 0)
