"""The grid of finite scalar quantisation against the published formula in plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from partoken_jax.nn.fsq import grid_code, grid_points


def published(y, levels):
    """Mentzer et al. 2024, appendix A.1, in float64 and by loops: index of every vector of y [M, d]."""
    codes = []
    for vector in np.asarray(y, np.float64):
        code = 0
        for i, number in enumerate(vector):
            half = (levels - 1) * (1 + 1e-3) / 2
            offset = 0.5 if levels % 2 == 0 else 0.0
            bounded = np.tanh(number + np.arctanh(offset / half)) * half - offset
            code += int(np.round(bounded) + levels // 2) * levels**i
        codes.append(code)
    return np.array(codes)


@pytest.mark.parametrize("levels, dimension", [(2, 4), (3, 3), (5, 2), (8, 3)])
def test_cells_against_numpy(levels, dimension):
    y = 2 * np.random.default_rng(0).normal(size=(500, dimension)).astype(np.float32)
    got = np.asarray(grid_code(jnp.asarray(y), levels))
    np.testing.assert_array_equal(got, published(y, levels))
    assert got.min() >= 0 and got.max() < levels**dimension and got.dtype == np.int32


@pytest.mark.parametrize("levels, dimension", [(2, 4), (5, 2), (8, 3)])
def test_every_cell_has_a_middle_that_lies_in_it(levels, dimension):
    middles = grid_points(levels, dimension)
    assert middles.shape == (levels**dimension, dimension) and np.isfinite(middles).all()
    np.testing.assert_array_equal(grid_code(middles, levels), np.arange(levels**dimension))


def test_far_away_is_the_outermost_cell():
    np.testing.assert_array_equal(grid_code(jnp.array([[-1e30, -1e30], [1e30, 1e30]]), 4), [0, 15])
