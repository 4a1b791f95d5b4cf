"""Who joins a cluster, its feature, and what later rounds remember of it.

Legend: N residues, G graphs, D channels, H hidden.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from partoken_jax.graphs.segments import segment_mean, segment_sum
from partoken_jax.nn.partitioner.trim import qualifies


def members(is_seed: jax.Array, p: jax.Array) -> jax.Array:
    """bool [N]: the seed, and those with p > 0.5.

    REFERENCE.md section 4, step 7, joining.
    """
    return is_seed | qualifies(p)


def soft_mean(x: jax.Array, weight: jax.Array, index: jax.Array, num_graphs: int) -> jax.Array:
    """[G, D]: Σ (w + p) x / max(Σ (w + p), 1) per protein, for x [N, D] and `weight` = w + p [N].

    REFERENCE.md section 4, step 8, soft mean.
    """
    total = segment_sum(weight[:, None] * x, index, num_graphs)
    return total / jnp.maximum(segment_sum(weight, index, num_graphs), 1.0)[:, None]


def straight_through_mean(
    x: jax.Array,  # [N, D]
    member: jax.Array,  # bool [N]
    weight: jax.Array,  # [N]
    exists: jax.Array,  # bool [G]
    index: jax.Array,  # int32 [N]
) -> jax.Array:
    """[G, D]: hard mean + soft mean - stop_gradient(soft mean); 0 where no cluster exists.

    The value is the mean over the members. The gradient is that of this mean, into x alone, plus that of the
    soft mean, into x and through `weight` = w + p into the choices.

    REFERENCE.md section 4, step 8, straight-through mean.
    """
    hard = segment_mean(x, member, index, exists.shape[0])
    soft = soft_mean(x, weight, index, exists.shape[0])
    return jnp.where(exists[:, None], hard + soft - jax.lax.stop_gradient(soft), 0.0)


def updated_context(
    context: jax.Array,  # [G, H]
    feature: jax.Array,  # [G, D]
    linear: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """g [G, H] ← g + 0.1 · Linear(stop_gradient(cluster feature)), bias included, for every protein.

    REFERENCE.md section 4, step 9, context update.
    """
    return context + 0.1 * linear(jax.lax.stop_gradient(feature))
