import numpy as np
import pytest

from experiments.parity.layout import dense_layout


@pytest.mark.parametrize("seed", range(5))
def test_every_edge_is_in_its_receivers_row_once_and_in_order(seed):
    rng = np.random.default_rng(seed)
    num_nodes, num_edges = int(rng.integers(1, 12)), int(rng.integers(0, 40))
    senders, receivers = rng.integers(0, num_nodes, (2, num_edges))
    table, edge_slot = dense_layout(senders, receivers, num_nodes)
    assert table.dtype == edge_slot.dtype == np.int32
    assert table.shape == edge_slot.shape
    assert table.shape[1] == max(1, np.bincount(receivers, minlength=num_nodes).max())
    for node in range(num_nodes):
        edges = np.flatnonzero(receivers == node)
        rest = table.shape[1] - len(edges)
        assert edge_slot[node].tolist() == edges.tolist() + [-1] * rest
        assert table[node].tolist() == senders[edges].tolist() + [node] * rest


def test_a_graph_in_the_layout_comes_back_as_it_is():
    neighbours = np.array([[1, 2], [2, 0], [0, 1]])
    table, edge_slot = dense_layout(neighbours.reshape(-1), np.repeat(np.arange(3), 2), 3)
    np.testing.assert_array_equal(table, neighbours)
    np.testing.assert_array_equal(edge_slot, np.arange(6).reshape(3, 2))


def test_a_graph_without_edges_has_empty_rows():
    table, edge_slot = dense_layout(np.empty(0, int), np.empty(0, int), 3)
    assert table.tolist() == [[0], [1], [2]]
    assert edge_slot.tolist() == [[-1], [-1], [-1]]


@pytest.mark.parametrize(
    ("senders", "receivers", "message"),
    [
        ([0, 1], [0], r"senders has shape \(2,\) and receivers \(1,\)"),
        ([0, 3], [0, 1], "senders run from 0 to 3, but there are 3 nodes"),
        ([0, 1], [-1, 1], "receivers run from -1 to 1, but there are 3 nodes"),
    ],
)
def test_bad_edges_are_refused(senders, receivers, message):
    with pytest.raises(ValueError, match=message):
        dense_layout(senders, receivers, 3)
