"""What the fields of our `jraph.GraphsTuple`s hold.

One legend: B proteins, N residues (flat over a batch), K neighbours, E = N * K edges.

Layout of every packed graph: edge e belongs to receiver e // K, so `senders.reshape(N, K)` is the
neighbour table, nearest first. A residue with fewer than K neighbours fills its row with masked
edges that point to itself. Graph B, the last one, holds the padding residues.
"""

from typing import NamedTuple

import jax


class ResidueNodes(NamedTuple):
    """`graph.nodes` of a packed batch, as it travels to the device."""

    backbone: jax.Array
    """float32 [N, 4, 3]: N, CA, C, O in Å; NaN where an atom is missing and in padding."""
    residue_type: jax.Array
    """int32 [N]: index into `ARNDCQEGHILKMFPSTWYV`."""
    mask: jax.Array
    """bool [N]: a real residue with all four atoms."""


class NeighbourEdges(NamedTuple):
    """`graph.edges` of a packed batch."""

    mask: jax.Array
    """bool [E]: a real edge."""


class ProteinGlobals(NamedTuple):
    """`graph.globals` of a batch; the last entry is the padding graph."""

    label: jax.Array
    """int32 [B + 1]: class, -1 where there is none."""
    protein: jax.Array
    """int32 [B + 1]: number of the protein in its dataset, -1 where there is none."""
    mask: jax.Array
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
    """`graph.edges` of a featurised batch."""

    scalars: jax.Array
    """float32 [E, 32]: 16 Gaussians of the CA distance, 16 positional features."""
    vectors: jax.Array
    """float32 [E, 1, 3]: unit vector from receiver to sender."""
    mask: jax.Array
    """bool [E]."""
