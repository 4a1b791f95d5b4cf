"""k-means against NumPy loops, with its branches for empty clusters and few samples."""

import jax.numpy as jnp
import numpy as np

from partoken_jax.nn.kmeans import kmeans
from tests.helpers import assert_close

WIDTH = 5


def lloyd(samples, num_codes, permutation, iterations=25, tolerance=1e-4):
    """k-means in float64 loops; an empty cluster takes the next sample of the permutation."""
    samples = np.asarray(samples, np.float64)
    centres = samples[permutation[:num_codes]].copy()
    last, emptied = np.inf, 0
    for step in range(iterations):
        nearest = np.array([np.argmin(np.square(x - centres).sum(1)) for x in samples])
        new, spare = centres.copy(), num_codes + step * num_codes
        for code in range(num_codes):
            if np.any(nearest == code):
                new[code] = samples[nearest == code].mean(0)
            else:
                new[code] = samples[permutation[spare % len(samples)]]
                spare, emptied = spare + 1, emptied + 1
        shift = np.linalg.norm(new - centres)
        centres = new
        if abs(shift - last) < tolerance:
            return centres, step + 1, emptied
        last = shift
    return centres, iterations, emptied


def test_kmeans_against_numpy():
    rng = np.random.default_rng(3)
    samples = 4 * rng.normal(size=(6, WIDTH))[rng.integers(6, size=60)] + rng.normal(size=(60, WIDTH))
    samples = samples.astype(np.float32)
    permutation = rng.permutation(60)
    want, steps, emptied = lloyd(samples, 6, permutation)
    assert 1 < steps < 25 and emptied == 0
    got, iterations = kmeans(jnp.asarray(samples), 6, permutation=jnp.asarray(permutation))
    assert_close(got, want)
    assert int(iterations) == steps


def test_kmeans_refills_empty_clusters():
    """Starting centres that coincide leave all but the first of them empty."""
    rng = np.random.default_rng(4)
    samples = rng.normal(size=(40, WIDTH)).astype(np.float32)
    samples[1:4] = samples[0]
    permutation = np.concatenate([np.arange(4), 4 + rng.permutation(36)])
    want, steps, emptied = lloyd(samples, 4, permutation)
    assert emptied == 3
    got, iterations = kmeans(jnp.asarray(samples), 4, permutation=jnp.asarray(permutation))
    assert_close(got, want)
    assert int(iterations) == steps
    assert len(np.unique(np.round(got, 4), axis=0)) == 4
    one, _ = kmeans(jnp.asarray(samples), 4, permutation=jnp.asarray(permutation), iterations=1)
    np.testing.assert_array_equal(one[1:], samples[permutation[4:7]])


def test_kmeans_with_fewer_samples_than_codes():
    samples = jnp.arange(6.0).reshape(3, 2)
    codes, iterations = kmeans(samples, 7, permutation=jnp.arange(3))
    np.testing.assert_array_equal(codes, samples[jnp.array([0, 1, 2, 0, 1, 2, 0])])
    assert iterations == 0
    # All samples alike: no NaN, though all clusters but one stay empty.
    codes, _ = kmeans(jnp.ones((9, 2)), 4, permutation=jnp.arange(9))
    np.testing.assert_array_equal(codes, 1)
