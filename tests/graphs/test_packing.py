import jax
import jraph
import numpy as np
import pytest

from partoken_jax.graphs import edge_list, featurise, neighbour_tables, pack
from partoken_jax.graphs.types import NeighbourEdges, PackedGraph
from partoken_jax.proteins import DataError, Protein

LETTERS = "ARNDCQEGHILKMFPSTWYV"


def protein_of(length, name="p", missing=(), label=0):
    rng = np.random.default_rng(length)
    backbone = rng.normal(scale=5, size=(length, 4, 3)).astype(np.float32)
    backbone[list(missing), 3] = np.nan
    return Protein(name, "".join(rng.choice(list(LETTERS), length)), backbone, label=label)


def proteins_of(*lengths):
    return [protein_of(n, f"p{i}", label=i) for i, n in enumerate(lengths)]


def test_shapes_types_and_padding():
    proteins = [*proteins_of(7, 1, 12), protein_of(5, missing=[2], label=3)]
    tables = neighbour_tables(proteins, 6)
    graph = pack(proteins, tables, num_nodes=40, batch_size=6, indices=[9, 4, 2, 30])
    assert graph.n_node.tolist() == [7, 1, 12, 5, 0, 0, 15]
    assert graph.n_edge.tolist() == [42, 6, 72, 30, 0, 0, 90]
    assert graph.globals.label.tolist() == [0, 1, 2, 3, -1, -1, -1]
    assert graph.globals.protein.tolist() == [9, 4, 2, 30, -1, -1, -1]
    assert graph.globals.mask.tolist() == [True] * 4 + [False] * 3
    expected = {
        "backbone": ((40, 4, 3), np.float32),
        "residue_type": ((40,), np.int32),
        "mask": ((40,), np.bool_),
    }
    for name, (shape, kind) in expected.items():
        array = getattr(graph.nodes, name)
        assert (type(array), array.shape, array.dtype) == (np.ndarray, shape, kind)
    for array, shape in (
        (graph.senders, (40, 6)),
        (graph.n_node, (7,)),
        (graph.n_edge, (7,)),
        (graph.globals.label, (7,)),
        (graph.globals.protein, (7,)),
    ):
        assert (type(array), array.shape, array.dtype) == (np.ndarray, shape, np.int32)
    assert graph.edges.mask.shape == (40, 6) and graph.receivers is None
    assert graph.nodes.mask.tolist() == [True] * 22 + [False] + [True] * 2 + [False] * 15
    assert np.isnan(graph.nodes.backbone[25:]).all()
    assert not graph.edges.mask[25:].any()


def test_every_protein_is_found_whole_in_its_slot():
    proteins = [*proteins_of(7, 1, 12), protein_of(9, missing=[0, 4], label=3)]
    tables = neighbour_tables(proteins, 5)
    graph = pack(proteins, tables)
    senders, masks = graph.senders, graph.edges.mask
    start = 0
    for protein, table in zip(proteins, tables, strict=True):
        rows = slice(start, start + len(protein))
        np.testing.assert_array_equal(graph.nodes.backbone[rows], protein.backbone)
        np.testing.assert_array_equal(graph.nodes.residue_type[rows], protein.residue_types)
        np.testing.assert_array_equal(graph.nodes.mask[rows], protein.complete)
        np.testing.assert_array_equal(masks[rows], table >= 0)
        np.testing.assert_array_equal(np.where(masks[rows], senders[rows] - start, -1), table)
        start += len(protein)


def test_masked_edges_point_to_their_receiver():
    proteins = proteins_of(4, 9)
    graph = pack(proteins, neighbour_tables(proteins, 6))
    own = np.arange(len(graph.senders))[:, None]
    np.testing.assert_array_equal(graph.senders == own, ~graph.edges.mask)


def test_what_travels_is_203_bytes_per_residue_at_30_neighbours():
    proteins = proteins_of(40, 80)
    graph = pack(proteins, neighbour_tables(proteins, 30))
    per_residue = [x.nbytes for x in jax.tree.leaves(graph) if len(x) == len(graph.nodes.mask)]
    assert sum(per_residue) == 203 * len(graph.nodes.mask)


