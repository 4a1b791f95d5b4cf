"""Reductions over the nodes of each graph against plain NumPy; masked nodes never count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partoken_jax.graphs.segments import (
    first_node,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
)
from tests.helpers import SLOTS, assert_close, random_graph, residues_in_slots

GRAPHS = len(SLOTS) + 1
WIDTH = 6


@pytest.fixture(scope="module")
def data():
    return residues_in_slots(WIDTH)


def test_graph_index(data):
    np.testing.assert_array_equal(data[2], np.repeat(np.arange(GRAPHS), (*SLOTS, 3)))


def test_first_nodes():
    graph = random_graph(np.random.default_rng(0), SLOTS, k=2, num_nodes=15)
    np.testing.assert_array_equal(first_node(graph), np.cumsum((0, *SLOTS)))


def test_reductions_against_numpy(data):
    x, mask, index = map(np.asarray, data)
    rows = [x[mask & (index == g)] for g in range(GRAPHS)]
    nothing = np.zeros(WIDTH)
    mean, largest = segment_mean(*data, GRAPHS), segment_max(*data, GRAPHS)
    assert_close(mean, np.stack([r.mean(0) if len(r) else nothing for r in rows]))
    assert_close(largest, np.stack([r.max(0) if len(r) else nothing for r in rows]))
    assert_close(
        segment_sum(data[0], data[2], GRAPHS), np.stack([x[index == g].sum(0) for g in range(GRAPHS)])
    )
    exponents = [np.exp(r[:, 0] - r[:, 0].max()) if len(r) else np.zeros(0) for r in rows]
    soft = np.zeros(len(x))
    soft[mask] = np.concatenate([e / e.sum() if len(e) else e for e in exponents])
    assert_close(segment_softmax(data[0][:, 0], *data[1:], GRAPHS), soft)


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


def test_reductions_do_not_read_masked_rows(data):
    x, mask, index = data
    spoiled = jnp.where(mask[:, None], x, 1e6)
    for reduce in (segment_mean, segment_max):
        np.testing.assert_array_equal(reduce(spoiled, mask, index, GRAPHS), reduce(x, mask, index, GRAPHS))
