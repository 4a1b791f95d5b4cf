"""The grid of finite scalar quantisation against the published formula in plain numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from partoken_jax.nn.fsq import grid_code, grid_points


def published(y, levels):
    """Mentzer et al. 2024, section 3.1, in float64 and by loops: index of every vector of y. A number is
    bounded to (L - 1)/2 tanh y and rounded; an even number of levels lies at ±1/2, ±3/2, ..."""
    codes = []
    for vector in np.asarray(y, np.float64):
        code = 0
        for i, number in enumerate(vector):
            places = np.arange(levels) - (levels - 1) / 2
            code += int(np.argmin(np.abs((levels - 1) / 2 * np.tanh(number) - places))) * levels**i
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


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8])
def test_every_level_of_a_whitened_number_is_in_use(levels):
    y = np.random.default_rng(1).normal(size=(4000, 1)).astype(np.float32)
    shares = np.bincount(grid_code(jnp.asarray(y), levels), minlength=levels) / 4000
    assert shares.min() > 0.3 / levels
    np.testing.assert_allclose(shares, shares[::-1], atol=0.04)
