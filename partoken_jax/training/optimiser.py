"""Adam (Kingma & Ba 2015), with a step that can be called off on the device."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

B1, B2, EPSILON = 0.9, 0.999, 1e-8
ADAM = optax.scale_by_adam(b1=B1, b2=B2, eps=EPSILON)


def adam_where(
    moves: jax.Array, gradients: Any, moments: optax.ScaleByAdamState
) -> tuple[Any, optax.ScaleByAdamState]:
    """`ADAM.update(gradients, moments)` where `moves`, bool []; otherwise updates of 0, and the moments as
    they are, whatever the gradients.

    The updates are made from the moments that were chosen. Were they made before the choice, as
    `optax.apply_if_finite` does, XLA on a CPU would compute the moments twice and copy the old ones.
    """
    _, moved = ADAM.update(gradients, moments)
    kept = jax.tree.map(lambda new, old: jnp.where(moves, new, old), moved, moments)
    updates = jax.tree.map(
        lambda m, v: jnp.where(moves, m / (jnp.sqrt(v) + EPSILON), 0.0),
        optax.tree.bias_correction(kept.mu, B1, moved.count),
        optax.tree.bias_correction(kept.nu, B2, moved.count),
    )
    return updates, kept
