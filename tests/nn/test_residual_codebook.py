"""Residual VQ against plain numpy, and what becomes of its averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.config import CodebookConfig
from partoken_jax.nn.codebook import Codebook
from partoken_jax.nn.residual_codebook import ResidualCodebook
from partoken_jax.training.stages import begin_codebook, follow

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
