"""Which codes a protein carries, softly, and the coverage loss over them.

Legend: B proteins, S clusters, K codes, D channels.
"""

import jax
import jax.numpy as jnp


def log_absence(
    embeddings: jax.Array,
    z: jax.Array,  # [B, S, D]
    mask: jax.Array,  # bool [B, S]
    temperature: float,
) -> jax.Array:
    """[B, K]: log of the probability that no cluster of the protein carries code k.

    P = softmax over codes of -|z - e|² / T per cluster, masked, clamped to [1e-6, 1 - 1e-6];
    Σ over clusters of log(1 - P).
    """
    squared = _squared_distances(z, jax.lax.stop_gradient(embeddings))
    p = jax.nn.softmax(-squared / temperature, axis=-1) * mask[..., None]
    return jnp.sum(jnp.log1p(-jnp.clip(p, 1e-6, 1 - 1e-6)), axis=1)


@jax.checkpoint
def _squared_distances(z: jax.Array, embeddings: jax.Array) -> jax.Array:
    """|z - e|² [B, S, K], as a sum of squares: the expanded form loses digits where codes lie far apart,
    and the temperature magnifies that. Computed again in the backward pass, so that
    [B, S, K, D] is never kept."""
    return jnp.sum(jnp.square(z[..., None, :] - embeddings), axis=-1)


def presence(log_absent: jax.Array) -> jax.Array:
    """[B, K]: probability that a protein carries code k, from `log_absence`."""
    return 1.0 - jnp.exp(log_absent)


def coverage_loss(log_absent: jax.Array, protein_mask: jax.Array) -> jax.Array:
    """-mean over proteins of 1 - Π_k (1 - presence_k)."""
    covered = -jnp.expm1(jnp.sum(log_absent, axis=-1))
    total = jnp.sum(jnp.where(protein_mask, covered, 0.0))
    return -total / jnp.maximum(jnp.sum(protein_mask), 1)
