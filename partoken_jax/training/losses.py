"""The training objective: cross entropy and the three auxiliary terms of ParToken.

Legend: B proteins, C classes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

Scalar = jax.Array | np.floating | float


class LossWeights(NamedTuple):
    """What each auxiliary term is multiplied by, once. Scalars, traced by the compiled step."""

    vq: Scalar
    coverage: Scalar
    cardinality: Scalar


class LossTerms(NamedTuple):
    """The objective and its terms, before weighting. All scalars."""

    total: jax.Array
    """cross_entropy + w_vq vq + w_coverage coverage + w_cardinality cardinality"""
    cross_entropy: jax.Array
    vq: jax.Array
    coverage: jax.Array
    cardinality: jax.Array


def cross_entropy(
    logits: jax.Array,  # [B, C]
    labels: jax.Array,  # int32 [B], -1 where there is none
    mask: jax.Array,  # bool [B]
) -> jax.Array:
    """[]: mean of -log softmax(logits)[label] over the labelled proteins of `mask`, 0 without any."""
    labelled = mask & (labels >= 0)
    per_protein = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return jnp.sum(jnp.where(labelled, per_protein, 0.0)) / jnp.maximum(jnp.sum(labelled), 1)


def total_loss(
    logits: jax.Array,  # [B, C]
    labels: jax.Array,  # int32 [B], -1 where there is none
    mask: jax.Array,  # bool [B]
    auxiliary: Any,  # AuxiliaryLosses (vq, coverage, cardinality), or None for the GVP baseline
    weights: LossWeights,
) -> LossTerms:
    """The objective, L = CE + λ_vq L_vq + λ_psc L_psc + λ_card L_card (REFERENCE.md section 5)."""
    ce = cross_entropy(logits, labels, mask)
    if auxiliary is None:
        zero = jnp.zeros_like(ce)
        return LossTerms(ce, ce, zero, zero, zero)
    total = (
        ce
        + weights.vq * auxiliary.vq
        + weights.coverage * auxiliary.coverage
        + weights.cardinality * auxiliary.cardinality
    )
    return LossTerms(total, ce, auxiliary.vq, auxiliary.coverage, auxiliary.cardinality)
