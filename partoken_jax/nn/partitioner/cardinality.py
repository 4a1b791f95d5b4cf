"""The term that asks for clusters of the expected size. Legend: G graphs."""

import jax
import jax.numpy as jnp


def expected_size(num_candidates: jax.Array, cluster_size_max: int) -> jax.Array:
    """μ [G] = clamp(2 + 3 log(n + 1), 1, cluster_size_max), for n candidates; no gradient, for n is a count.

    REFERENCE.md section 4, step 8, expected size μ.
    """
    return jnp.clip(2.0 + 3.0 * jnp.log(num_candidates + 1.0), 1.0, float(cluster_size_max))


def cardinality_term(soft_size: jax.Array, expected: jax.Array, exists: jax.Array) -> jax.Array:
    """[]: (Σp - μ)² averaged over the proteins that have a cluster, for `soft_size` = Σp and μ, both [G].

    REFERENCE.md section 4, step 8, cardinality term.
    """
    squared = jnp.square(soft_size - expected)
    return jnp.sum(jnp.where(exists, squared, 0.0)) / jnp.maximum(jnp.sum(exists), 1)
