"""Presence of codes and the coverage loss against NumPy loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partoken_jax.nn.presence import coverage_loss, log_absence, presence, soft_assignment

CODES, WIDTH = 8, 5
MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]], bool)


@pytest.fixture(scope="module")
def embeddings():
    """Codes 0 to 3 lie where clusters are; 4 to 7 far away."""
    codes = np.random.default_rng(0).normal(size=(CODES, WIDTH))
    codes[4:] += 6
    return jnp.asarray(codes, jnp.float32)


@pytest.fixture(scope="module")
def z():
    return jnp.asarray(np.random.default_rng(1).normal(size=(*MASK.shape, WIDTH)), jnp.float32)


def exact_assignment(embeddings, z, temperature):
    """P [B, S, K] by loops, float64."""
    embeddings, z = np.asarray(embeddings, np.float64), np.asarray(z, np.float64)
    p = np.zeros((*MASK.shape, CODES))
    for b, s in np.ndindex(*MASK.shape):
        distance = np.square(z[b, s] - embeddings).sum(1)
        weight = np.exp(-(distance - distance.min()) / temperature)
        p[b, s] = np.clip(weight / weight.sum() * MASK[b, s], 1e-6, 1 - 1e-6)
    return p


@pytest.mark.parametrize("temperature", [0.3, 5.0])
def test_soft_assignment_against_numpy(embeddings, z, temperature):
    got = soft_assignment(embeddings, z, jnp.asarray(MASK), temperature)
    np.testing.assert_allclose(got, exact_assignment(embeddings, z, temperature), rtol=5e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.3, 5.0])
def test_presence_and_coverage_against_numpy(embeddings, z, temperature):
    absent = np.prod(1 - exact_assignment(embeddings, z, temperature), axis=1)
    log_absent = log_absence(embeddings, z, jnp.asarray(MASK), temperature)
    got = presence(log_absent)
    assert np.all((got >= 0) & (got <= 1))
    np.testing.assert_allclose(got, 1 - absent, rtol=5e-5, atol=1e-6)
    proteins = jnp.array([True, True, True, False])
    loss = coverage_loss(log_absent, proteins)
    assert -1 <= loss <= 0
    assert loss == pytest.approx(-np.mean((1 - absent.prod(1))[:3]), rel=1e-5)
    more = jnp.concatenate([log_absent, jnp.full((5, CODES), -9.0)])
    assert coverage_loss(more, jnp.arange(9) < 3) == loss  # empty protein slots
    assert coverage_loss(log_absent, jnp.zeros(4, bool)) == 0


def test_coverage_has_a_gradient_into_clusters_and_none_into_codes(embeddings, z):
    def loss(embeddings, z):
        return coverage_loss(log_absence(embeddings, z, jnp.asarray(MASK), 2.0), jnp.asarray(MASK.any(1)))

    into_codes, into_z = jax.grad(loss, argnums=(0, 1))(embeddings[:4], z)
    np.testing.assert_array_equal(into_codes, 0)
    assert np.isfinite(into_z).all()
    np.testing.assert_array_equal(np.abs(into_z).max(-1) > 0, MASK)
    step = 1e-2 * into_z / jnp.linalg.norm(into_z)
    slope = (loss(embeddings[:4], z + step) - loss(embeddings[:4], z - step)) / 2e-2
    assert slope == pytest.approx(np.linalg.norm(into_z), rel=0.02)
