"""Reductions from residues to proteins against plain numpy; masked residues never count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.graphs.segments import graph_index, segment_max, segment_mean, segment_softmax
from partoken_jax.nn.pooling import Pool
from tests.helpers import assert_close, random_graph

SIZES = (4, 1, 0, 7)  # the third slot is empty
GRAPHS = len(SIZES) + 1
WIDTH = 6


@pytest.fixture(scope="module")
def data():
    """(x [N, D], mask, index): 15 nodes, the last 3 padding, one residue masked."""
    rng = np.random.default_rng(0)
    graph = random_graph(rng, SIZES, k=2, num_nodes=15, incomplete=(6,))
    x = rng.normal(size=(15, WIDTH)).astype(np.float32) - 3  # negative, so that a 0 would win a maximum
    x[~graph.nodes.mask] = 50.0
    return jnp.asarray(x), jnp.asarray(graph.nodes.mask), graph_index(graph)


def members(data):
    x, mask, index = map(np.asarray, data)
    return [x[mask & (index == g)] for g in range(GRAPHS)]


def test_graph_index(data):
    np.testing.assert_array_equal(data[2], np.repeat(np.arange(GRAPHS), (*SIZES, 3)))


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


def test_softmax_is_per_protein(data):
    """REFERENCE fault 10: the published softmax ran over all proteins of the batch."""
    x, mask, index = data
    weight = segment_softmax(100 * x[:, 0], mask, index, GRAPHS)
    total = jax.ops.segment_sum(weight, index, GRAPHS)
    np.testing.assert_allclose(total, [1, 1, 0, 1, 0], atol=1e-6)
    np.testing.assert_array_equal(np.asarray(weight)[~np.asarray(mask)], 0)
    other = jnp.where(index == 0, x[:, 0], 5.0)  # other proteins change, the first does not
    first = segment_softmax(other, mask, index, GRAPHS)[:4]
    np.testing.assert_allclose(first, jax.nn.softmax(x[:4, 0]), rtol=1e-6)


def test_attention_pooling_gradients_are_finite_and_stay_in_the_protein(data):
    pool = Pool("attention", WIDTH, rngs=nnx.Rngs(0))
    gradient = jax.grad(lambda x: jnp.sum(pool(x, *data[1:], GRAPHS)[0] ** 2))(data[0])
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:4]).min(axis=1).max() > 0
    np.testing.assert_array_equal(gradient[4:], 0)


def test_reductions_do_not_read_masked_rows(data):
    x, mask, index = data
    spoiled = jnp.where(mask[:, None], x, 1e6)
    for reduce in (segment_mean, segment_max):
        np.testing.assert_array_equal(reduce(spoiled, mask, index, GRAPHS), reduce(x, mask, index, GRAPHS))
