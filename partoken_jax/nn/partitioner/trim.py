"""The size limit of clusters. Legend: N residues, G graphs."""

import jax
import jax.numpy as jnp

from partoken_jax.graphs.segments import segment_sum


def qualifies(p: jax.Array) -> jax.Array:
    """bool [N]: p > 0.5, enough to join.

    REFERENCE.md section 4, step 7, qualifying.
    """
    return p > 0.5


def trim(
    p: jax.Array,  # [N]
    limit: int,
    index: jax.Array,  # int32 [N]
    first: jax.Array,  # int32 [G]
) -> tuple[jax.Array, jax.Array]:
    """p [N] with 0 for all but the `limit` most probable residues where more qualify, and bool [G]: where.

    Selection, gradients, soft mean and cardinality all read this p. Proteins in which no more than `limit`
    residues qualify keep every p.

    REFERENCE.md section 4, step 6, trimming.
    """
    trimmed = segment_sum(qualifies(p).astype(jnp.int32), index, first.shape[0]) > limit
    kept = ~trimmed[index] | (rank(jax.lax.stop_gradient(p), index, first) < limit)
    return jnp.where(kept, p, 0.0), trimmed


def rank(p: jax.Array, index: jax.Array, first: jax.Array) -> jax.Array:
    """int32 [N]: place of each residue in its protein by descending p, from 0; ties by position.

    `first` [G] is where each protein begins, in the sorted order as in the batch. Places, not values, decide:
    at a low τ many p are exactly 1.
    """
    position = jnp.arange(p.shape[0], dtype=jnp.int32)
    _, _, order = jax.lax.sort((index, -p, position), num_keys=2, is_stable=True)
    return jnp.zeros_like(position).at[order].set(position - first[index[order]])
