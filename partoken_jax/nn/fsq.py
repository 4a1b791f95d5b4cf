"""Finite scalar quantisation (Mentzer et al. 2024): codes are the cells of a grid that never moves.

Legend: d dimensions, L levels of each, K = L^d codes.
"""

import jax
import jax.numpy as jnp

MARGIN = 1e-3
"""By which the bounds reach beyond the outermost levels, so that these are reached; as published."""


def grid_code(y: jax.Array, levels: int) -> jax.Array:
    """int32 [...]: the cell of y [..., d], Σ_i q_i L^i with q = round(bounded y) + ⌊L/2⌋.

    REFERENCE.md section 5, cell of the grid.
    """
    digits = jnp.round(_bounded(y, levels)).astype(jnp.int32) + levels // 2
    return jnp.sum(digits * levels ** jnp.arange(y.shape[-1]), axis=-1).astype(jnp.int32)


def grid_points(levels: int, dimension: int) -> jax.Array:
    """[K, d]: a y in the middle of every cell, in the order of `grid_code`."""
    digits = jnp.arange(levels**dimension)[:, None] // levels ** jnp.arange(dimension) % levels
    half, offset = _bounds(levels)
    return jnp.arctanh((digits - levels // 2 + offset) / half) - jnp.arctanh(offset / half)


def _bounded(y: jax.Array, levels: int) -> jax.Array:
    """h tanh(y + atanh(o/h)) - o, which lies between the outermost levels and is 0 for y = 0; o = 1/2 for an
    even number of levels, which are not symmetric about 0."""
    half, offset = _bounds(levels)
    return half * jnp.tanh(y + jnp.arctanh(offset / half)) - offset


def _bounds(levels: int) -> tuple[float, float]:
    return (levels - 1) * (1 + MARGIN) / 2, 0.0 if levels % 2 else 0.5
