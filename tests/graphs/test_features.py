"""The formulas of geometric features against NumPy, one residue or edge at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from partoken_jax.graphs.features import (
    dihedral,
    distance_gaussians,
    positional_features,
    side_chain_direction,
)


def unit(x):
    return x / np.linalg.norm(x)


@pytest.fixture
def points():
    """Four points of 20 residues, float32 [20, 3] each."""
    return tuple(np.random.default_rng(0).normal(size=(4, 20, 3)).astype(np.float32))


def test_dihedral_is_the_signed_angle_between_two_planes(points):
    valid = np.arange(20) != 7
    cosine, sine = dihedral(*map(jnp.asarray, points), valid)
    for i, (a, b, c, d) in enumerate(zip(*points, strict=True)):
        first, axis, last = b - a, unit(c - b), d - c
        # Projected along the axis, a and d are seen at this angle (clockwise is positive: IUPAC).
        v, w = -first + (first @ axis) * axis, last - (last @ axis) * axis
        angle = np.arctan2(np.cross(axis, v) @ w, v @ w) if valid[i] else 0.0
        np.testing.assert_allclose([cosine[i], sine[i]], [np.cos(angle), np.sin(angle)], atol=1e-5)


def test_a_planar_dihedral_is_not_a_matter_of_rounding():
    """Of points in a plane the triple product is 0 or the last bit, whichever way a program computes it."""
    rng = np.random.default_rng(0)
    turns, _ = np.linalg.qr(rng.normal(size=(500, 3, 3)))
    trans = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0], [1, -1, 0]]) @ turns
    cis = np.array([[0, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0]]) @ turns
    line = np.zeros((500, 4, 3)) + np.arange(4)[:, None] * [1.0, 0, 0]
    valid = jnp.ones(500, bool)
    for shape, angle in ((trans, -1), (cis, 1), (line, 1)):
        points = jnp.asarray(np.float32(shape)).swapaxes(0, 1)
        cosine, sine = dihedral(*points, valid)
        np.testing.assert_allclose(cosine, angle, atol=1e-6)
        np.testing.assert_allclose(sine, 0, atol=1e-3)


def test_side_chain_direction(points):
    n, ca, c, _ = points
    got = side_chain_direction(n, ca, c)
    for i in range(20):
        to_c, to_n = unit(c[i] - ca[i]), unit(n[i] - ca[i])
        want = -np.sqrt(1 / 3) * unit(to_c + to_n) - np.sqrt(2 / 3) * unit(np.cross(to_c, to_n))
        np.testing.assert_allclose(got[i], want, atol=1e-5)


def test_distance_gaussians():
    got = distance_gaussians(jnp.array([[0.0], [3.8], [25.0]]))
    centres = np.linspace(0, 20, 16)
    for row, distance in zip(got, (0.0, 3.8, 25.0), strict=True):
        np.testing.assert_allclose(row, np.exp(-(((distance - centres) / 1.25) ** 2)), rtol=1e-4, atol=1e-7)


def test_positional_features():
    for offset in (-700, -1, 0, 5, 700):
        phase = [offset * np.exp(-np.log(1e4) * 2 * i / 16) for i in range(8)]
        got = positional_features(jnp.array([offset]))[0]
        np.testing.assert_allclose(got, [*np.cos(phase), *np.sin(phase)], atol=1e-4)
