"""Which codes a protein carries, softly, and the coverage loss over them.

Legend: B proteins, S clusters, K codes, D channels.
"""

import jax
import jax.numpy as jnp


def soft_assignment(
    embeddings: jax.Array,  # [K, D]
    z: jax.Array,  # [B, S, D]
    mask: jax.Array,  # bool [B, S]
    temperature: float,
) -> jax.Array:
    """P [B, S, K] = clamp(mask · softmax_k(-|z - e_k|² / T), 1e-6, 1 - 1e-6).

    Squared L2 on raw vectors whatever the metric of the codebook; no gradient into the codes.

    REFERENCE.md section 5, soft assignment.
    """
    squared = _squared_distances(z, jax.lax.stop_gradient(embeddings))
    p = jax.nn.softmax(-squared / temperature, axis=-1) * mask[..., None]
    return jnp.clip(p, 1e-6, 1 - 1e-6)


def log_absence(
    embeddings: jax.Array,  # [K, D]
    z: jax.Array,  # [B, S, D]
    mask: jax.Array,  # bool [B, S]
    temperature: float,
) -> jax.Array:
    """[B, K]: Σ_s log(1 - P_sk), the log of the probability that no cluster of the protein carries code k.

    REFERENCE.md section 5, log of absence.
    """
    return jnp.sum(jnp.log1p(-soft_assignment(embeddings, z, mask, temperature)), axis=1)


@jax.checkpoint
def _squared_distances(z: jax.Array, embeddings: jax.Array) -> jax.Array:
    """|z - e|² [B, S, K], as a sum of squares: the expanded form loses digits where codes lie far apart,
    and the temperature magnifies that. Computed again in the backward pass, so that
    [B, S, K, D] is never kept."""
    return jnp.sum(jnp.square(z[..., None, :] - embeddings), axis=-1)


def presence(log_absent: jax.Array) -> jax.Array:
    """[B, K]: 1 - exp(Σ_s log(1 - P_sk)), the probability that a protein carries code k, from `log_absence`.

    REFERENCE.md section 5, presence.
    """
    return 1.0 - jnp.exp(log_absent)


def coverage_loss(log_absent: jax.Array, protein_mask: jax.Array) -> jax.Array:
    """L_psc [] = -mean over proteins of 1 - Π_k (1 - presence_k); 0 without proteins.

    From `log_absence` [B, K]; `protein_mask` bool [B]. A product of K factors, so a sum of their logs.

    REFERENCE.md section 5, coverage loss.
    """
    covered = -jnp.expm1(jnp.sum(log_absent, axis=-1))
    total = jnp.sum(jnp.where(protein_mask, covered, 0.0))
    return -total / jnp.maximum(jnp.sum(protein_mask), 1)
