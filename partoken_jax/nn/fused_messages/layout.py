"""What the kernels read and write: features in rows, receivers in columns, 128 of which are a tile.

A TPU computes on registers of 8 rows and 128 columns. With receivers in columns every feature fills them;
with features in columns 3 coordinates would take the place of 128.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from partoken_jax.graphs.types import EdgeFeatures

TILE = 128
"""R, receivers of a tile, and rows of the senders' table that are fetched together: columns of a register."""
ROWS = 8
"""Rows of a register of 32 bits: parts of an array begin at multiples of it."""


class LaneEdges(NamedTuple):
    """The edges of a batch, the same for all layers."""

    features: jax.Array
    """float32 or bfloat16 [K, E, n]: scalars, then vectors, x of every channel first."""
    sender: jax.Array
    """int32 [K, n]; the receiver itself where there is no edge."""
    weight: jax.Array
    """float32 [K, n]: 1 / number of edges that end in the receiver, 0 where there is no edge."""
    first: jax.Array
    """int32 [T]: the first chunk of the table, of 128 residues, that a tile's senders are in."""
    last: jax.Array
    """int32 [T]: the last one."""


def lane_edges(edges: EdgeFeatures, senders: jax.Array) -> LaneEdges:
    """The edges of a table of neighbours as the kernels read them, with the weights of a mean.

    `edges`: fields [N, K, ...]; `senders`: int32 [N, K].
    """
    num_nodes, neighbours = senders.shape
    columns = rounded_up(num_nodes, TILE)
    features = jnp.concatenate([edges.scalars, flat_vectors(edges)], axis=-1)
    features = jnp.transpose(features, (1, 2, 0))  # [K, De + 3 Ce, N]
    # A sender that counts for nothing must not widen what a tile reads.
    sender = jnp.where(edges.mask, senders, jnp.arange(num_nodes)[:, None]).astype(jnp.int32)
    beyond = jnp.arange(num_nodes, columns, dtype=jnp.int32)
    beyond = jnp.broadcast_to(beyond, (neighbours, columns - num_nodes))
    sender = jnp.concatenate([sender.T, beyond], axis=1)
    chunks = (sender // TILE).reshape(neighbours, columns // TILE, TILE)
    return LaneEdges(
        features=padded(features, neighbours, rounded_up(features.shape[1], ROWS), columns),
        sender=sender,
        weight=padded(mean_weights(edges.mask).T, neighbours, columns),
        first=jnp.min(chunks, axis=(0, 2)),
        last=jnp.max(chunks, axis=(0, 2)),
    )


def flat_vectors(edges: EdgeFeatures) -> jax.Array:
    """[N, K, 3 Ce], x of every channel first."""
    return jnp.moveaxis(edges.vectors, -1, -2).reshape(*edges.mask.shape, -1)


def mean_weights(mask: jax.Array) -> jax.Array:
    """Those of a mean over the neighbours, from bool [N, K]: float32, 0 where there is no edge."""
    weight = mask.astype(jnp.float32)
    return weight / jnp.maximum(jnp.sum(weight, axis=1), 1.0)[:, None]


def padded(x: jax.Array, *shape: int) -> jax.Array:
    """x with zeros behind it up to `shape`."""
    return jnp.pad(x, [(0, whole - part) for whole, part in zip(shape, x.shape, strict=True)])


def rounded_up(number: int, multiple: int) -> int:
    """The next multiple."""
    return -(-number // multiple) * multiple
