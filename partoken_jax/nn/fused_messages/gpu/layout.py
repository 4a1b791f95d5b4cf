"""What the kernels for GPUs read: slots first, receivers in rows, features in columns.

A warpgroup multiplies 64 rows at a time, bfloat16 in groups of 16 columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from partoken_jax.graphs.types import EdgeFeatures
from partoken_jax.nn.fused_messages.layout import flat_vectors, mean_weights, padded, rounded_up
from partoken_jax.nn.fused_messages.weights import MessageWeights, Widths, node_parts
from partoken_jax.nn.gather import ReverseNeighbours, reverse_neighbours
from partoken_jax.nn.gvp import GVP, Features
from partoken_jax.nn.linear import affine, kernel

TILE = 64
"""R, receivers of a tile: rows of a product of a warpgroup."""
ROW_BYTES = 128
"""Rows of the senders' table begin at multiples of it, as copies of a row to shared memory have to."""
COLUMNS = 16
"""Columns of bfloat16 that a product takes at once: widths are multiples of it."""


class SlotEdges(NamedTuple):
    """The edges of a batch, the same for all layers."""

    features: jax.Array
    """float32 or bfloat16 [K, n, E + G]: scalars, then vectors, x of every channel first."""
    sender: jax.Array
    """int32 [K, n]."""
    weight: jax.Array
    """float32 [K, n]: 1 / number of edges that end in the receiver, 0 where there is no edge."""
    reverse: ReverseNeighbours
    """The edges that every residue sends along, numbered as in [K, n]."""


class Blocks(NamedTuple):
    """The weights of the three GVPs that belong to edges, float32 [in, out]; names as in `MessageWeights`."""

    edge_s: jax.Array
    """[E, S]: from an edge's scalars to s' of the first GVP."""
    edge_v: jax.Array
    """[G, 3 H]: from all coordinates of an edge's vectors to all of vh of the first GVP."""
    h1: jax.Array
    """[V, H]: from the sender's vectors to each coordinate of vh."""
    n1: jax.Array
    """[H, S]"""
    v1: jax.Array
    """[H, C]"""
    s2: jax.Array
    """[S + C, S]: of scalars and norms; the last scalar is 1, so that its row is the bias."""
    h2: jax.Array
    """[C, C], as the next two."""
    v2: jax.Array
    h3: jax.Array


def slot_edges(edges: EdgeFeatures, senders: jax.Array) -> SlotEdges:
    """The edges of a table of neighbours as the kernels read them, with the weights of a mean.

    `edges`: fields [N, K, ...]; `senders`: int32 [N, K].
    """
    num_nodes, neighbours = senders.shape
    rows = rounded_up(num_nodes, TILE)
    turned = [jnp.swapaxes(x, 0, 1) for x in (edges.scalars, flat_vectors(edges))]  # [K, N, *]
    parts = [padded(x, neighbours, rows, rounded_up(x.shape[2], COLUMNS)) for x in turned]
    edge, fits = reverse_neighbours(senders, edges.mask)
    # From numbers of edges in [N, K] to those in [K, n]; what is beyond stays beyond.
    place = edge % neighbours * rows + edge // neighbours
    return SlotEdges(
        features=jnp.concatenate(parts, axis=2),
        sender=padded(senders.T.astype(jnp.int32), neighbours, rows),
        weight=padded(mean_weights(edges.mask).T, neighbours, rows),
        reverse=ReverseNeighbours(jnp.where(edge == senders.size, neighbours * rows, place), fits),
    )


def widths(gvps: Sequence[GVP]) -> Widths:
    """S, H and C, with room for the constant among the scalars."""
    first = gvps[0]
    return Widths(
        rounded_up(affine(first.ws)[1].shape[0] + 1, COLUMNS),
        rounded_up(first.hidden, COLUMNS),
        rounded_up(first.vo, COLUMNS),
    )


def blocks(gvps: Sequence[GVP], weights: MessageWeights, nodes: Features) -> Blocks:
    """The weights as the kernels multiply by them, of GVPs over the features of `nodes`."""
    first = gvps[0]
    assert first.wh is not None
    (s, h), (ns, nv) = weights.wn1.shape, (x.shape[1] for x in nodes)
    own, wh = kernel(first.ws).shape[0] - first.hidden, kernel(first.wh)
    scalars, vectors = own - 2 * ns, 3 * (len(wh) - 2 * nv)
    edge = weights.edge.T
    return Blocks(
        edge_s=padded(edge[:scalars, :s], rounded_up(scalars, COLUMNS), s),
        edge_v=padded(edge[scalars : scalars + vectors, s:], rounded_up(vectors, COLUMNS), 3 * h),
        h1=padded(wh[:nv].astype(jnp.float32), rounded_up(nv, COLUMNS), h),
        n1=weights.wn1.T,
        v1=weights.wv1.T,
        s2=jnp.concatenate([weights.ws2.T.at[s - 1].set(weights.b2[:, 0]), weights.wn2.T]),
        h2=weights.wh2.T,
        v2=weights.wv2.T,
        h3=weights.wh3.T,
    )


def node_tables(
    gvps: Sequence[GVP], nodes: Features, rows: int, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array]:
    """What a residue is to its neighbours and to itself: `dtype` [N, W] and float32 [n, F].

    The sender's scalars are projected, its vectors are as they are, x of every channel first: half as wide as
    their projection. The last scalar of what is received is 1.
    """
    (s, v), wide = nodes, widths(gvps)
    parts = node_parts(gvps, nodes, rows, wide)
    vectors = jnp.moveaxis(v, -1, 0).astype(jnp.float32)  # [3, N, C]
    vectors = padded(vectors, 3, len(s), rounded_up(v.shape[1], COLUMNS))
    scalars = parts[0][: wide.scalars, : len(s)].T
    sender = jnp.concatenate([scalars, *vectors], axis=1).astype(dtype)
    width = rounded_up(sender.shape[1], ROW_BYTES // sender.dtype.itemsize)
    return padded(sender, len(s), width), parts[1].T.at[:, wide.scalars - 1].set(1.0)
