"""The space of codes: what it does to the samples it is fitted to, and how it moves when they do."""

import jax.numpy as jnp
import numpy as np

from partoken_jax.nn.whitening import fit_whitening, unwhiten, whiten

SAMPLES, WIDTH = 400, 6
SCALES = np.array([30.0, 5.0, 1.0, 0.2, 0.01, 0.0])


def clusters(seed=0):
    """Samples along skew directions that differ in scale by 3,000, and one that never varies."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))
    return (rng.normal(size=(SAMPLES, WIDTH)) * SCALES @ turn + 7).astype(np.float32)


def test_every_direction_counts_alike_and_one_without_variance_not_at_all():
    z = clusters()
    y = np.asarray(whiten(fit_whitening(z, 4), jnp.asarray(z)), np.float64)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(y.T @ y / SAMPLES, np.eye(4), atol=1e-3)
    y = np.asarray(whiten(fit_whitening(z, WIDTH), jnp.asarray(z)))
    np.testing.assert_allclose(y.var(0)[:4], 1, rtol=1e-3)
    np.testing.assert_array_equal(y[:, 4:], 0)  # less than a millionth of the variance, or none


def test_samples_that_are_all_alike_have_no_space_and_no_nan():
    space = fit_whitening(np.ones((5, WIDTH), np.float32), 3)
    np.testing.assert_array_equal(space.axes, 0)
    np.testing.assert_array_equal(unwhiten(space, np.ones((2, 3))), 1)


def test_unwhitened_coordinates_are_the_point_in_the_main_directions():
    z = clusters()
    space = fit_whitening(z, 4)
    back = unwhiten(space, whiten(space, jnp.asarray(z)))
    np.testing.assert_allclose(back, z, atol=0.1)  # what is left out varies by 0.01
    assert np.abs(np.asarray(back) - z).max() > 0


def test_a_space_fitted_anew_gives_samples_the_nearest_coordinates_to_those_of_before():
    """No other rotation of the new space comes nearer; without any change there is none."""
    z, rng = clusters(), np.random.default_rng(1)
    space = fit_whitening(z, 3)
    turn, _ = np.linalg.qr(np.eye(WIDTH) + 0.3 * rng.normal(size=(WIDTH, WIDTH)))
    moved = (2.5 * z @ turn - 40).astype(np.float32)
    before = np.asarray(whiten(space, jnp.asarray(moved)), np.float64)
    before -= before.mean(0)
    after = np.asarray(whiten(fit_whitening(moved, 3, space), jnp.asarray(moved)), np.float64)
    np.testing.assert_allclose(after.T @ after / SAMPLES, np.eye(3), atol=1e-3)
    for _ in range(20):
        other, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        assert np.square(after - before).sum() < np.square(after @ other - before).sum()
    again = whiten(fit_whitening(z, 3, space), jnp.asarray(z))
    np.testing.assert_allclose(again, whiten(space, jnp.asarray(z)), atol=1e-3)
