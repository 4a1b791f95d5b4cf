"""Finite scalar quantisation (Mentzer et al. 2024): codes are the cells of a grid that never moves.

Legend: d dimensions, L levels of each, K = L^d codes.
"""

import jax
import jax.numpy as jnp


def grid_code(y: jax.Array, levels: int) -> jax.Array:
    """int32 [...]: the cell of y [..., d], Σ_i q_i L^i with q = round(h tanh(y) + h) and h = (L - 1)/2.

    For odd L as published. There an even number of levels is shifted so that 0 is one of them, which leaves
    the lowest one empty where y has variance 1 and L is 2; here every grid is symmetric.

    REFERENCE.md section 5, cell of the grid.
    """
    half = (levels - 1) / 2
    digits = jnp.round(half * jnp.tanh(y) + half).astype(jnp.int32)
    return jnp.sum(digits * levels ** jnp.arange(y.shape[-1]), axis=-1).astype(jnp.int32)


def grid_points(levels: int, dimension: int) -> jax.Array:
    """[K, d]: a point y within every cell, in the order of `grid_code`."""
    digits = jnp.arange(levels**dimension)[:, None] // levels ** jnp.arange(dimension) % levels
    return jnp.arctanh(
        (digits - (levels - 1) / 2) * 2 / levels
    )  # within: the outermost levels are at infinity
