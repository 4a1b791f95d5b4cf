"""The classification loss.

Legend: B proteins, C classes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def cross_entropy(
    logits: jax.Array,  # [B, C]
    labels: jax.Array,  # int32 [B], -1 where there is none
    mask: jax.Array,  # bool [B]
    *,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,  # [C]
) -> jax.Array:
    """[]: mean of -log softmax(logits)[label] over the labelled proteins of `mask`, 0 without any.

    With `label_smoothing` ε the target is (1 - ε) one-hot + ε/C (Szegedy et al. 2016). `class_weights`
    multiply what the proteins of each class add to the sum, not what it is divided by.
    """
    labelled = mask & (labels >= 0)
    target = jnp.maximum(labels, 0)
    per_protein = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    if label_smoothing:
        uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
        per_protein = (1 - label_smoothing) * per_protein + label_smoothing * uniform
    if class_weights is not None:
        per_protein = class_weights[target] * per_protein
    return jnp.sum(jnp.where(labelled, per_protein, 0.0)) / jnp.maximum(jnp.sum(labelled), 1)


def balanced_weights(counts: np.ndarray, balance: float) -> np.ndarray | None:
    """float32 [C]: n ** -balance for classes with n > 0 labels, scaled so that the mean weight of all labels
    is 1; `counts` int [C]. A class without labels weighs 0. None where all count alike: `balance` is 0, or
    there are no labels, as in pretraining."""
    if balance == 0 or not counts.any():
        return None
    weights = np.where(counts > 0, np.maximum(counts, 1).astype(float) ** -balance, 0.0)
    return (weights * counts.sum() / (weights @ counts)).astype(np.float32)
