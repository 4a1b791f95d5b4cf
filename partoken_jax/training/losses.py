"""The classification loss.

Legend: B proteins, C classes.
"""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
    logits: jax.Array,  # [B, C]
    labels: jax.Array,  # int32 [B], -1 where there is none
    mask: jax.Array,  # bool [B]
) -> jax.Array:
    """[]: mean of -log softmax(logits)[label] over the labelled proteins of `mask`, 0 without any."""
    labelled = mask & (labels >= 0)
    per_protein = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(jnp.where(labelled, per_protein, 0.0)) / jnp.maximum(jnp.sum(labelled), 1)