def test_the_list_of_edges_of_a_table():
    proteins = proteins_of(4, 9)
    graph = pack(proteins, neighbour_tables(proteins, 6))
    edges = edge_list(graph)
    assert type(edges) is PackedGraph and edge_list(edges) is edges
    rows = np.flatnonzero(edges.edges.mask)
    want = [(i, k) for i, row in enumerate(graph.edges.mask) for k, real in enumerate(row) if real]
    np.testing.assert_array_equal(edges.receivers[rows], [i for i, _ in want])
    np.testing.assert_array_equal(edges.senders[rows], [graph.senders[i, k] for i, k in want])


def test_graphs_of_no_known_layout_are_refused():
    """A list without receivers, a table with them, a mask of another shape: never read as something else."""
    proteins = proteins_of(4, 9)
    graph = pack(proteins, neighbour_tables(proteins, 6))
    flat = edge_list(graph)
    for wrong in (
        flat._replace(receivers=None),
        graph._replace(receivers=np.asarray(flat.receivers)),
        graph._replace(edges=flat.edges),
        graph._replace(senders=graph.senders[:5], edges=NeighbourEdges(graph.edges.mask[:5])),
    ):
        with pytest.raises(ValueError, match="table of neighbours"):
            featurise(wrong)


def test_edges_never_leave_their_protein():
    proteins = proteins_of(4, 40, 2, 17)
    graph = pack(proteins, neighbour_tables(proteins, 30), batch_size=7)
    slot = np.repeat(np.arange(8), graph.n_node)
    np.testing.assert_array_equal(slot[graph.senders], np.broadcast_to(slot[:, None], graph.senders.shape))


def test_the_order_of_the_proteins_changes_nothing_but_their_place():
    proteins = proteins_of(4, 11, 6)
    tables = neighbour_tables(proteins, 5)
    one = pack(proteins, tables)
    other = pack(proteins[::-1], tables[::-1])
    for start, place, length in ((0, 17, 4), (4, 6, 11), (15, 0, 6)):
        for array, moved in zip(one.nodes, other.nodes, strict=True):
            np.testing.assert_array_equal(array[start : start + length], moved[place : place + length])
        np.testing.assert_array_equal(
            one.senders[start : start + length] - start,
            other.senders[place : place + length] - place,
        )


@pytest.mark.parametrize("total", [63, 64, 65, 127, 128])
def test_there_is_always_a_padding_residue(total):
    proteins = proteins_of(total - 3, 3)
    graph = pack(proteins, neighbour_tables(proteins, 4))
    assert graph.n_node.sum() % 64 == 0
    assert 1 <= graph.n_node[-1] <= 64
    assert graph.n_node[-1] == graph.n_node.sum() - total


def test_jraph_understands_the_padding():
    proteins = proteins_of(7, 5)
    graph = jax.device_put(pack(proteins, neighbour_tables(proteins, 4), num_nodes=20, batch_size=3))
    assert jraph.get_number_of_padding_with_graphs_nodes(graph) == 8
    assert jraph.get_node_padding_mask(graph).tolist() == [True] * 12 + [False] * 8


def test_what_does_not_fit_is_refused():
    proteins = proteins_of(10, 10)
    tables = neighbour_tables(proteins, 4)
    assert pack(proteins, tables, num_nodes=21).n_node.tolist() == [10, 10, 1]
    with pytest.raises(DataError, match="2 proteins of 20 residues do not fit into 2 slots and 20 nodes"):
        pack(proteins, tables, num_nodes=20)
    with pytest.raises(DataError, match="do not fit into 1 slots"):
        pack(proteins, tables, batch_size=1)


def test_tables_of_other_proteins_are_refused_by_name():
    proteins = proteins_of(10, 8)
    tables = neighbour_tables(proteins, 4)
    with pytest.raises(DataError, match=r"p0: neighbour table has shape \(8, 4\), but must be \(10, 4\)"):
        pack(proteins, tables[::-1])
    with pytest.raises(DataError, match=r"p1: neighbour table has shape \(8, 3\)"):
        pack(proteins, [tables[0], tables[1][:, :3]])
    with pytest.raises(DataError, match="1 neighbour tables for 2 proteins"):
        pack(proteins, tables[:1])
    with pytest.raises(DataError, match="0 neighbour tables for 0 proteins"):
        pack([], [])


@pytest.mark.parametrize("indices", [[7], [7, 8, 9], [], [[7, 8]]])
def test_a_wrong_number_of_indices_is_refused(indices):
    proteins = proteins_of(10, 8)
    with pytest.raises(DataError, match=r"^indices has shape \(.*\) for 2 proteins; give one index"):
        pack(proteins, neighbour_tables(proteins, 4), indices=indices)
