"""Residual VQ against plain numpy, what becomes of its averages, and gradients through every quantiser."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.config import CodebookConfig
from partoken_jax.nn.attention import ClusterAttention
from partoken_jax.nn.codebook import Codebook
from partoken_jax.nn.residual_codebook import ResidualCodebook, build_codebook
from partoken_jax.training.stages import begin_codebook, follow
from tests.helpers import assert_close

WIDTH, SIZE, LEVELS = 4, 6, 3
MASK = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]], bool)
CONFIG = CodebookConfig(size=SIZE, quantiser="residual", levels=LEVELS, decay=0.9)


@pytest.fixture
def book():
    made = ResidualCodebook(WIDTH, CONFIG, rngs=nnx.Rngs(0))
    begin_codebook(made, samples(), jax.random.key(0))
    return made


def samples(count=90, seed=0):
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32) * [4, 2, 1, 1]


def oracle(book, z):
    """[..., L] codes and [..., D] sum of the codes, in float64, cluster by cluster."""
    codes, total = np.zeros((*z.shape[:-1], LEVELS), int), np.zeros(z.shape)
    for place in np.ndindex(z.shape[:-1]):
        rest = np.asarray(z[place], np.float64)
        for level, of_level in enumerate(book.levels):
            embeddings = np.asarray(of_level.embeddings[...], np.float64)
            codes[(*place, level)] = code = np.argmin(np.square(rest - embeddings).sum(1))
            rest = rest - embeddings[code]
        total[place] = z[place] - rest
    return codes, total


def test_clusters_become_the_sum_of_their_codes(book):
    z = samples(12, 1).reshape(4, 3, WIDTH).astype(np.float32)
    out = book.quantise(jnp.asarray(z), jnp.asarray(MASK))
    codes, total = oracle(book, z)
    np.testing.assert_array_equal(out.codes, np.where(MASK, codes[..., 0], -1))
    for level, further in enumerate(out.further, 1):
        np.testing.assert_array_equal(further, np.where(MASK, codes[..., level], -1))
    np.testing.assert_allclose(np.asarray(out.features)[MASK], total[MASK], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(out.features)[~MASK], z[~MASK])
    errors = np.where(MASK, np.square(z - total).sum(-1), 0)
    np.testing.assert_allclose(out.squared_errors, errors, rtol=1e-4, atol=1e-5)
    assert out.loss == pytest.approx(0.25 * errors.sum() / MASK.sum() / WIDTH, rel=1e-4)


def test_every_level_moves_by_what_the_ones_before_leave_over(book):
    z = samples(12, 1).reshape(4, 3, WIDTH).astype(np.float32)
    codes, _ = oracle(book, z)
    before = [of_level.state for of_level in book.levels]
    book.move(book.statistics(jnp.asarray(z), book.quantise(jnp.asarray(z), jnp.asarray(MASK))), True)
    rest = np.asarray(z, np.float64)
    for level, (old, of_level) in enumerate(zip(before, book.levels, strict=True)):
        for code in range(SIZE):
            rows = rest[MASK & (codes[..., level] == code)]
            want = 0.9 * np.asarray(old.sums[code], np.float64) + 0.1 * rows.sum(0)
            np.testing.assert_allclose(of_level.sums[...][code], want, rtol=1e-4, atol=1e-5)
            assert of_level.uses[...][code] == len(rows)
        rest = rest - np.asarray(old.embeddings)[codes[..., level]]


def test_further_codebooks_make_features_finer_and_nothing_is_for_the_optimiser(book):
    z = jnp.asarray(samples(200, 2), jnp.float32)
    left, rest = [], z
    for of_level in book.levels:
        rest = rest - of_level.embeddings[...][of_level.choose(rest)]
        left.append(float(jnp.square(rest).mean()))
    assert left[0] > left[1] > left[2]
    assert not nnx.to_flat_state(nnx.state(book, nnx.Param))
    assert len(nnx.to_flat_state(nnx.state(book, Codebook))) == 4 * LEVELS


def test_dead_codes_of_every_level_are_reseeded(book):
    before = [np.asarray(of_level.embeddings[...]) for of_level in book.levels]
    assert follow(book, samples(), jax.random.key(1), dead_share=None) == 0
    assert follow(book, samples(), jax.random.key(1), dead_share=0.0) == SIZE * LEVELS  # none had a use
    for old, of_level in zip(before, book.levels, strict=True):
        assert np.all(np.any(of_level.embeddings[...] != old, axis=1))


QUANTISERS = {
    "vq": {"size": SIZE},
    "residual": {"size": SIZE, "levels": 2},
    "fsq": {"size": 9, "levels": 3, "dimension": 2},
}


class Read(NamedTuple):
    """[B, S, D] each: clusters, the codes that are read in their place, gradients of what is said by either,
    and of the VQ loss by the clusters."""

    z: np.ndarray
    codes: np.ndarray
    by_clusters: np.ndarray
    by_codes: np.ndarray
    of_loss: np.ndarray


@functools.cache
def read(quantiser, gradient):
    """What attention makes of codes, as with `classify_quantised`. Clusters that do not exist are 0, as the
    partitioner leaves them."""
    config = CodebookConfig(quantiser=quantiser, gradient=gradient, **QUANTISERS[quantiser])
    book = build_codebook(WIDTH, config, rngs=nnx.Rngs(0))
    begin_codebook(book, samples(), jax.random.key(0))
    attention = ClusterAttention(WIDTH, 2, rngs=nnx.Rngs(1))
    mask = jnp.asarray(MASK)
    z = jnp.asarray(samples(12, 1).reshape(4, 3, WIDTH) * MASK[..., None], jnp.float32)

    def said(codes):
        return jnp.sum(jnp.square(attention(jnp.ones((4, WIDTH)), codes, mask).pooled))

    @jax.jit
    def gradients(z):
        codes = book.quantise(z, mask).features
        by_clusters = jax.grad(lambda z: said(book.quantise(z, mask).features))(z)
        of_loss = jax.grad(lambda z: book.quantise(z, mask).loss)(z)
        return z, codes, by_clusters, jax.grad(said)(codes), of_loss

    return Read(*map(np.asarray, gradients(z)))


@pytest.mark.parametrize("gradient", ["straight-through", "rotation"])
@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_gradients_reach_every_cluster_that_exists_and_no_other(quantiser, gradient):
    """And the VQ loss pulls each to what its codes stand for: 2β(z - e) / number of entries."""
    found = read(quantiser, gradient)
    for array in (found.by_clusters, found.of_loss):
        assert np.isfinite(array).all()
        np.testing.assert_array_equal(array[~MASK], 0)
        assert np.abs(array[MASK]).max(axis=1).min() > 1e-4
    assert_close(found.of_loss, 2 * 0.25 * (found.z - found.codes) / (MASK.sum() * WIDTH))


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_a_cluster_gets_the_gradient_of_its_codes(quantiser):
    found = read(quantiser, "straight-through")
    assert_close(found.by_clusters, found.by_codes)


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_a_turned_gradient_keeps_its_length_and_angle(quantiser):
    """Its length but for the scale |e|/|z|, and its angle with the cluster, which it had with the code."""
    found = read(quantiser, "rotation")
    z, e, turned, gradient = (x[MASK] for x in (found.z, found.codes, found.by_clusters, found.by_codes))

    def length(x):
        return np.linalg.norm(x, axis=-1)

    assert_close(length(turned), length(gradient) * length(e) / length(z), 1e-4)
    assert_close(np.sum(turned * z, axis=-1), np.sum(gradient * e, axis=-1), 1e-4)
    assert np.abs(turned - gradient).max(axis=1).min() > 1e-4
