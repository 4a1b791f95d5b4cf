"""The graphs of this package: `jraph.GraphsTuple`s whose type says what their fields hold.

    PackedGraph       coordinates and neighbours, as they travel to the device (`pack`, `BatchLoader`)
    FeaturisedGraph   geometric features, what the models read (`featurise`)
    HiddenGraph       hidden features between the layers of the encoder

One legend: B proteins, N residues (flat over a batch), K neighbours, E edges. Graph B, the last one, holds
the padding residues.

Two layouts, told apart by `receivers` alone:

    neighbour table   `receivers` is None and `senders` int32 [N, K]: row i holds the senders of the edges
                      that end in residue i, nearest first. Fields of `edges` are [N, K, ...]. A residue with
                      fewer than K neighbours fills its row with masked edges that point to itself. All that
                      this package packs is a table, and only a table is read in the fast form.
    edge list         `senders` and `receivers` int32 [E] in any order, fields of `edges` [E, ...]: any other
                      graph, and what `edge_list` makes of a table.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import jraph
import numpy as np

Array = jax.Array | np.ndarray
"""NumPy on the host, jax on the device."""


class ResidueNodes(NamedTuple):
    """`graph.nodes` of a packed batch, as it travels to the device."""

    backbone: Array
    """float32 [N, 4, 3]: N, CA, C, O in Å; NaN where an atom is missing and in padding."""
    residue_type: Array
    """int32 [N]: index into `ARNDCQEGHILKMFPSTWYV`, 20 where the type is unknown."""
    mask: Array
    """bool [N]: a real residue with all four atoms."""


class NeighbourEdges(NamedTuple):
    """`graph.edges` of a packed batch."""

    mask: Array
    """bool [N, K] or [E]: a real edge."""


class ProteinGlobals(NamedTuple):
    """`graph.globals` of a batch; the last entry is the padding graph."""

    label: Array
    """int32 [B + 1]: class, -1 where there is none."""
    protein: Array
    """int32 [B + 1]: number of the protein in its dataset, -1 where there is none."""
    mask: Array
    """bool [B + 1]: a real protein."""


class NodeFeatures(NamedTuple):
    """`graph.nodes` of a featurised batch."""

    scalars: jax.Array
    """float32 [N, 6]: cos and sin of the backbone dihedrals."""
    vectors: jax.Array
    """float32 [N, 3, 3]: to the next CA, to the previous CA, side-chain direction."""
    residue_type: jax.Array
    """int32 [N]."""
    mask: jax.Array
    """bool [N]."""


class EdgeFeatures(NamedTuple):
    """`graph.edges` of a featurised or hidden batch; leading axes [N, K] or [E]."""

    scalars: jax.Array
    """float32 [..., 32]: 16 Gaussians of the CA distance, 16 positional features; hidden: [..., D]."""
    vectors: jax.Array
    """float32 [..., 1, 3]: unit vector from receiver to sender; hidden: [..., C, 3]."""
    mask: jax.Array
    """bool [...]."""


class HiddenNodes(NamedTuple):
    """`graph.nodes` between the layers of the encoder."""

    scalars: jax.Array
    """float32 [N, D]."""
    vectors: jax.Array
    """float32 [N, C, 3]."""


class PackedGraph(jraph.GraphsTuple):
    """A batch of proteins as coordinates and neighbours: 203 bytes per residue at K = 30."""

    __slots__ = ()
    nodes: ResidueNodes
    edges: NeighbourEdges
    globals: ProteinGlobals
    senders: Array
    receivers: Array | None
    n_node: Array
    n_edge: Array


class FeaturisedGraph(jraph.GraphsTuple):
    """A batch of proteins as geometric features: what the models read."""

    __slots__ = ()
    nodes: NodeFeatures
    edges: EdgeFeatures
    globals: ProteinGlobals
    senders: jax.Array
    receivers: jax.Array | None
    n_node: jax.Array
    n_edge: jax.Array


class HiddenGraph(jraph.GraphsTuple):
    """A batch of proteins as hidden features, between the layers of the encoder."""

    __slots__ = ()
    nodes: HiddenNodes
    edges: EdgeFeatures
    globals: ProteinGlobals | None
    senders: jax.Array
    receivers: jax.Array | None
    n_node: jax.Array
    n_edge: jax.Array


Graph = TypeVar("Graph", bound=PackedGraph | FeaturisedGraph | HiddenGraph)


def edge_list(graph: Graph) -> Graph:
    """The same graph with its table of neighbours as a list of edges, masked ones included.

    Edge i K + k is the k-th of receiver i. A graph that is a list already comes back as it is.
    """
    if graph.receivers is not None:
        return graph
    num_nodes, width = graph.senders.shape
    return graph._replace(
        edges=jax.tree.map(lambda x: x.reshape(num_nodes * width, *x.shape[2:]), graph.edges),
        senders=graph.senders.reshape(-1),
        receivers=jnp.repeat(jnp.arange(num_nodes, dtype=jnp.int32), width),
    )


def check_layout(graph: PackedGraph | FeaturisedGraph | HiddenGraph) -> None:
    """Raises ValueError for a graph that is neither a table of neighbours nor a list of edges."""
    senders, receivers, mask = graph.senders, graph.receivers, graph.edges.mask
    num_nodes = jax.tree.leaves(graph.nodes)[0].shape[0]
    table = receivers is None and senders.ndim == 2 and senders.shape[0] == num_nodes
    edges = receivers is not None and senders.ndim == 1 and receivers.shape == senders.shape
    if not (table or edges) or mask.shape != senders.shape:
        ends = "None" if receivers is None else f"of shape {receivers.shape}"
        raise ValueError(
            f"the graph of {num_nodes} nodes has senders of shape {senders.shape}, receivers {ends} and an "
            f"edge mask of shape {mask.shape}; give a table of neighbours (senders and mask of "
            "[nodes, neighbours], receivers None) or a list of edges (senders, receivers and mask [edges])"
        )
