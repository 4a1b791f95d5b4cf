"""The messages of a conv for TPUs, as ordinary operations: block after block of residues, edges in columns.

The arithmetic is that of `fused_messages.message`. Memory and registers of a TPU are tiles of 8 rows and 128
columns: with edges in columns all of a tile is used, with features there 33 take the place of 128. And what
is computed of the edges of one block stays on the chip; the backward pass computes it again.

Legend: N residues, n = N rounded up to B blocks of R, K neighbours, e = K R edges of a block, one slot of all
its residues after the other; S, H, C, F, E as in `fused_messages`.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from partoken_jax.graphs.types import EdgeFeatures
from partoken_jax.nn.fused_messages.layout import ROWS, TILE, flat_vectors, mean_weights, padded, rounded_up
from partoken_jax.nn.fused_messages.message import messages
from partoken_jax.nn.fused_messages.products import Products
from partoken_jax.nn.fused_messages.weights import (
    LaneWeights,
    lane_weights,
    node_parts,
    precision_of,
    tail,
    widths,
)
from partoken_jax.nn.gather import ReverseNeighbours, reverse_neighbours, senders_gradient
from partoken_jax.nn.gvp import GVP, Features

RESIDUES = 512
"""R at most. At the published widths an array of a block's edges has up to 14 MB, of 128 on a v5e's chip."""


class BlockEdges(NamedTuple):
    """The edges of a batch, the same for all layers."""

    features: jax.Array
    """float32 or bfloat16 [B, E, e]: scalars, then vectors, x of every channel first."""
    sender: jax.Array
    """int32 [B, e]; any residue where there is no edge."""
    weight: jax.Array
    """float32 [B, e]: 1 / number of edges that end in the receiver, 0 where there is no edge."""
    reverse: ReverseNeighbours
    """The edges that every residue sends along, [n, ...], numbered as in [B, e]; B e where there is none."""


def block_edges(edges: EdgeFeatures, senders: jax.Array) -> BlockEdges:
    """The edges of a table of neighbours in blocks, with the weights of a mean.

    `edges`: fields [N, K, ...]; `senders`: int32 [N, K].
    """
    num_nodes, neighbours = senders.shape
    blocks = -(-num_nodes // RESIDUES)
    size = rounded_up(-(-num_nodes // blocks), TILE)
    columns, size_e = blocks * size, neighbours * size
    senders, mask = (padded(x, columns, neighbours) for x in (senders.astype(jnp.int32), edges.mask))

    def turned(x: jax.Array) -> jax.Array:  # [n, K] → [B, e]
        return x.reshape(blocks, size, neighbours).swapaxes(1, 2).reshape(blocks, size_e)

    features = jnp.concatenate([edges.scalars, flat_vectors(edges)], axis=-1)
    width = rounded_up(features.shape[-1], ROWS)
    features = padded(features, columns, neighbours, width).reshape(blocks, size, neighbours, width)
    reverse = reverse_neighbours(senders, mask)
    # From numbers of edges in [n, K] to those in [B, e]; the one beyond all becomes the one beyond all.
    receiver, slot = reverse.edge // neighbours, reverse.edge % neighbours
    return BlockEdges(
        features=features.transpose(0, 3, 2, 1).reshape(blocks, width, size_e),
        sender=turned(senders),
        weight=turned(mean_weights(mask)),
        reverse=reverse._replace(edge=receiver // size * size_e + slot * size + receiver % size),
    )


def block_messages(gvps: Sequence[GVP], nodes: Features, edges: BlockEdges) -> Features:
    """The mean over each residue's neighbours of the messages that three GVPs compute.

    The same as `message_passing_dense.aggregated_messages` without gates of scalars.

    Args:
      gvps: the three message GVPs over [s_j, e_ij, s_i] and [V_j, E_ij, V_i].
      nodes: s [N, D] and v [N, C, 3].
      edges: those of the table of neighbours, from `block_edges`.

    Returns:
      (s [N, D'], v [N, C', 3]), float32.
    """
    wide, columns = widths(gvps), edges.reverse.edge.shape[0]
    table, received = node_parts(gvps, nodes, columns, wide)
    weights = lane_weights(gvps, nodes, wide)
    precision = precision_of(gvps)
    products = jax.lax.Precision.HIGH if precision == "tensorfloat32" else precision
    summed = _summed(products, edges, table, received, weights)
    size = columns // len(edges.sender)
    total = jnp.sum(edges.weight.reshape(len(edges.sender), -1, size), axis=1).reshape(-1)
    return tail(gvps, summed, total[: nodes[0].shape[0]], wide)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(
    precision: Products, edges: BlockEdges, table: jax.Array, received: jax.Array, weights: LaneWeights
) -> jax.Array:
    """Σ_k weight_k · what the last GVP needs of the message from the k-th neighbour, float32 [S + 4 C, n].

    `table`, `received`: float32 [F, n], the sender and receiver parts of every residue.
    """

    def of_block(block):
        sent, received, features, weight = block
        parts = _first_parts(sent, received, weights)
        return _over_slots(messages(*parts, features, weights, precision) * weight, received.shape[1])

    blocks = (_sent(precision, edges, table), _in_blocks(received, edges), edges.features, edges.weight)
    return _whole(jax.lax.map(of_block, blocks))


def _forward(precision, *inputs):
    return _summed(precision, *inputs), inputs


def _backward(precision, inputs, gradient):
    edges, table, received, weights = inputs

    def of_block(d_weights, block):
        sent, received, gradient, features, weight = block
        parts = _first_parts(sent, received, weights)
        of_edges = functools.partial(messages, precision=precision)
        _, pull = jax.vjp(of_edges, *parts, features, weights)
        slots = len(weight) // gradient.shape[1]
        *d_parts, d_features, d_here = pull(jnp.tile(gradient, (1, slots)) * weight)
        d_sent = jnp.concatenate(d_parts)
        found = d_sent, _over_slots(d_sent, received.shape[1]), d_features
        return jax.tree.map(jnp.add, d_weights, d_here), found

    of_residues = (_in_blocks(x, edges) for x in (received, gradient))
    blocks = (_sent(precision, edges, table), *of_residues, edges.features, edges.weight)
    d_weights, found = jax.lax.scan(of_block, jax.tree.map(jnp.zeros_like, weights), blocks)
    d_sent, d_received, d_features = found
    # Without the barrier XLA turns every block by itself, in a layout that takes six times as long.
    d_rows = jax.lax.optimization_barrier(d_sent).swapaxes(1, 2).astype(_stored(precision))
    d_table = senders_gradient(d_rows, edges.sender, edges.reverse).T.astype(jnp.float32)
    # None says that there is no gradient.
    d_edges = BlockEdges(d_features, None, None, None)  # type: ignore[arg-type]
    return d_edges, d_table, _whole(d_received), d_weights


_summed.defvjp(_forward, _backward)


def _sent(precision: Products, edges: BlockEdges, table: jax.Array) -> jax.Array:
    """The rows of the senders, [B, e, F]."""
    return table.T.astype(_stored(precision))[edges.sender]


def _stored(precision: Products) -> type:
    return jnp.bfloat16 if precision == "bfloat16" else jnp.float32


def _first_parts(sent: jax.Array, received: jax.Array, weights: LaneWeights) -> tuple[jax.Array, jax.Array]:
    """Sender's and receiver's part of s' [S, e] and vh [3 H, e], from `sent` [e, F] and `received` [F, R].

    Apart from each other, so that XLA adds each up in the product that follows, and writes neither.
    """
    rows, slots = weights.widths.scalars, len(sent) // received.shape[1]
    sent = sent.T.astype(jnp.float32)
    s, vh = (sent[part] + jnp.tile(received[part], (1, slots)) for part in (slice(rows), slice(rows, None)))
    return s, vh


def _over_slots(x: jax.Array, size: int) -> jax.Array:
    """Σ over the slots, [F, e] → [F, R]."""
    return functools.reduce(jnp.add, [x[:, at : at + size] for at in range(0, x.shape[1], size)])


def _in_blocks(x: jax.Array, edges: BlockEdges) -> jax.Array:
    """[F, n] → [B, F, R]."""
    return jnp.moveaxis(x.reshape(len(x), len(edges.sender), -1), 1, 0)


def _whole(x: jax.Array) -> jax.Array:
    """[B, F, R] → [F, n]."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)
