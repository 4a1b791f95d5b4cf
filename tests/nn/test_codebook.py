"""The codebook against plain numpy, and what must hold of its losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.config import CodebookConfig
from partoken_jax.nn.codebook import (
    Codebook,
    CodebookState,
    VQCodebook,
    choose,
    cluster_statistics,
    codebook_use,
    ema_update,
    grid_state,
    nearest_code,
    quantise,
    reseed_dead,
    rotated,
)
from partoken_jax.nn.kmeans import codebook_from_samples
from partoken_jax.nn.presence import coverage_loss, log_absence
from partoken_jax.nn.whitening import fit_whitening, whiten
from tests.helpers import assert_close

CODES, WIDTH = 8, 5
MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 0]], bool)
BETA, DECAY, EPSILON = 0.25, 0.9, 1e-5


@pytest.fixture(scope="module")
def state():
    """Codes 0 to 3 lie where clusters are; 4 to 7 far away, so that nothing chooses them."""
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(CODES, WIDTH))
    embeddings[4:] += 6
    counts = rng.uniform(0.5, 3, CODES)
    return CodebookState(
        *(jnp.asarray(a, jnp.float32) for a in (embeddings, counts, embeddings * counts[:, None])),
        uses=jnp.arange(CODES, dtype=jnp.int32),
    )


@pytest.fixture(scope="module")
def z():
    return jnp.asarray(np.random.default_rng(1).normal(size=(*MASK.shape, WIDTH)), jnp.float32)


def nearest(embeddings, z, metric):
    """[B, S] by loops over every pair, float64."""
    embeddings, z = np.asarray(embeddings, np.float64), np.asarray(z, np.float64)
    codes = np.zeros(z.shape[:2], int)
    for b, s in np.ndindex(*codes.shape):
        x = z[b, s]
        if metric == "cosine":
            distance = [1 - x @ e / np.linalg.norm(x) / np.linalg.norm(e) for e in embeddings]
        else:
            distance = [np.sum((x - e) ** 2) for e in embeddings]
        codes[b, s] = np.argmin(distance)
    return codes


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_quantise(state, z, metric):
    out = quantise(state, z, jnp.asarray(MASK), beta=BETA, metric=metric)
    codes = nearest(state.embeddings, z, metric)
    assert len(np.unique(codes[MASK])) > 1
    np.testing.assert_array_equal(out.codes, np.where(MASK, codes, -1))
    chosen = np.asarray(state.embeddings)[codes]
    np.testing.assert_allclose(np.asarray(out.features)[MASK], chosen[MASK], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(out.features)[~MASK], np.asarray(z)[~MASK])
    squared = np.square(np.asarray(z, np.float64) - chosen)
    assert out.loss == pytest.approx(BETA * squared[MASK].mean(), rel=1e-5)


def test_equal_codes_tie_to_the_first(z):
    equal = jnp.ones((CODES, WIDTH))
    for metric in ("l2", "cosine"):
        np.testing.assert_array_equal(nearest_code(equal, z, metric), 0)


def test_gradients_are_straight_through(state, z):
    """Output: the identity, valid or not. Loss: 2β(z - e) / number of entries, on valid rows only."""
    cotangent = np.random.default_rng(2).normal(size=z.shape).astype(np.float32)

    def parts(z):
        out = quantise(state, z, jnp.asarray(MASK), beta=BETA, metric="l2")
        return jnp.stack([jnp.sum(out.features * cotangent), out.loss])

    through, loss = jax.jacrev(parts)(z)
    np.testing.assert_array_equal(through, cotangent)
    chosen = np.asarray(state.embeddings)[nearest(state.embeddings, z, "l2")]
    want = np.where(MASK[..., None], 2 * BETA * (np.asarray(z) - chosen) / (MASK.sum() * WIDTH), 0)
    assert_close(loss, want)


@pytest.mark.parametrize("keep_unused", [True, False])
def test_moving_averages_against_numpy(state, z, keep_unused):
    codes = np.where(MASK, nearest(state.embeddings, z, "l2"), -1)
    got = ema_update(
        state,
        cluster_statistics(z, jnp.asarray(codes), CODES),
        decay=DECAY,
        epsilon=EPSILON,
        keep_unused=keep_unused,
    )
    old = [np.asarray(a, np.float64) for a in state]
    for code in range(CODES):
        rows = np.asarray(z, np.float64)[codes == code]
        count = DECAY * old[1][code] + (1 - DECAY) * len(rows)
        total = DECAY * old[2][code] + (1 - DECAY) * rows.sum(0)
        assert got.counts[code] == pytest.approx(count, rel=1e-5)
        assert got.uses[code] == state.uses[code] + len(rows)
        np.testing.assert_allclose(got.sums[code], total, rtol=1e-5, atol=1e-6)
        if len(rows) or not keep_unused:
            np.testing.assert_allclose(got.embeddings[code], total / (count + EPSILON), rtol=2e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(got.embeddings[code], state.embeddings[code])
    assert np.isin(np.arange(4), codes).any() and not np.isin([4, 5, 6, 7], codes).any()


def test_fresh_codes_without_usage(z):
    """REFERENCE fault 9: by the published rule one step sends every unused code to the origin."""
    fresh = VQCodebook(WIDTH, CodebookConfig(size=CODES), rngs=nnx.Rngs(0)).state
    codes = jnp.where(jnp.asarray(MASK), 2, -1)
    kept, published = (
        ema_update(fresh, cluster_statistics(z, codes, CODES), decay=DECAY, epsilon=EPSILON, keep_unused=k)
        for k in (True, False)
    )
    unused = np.arange(CODES) != 2
    assert np.all(np.any(fresh.embeddings != 0, axis=1))
    np.testing.assert_array_equal(kept.embeddings[unused], fresh.embeddings[unused])
    np.testing.assert_array_equal(published.embeddings[unused], 0)
    np.testing.assert_array_equal(kept.embeddings[2], published.embeddings[2])
    np.testing.assert_allclose(kept.embeddings[2], np.asarray(z)[MASK].mean(0), rtol=1e-3, atol=1e-4)


def test_nothing_valid(state, z):
    nothing = jnp.zeros(MASK.shape, bool)

    def loss(z):
        out = quantise(state, z, nothing, beta=BETA, metric="l2")
        covered = coverage_loss(log_absence(state.embeddings, z, nothing, 1.0), jnp.zeros(4, bool))
        return out.loss + covered, out

    gradient, out = jax.grad(loss, has_aux=True)(z)
    assert out.loss == 0
    np.testing.assert_array_equal(out.codes, -1)
    np.testing.assert_array_equal(out.features, z)
    np.testing.assert_array_equal(gradient, 0)
    for keep_unused in (True, False):
        after = ema_update(
            state,
            cluster_statistics(z, out.codes, CODES),
            decay=DECAY,
            epsilon=EPSILON,
            keep_unused=keep_unused,
        )
        for a, b in zip(after, state, strict=True):
            np.testing.assert_array_equal(a, b)


def test_invalid_clusters_take_no_part(state, z):
    spoiled = jnp.where(jnp.asarray(MASK)[..., None], z, 77.0)
    for features in (z, spoiled):
        out = quantise(state, features, jnp.asarray(MASK), beta=BETA, metric="l2")
        after = ema_update(
            state,
            cluster_statistics(features, out.codes, CODES),
            decay=DECAY,
            epsilon=EPSILON,
            keep_unused=True,
        )
        absent = log_absence(state.embeddings, features, jnp.asarray(MASK), 0.3)
        record = (out.codes, out.loss, *after, absent)
        if features is z:
            plain = record
    for a, b in zip(record, plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_use():
    """All codes alike: K of them in use. One alone: 1."""
    even, single = codebook_use(jnp.ones(CODES), EPSILON), codebook_use(jnp.eye(CODES)[0], EPSILON)
    np.testing.assert_allclose(even.usage, 1 / CODES, rtol=1e-5)
    assert even.perplexity == pytest.approx(CODES, rel=1e-3)
    assert even.entropy_loss == pytest.approx(0, abs=1e-3)
    assert single.perplexity == pytest.approx(1, rel=2e-3)
    assert single.entropy_loss == pytest.approx(np.log(CODES), rel=2e-3)
    assert np.all(np.asarray(single.usage) >= EPSILON * (1 - 1e-6))


def test_reseeding_moves_codes_without_uses_only(state):
    samples = jnp.asarray(np.random.default_rng(5).normal(size=(20, WIDTH)), jnp.float32)
    dead = np.isin(np.arange(CODES), [1, 6])
    before = state._replace(uses=jnp.where(dead, 0, 1))
    after, moved = reseed_dead(before, samples, jax.random.key(0))
    assert moved == 2
    np.testing.assert_array_equal(after.embeddings[~dead], state.embeddings[~dead])
    np.testing.assert_array_equal(after.sums[~dead], state.sums[~dead])
    np.testing.assert_array_equal(after.counts, np.where(dead, 1, state.counts))
    for code in (1, 6):
        assert np.any(np.all(np.asarray(samples) == after.embeddings[code], axis=1))
        np.testing.assert_array_equal(after.sums[code], after.embeddings[code])
    np.testing.assert_array_equal(after.uses, 0)  # counted anew from here
    assert reseed_dead(state._replace(uses=jnp.ones(CODES, jnp.int32)), samples, jax.random.key(0))[1] == 0


def test_codes_that_are_chosen_rarely_are_dead_where_a_share_says_so(state):
    samples = jnp.asarray(np.random.default_rng(5).normal(size=(20, WIDTH)), jnp.float32)
    uses = np.full(CODES, 20)
    uses[:3] = 0, 2, 6
    share = 5 / uses.mean()  # of an equal part: at most 5 uses
    after, moved = reseed_dead(state._replace(uses=jnp.asarray(uses)), samples, jax.random.key(0), share)
    changed = np.any(np.asarray(after.embeddings) != np.asarray(state.embeddings), axis=1)
    assert moved == 2 and np.array_equal(np.flatnonzero(changed), [0, 1])


def test_an_unused_code_is_reseeded_at_once_and_one_in_use_never(z):
    """However large its moving count still is: from 1 after k-means it takes 459 unused steps to 0.01."""
    samples = jnp.asarray(np.random.default_rng(6).normal(size=(30, WIDTH)), jnp.float32)
    start = codebook_from_samples(samples, CODES, jax.random.key(0))

    def step(state, codes):
        codes = jnp.asarray(np.where(MASK, codes, -1))
        return ema_update(
            state, cluster_statistics(z, codes, CODES), decay=0.99, epsilon=EPSILON, keep_unused=True
        )

    once = step(step(start, 5), 3)  # code 5 in the first step alone, code 3 in the second
    after, moved = reseed_dead(once, samples, jax.random.key(1))
    assert moved == CODES - 2
    for code in range(CODES):
        assert np.array_equal(after.embeddings[code], once.embeddings[code]) == (code in (3, 5))
    # From the re-seeding on, what was chosen before it no longer counts.
    assert reseed_dead(step(after, 3), samples, jax.random.key(2))[1] == CODES - 1


def test_module_moves_only_when_asked_and_by_averages_alone(z):
    book = VQCodebook(WIDTH, CodebookConfig(size=CODES), rngs=nnx.Rngs(0))
    assert not nnx.to_flat_state(nnx.state(book, nnx.Param))  # nothing for an optimiser
    assert len(nnx.to_flat_state(nnx.state(book, Codebook))) == len(nnx.to_flat_state(nnx.state(book)))
    samples = jnp.asarray(np.random.default_rng(6).normal(size=(30, WIDTH)), jnp.float32)
    book.set_state(codebook_from_samples(samples, CODES, jax.random.key(0)))
    before = book.state
    np.testing.assert_array_equal(before.counts, 1)
    np.testing.assert_array_equal(before.sums, before.embeddings)
    np.testing.assert_array_equal(before.uses, 0)
    first, second = book.quantise(z, jnp.asarray(MASK)), book.quantise(z, jnp.asarray(MASK))
    statistics = cluster_statistics(z, first.codes, CODES)
    book.move(statistics, False)
    for a, b in zip((*first, *book.state), (*second, *before), strict=True):
        np.testing.assert_array_equal(a, b)
    book.move(statistics, True)
    want = ema_update(before, statistics, decay=0.99, epsilon=1e-5, keep_unused=True)
    for a, b in zip(book.state, want, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(book.state.embeddings != before.embeddings)


def test_use_against_numpy():
    counts = np.array([3.0, 0.5, 0.0, 6.5, 1e-4, 2.0])
    p = np.maximum(counts / (counts.sum() + EPSILON), EPSILON)
    got = codebook_use(jnp.asarray(counts, jnp.float32), EPSILON)
    np.testing.assert_allclose(got.usage, p, rtol=1e-5)
    assert got.perplexity == pytest.approx(np.exp(-np.sum(p * np.log(p + EPSILON))), rel=1e-5)
    assert got.entropy_loss == pytest.approx(np.sum(p * (np.log(p) - np.log(1 / 6 + EPSILON))), rel=1e-5)


def test_rotation_keeps_the_value_and_turns_the_gradient(state, z):
    """Against the rotation matrix of Fifty et al. 2024, equation 4, built for one cluster at a time."""
    chosen = np.asarray(state.embeddings)[nearest(state.embeddings, z, "l2")]
    cotangent = np.random.default_rng(2).normal(size=z.shape).astype(np.float32)
    value, pull = jax.vjp(lambda z: rotated(z, jnp.asarray(chosen)), z)
    np.testing.assert_array_equal(value, chosen)
    (got,) = pull(jnp.asarray(cotangent))
    for place in np.ndindex(MASK.shape):
        x, e = np.asarray(z[place], np.float64), np.asarray(chosen[place], np.float64)
        unit, to = x / np.linalg.norm(x), e / np.linalg.norm(e)
        r = (unit + to) / np.linalg.norm(unit + to)
        turn = np.eye(WIDTH) - 2 * np.outer(r, r) + 2 * np.outer(to, unit)
        scale = np.linalg.norm(e) / np.linalg.norm(x)
        np.testing.assert_allclose(scale * turn @ x, e, atol=1e-9)  # the oracle does turn z onto e
        np.testing.assert_allclose(got[place], scale * turn.T @ cotangent[place], rtol=1e-4, atol=1e-5)
    out = quantise(state, z, jnp.asarray(MASK), beta=BETA, metric="l2", gradient="rotation")
    plain = quantise(state, z, jnp.asarray(MASK), beta=BETA, metric="l2")
    np.testing.assert_array_equal(out.codes, plain.codes)
    np.testing.assert_allclose(out.features, plain.features, atol=1e-6)


def test_rotation_without_a_direction_is_straight_through():
    """A cluster at 0, a code at 0, and a code opposite to its cluster."""
    z = jnp.array([[0.0, 0.0], [1.0, 2.0], [1.0, 0.0]])
    chosen = jnp.array([[3.0, 1.0], [0.0, 0.0], [-2.0, 0.0]])
    value, pull = jax.vjp(lambda z: rotated(z, chosen), z)
    np.testing.assert_array_equal(value, chosen)
    np.testing.assert_array_equal(pull(jnp.ones_like(z))[0], 1)


def clusters_along_a_line(count=600):
    """Cluster features as training makes them: one direction with nearly all of the variance."""
    rng = np.random.default_rng(7)
    scales = np.array([20.0, 0.5, 0.4, 0.3, 0.2])
    return (np.abs(rng.normal(size=(count, WIDTH))) * scales).astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_codes_of_a_whitened_space_are_nearest_there(metric):
    z = clusters_along_a_line()
    space, codes = fit_whitening(z, 3), jnp.asarray(z[:CODES])
    got = choose(codes, jnp.asarray(z), metric, space)
    there = np.asarray(whiten(space, jnp.asarray(z)))[None], np.asarray(whiten(space, codes))
    np.testing.assert_array_equal(got, nearest(there[1], there[0], metric)[0])
    assert np.any(got != choose(codes, jnp.asarray(z), metric))


def test_k_means_in_a_whitened_space_tells_more_than_one_direction_apart():
    """Codes of all channels slice the line; codes of the space say something of every direction."""
    z = jnp.asarray(clusters_along_a_line())
    space = fit_whitening(np.asarray(z), WIDTH)
    y = np.asarray(whiten(space, z))
    lost = []
    for whitening in (None, space):
        state = codebook_from_samples(z, 16, jax.random.key(0), whitening=whitening)
        codes = np.asarray(choose(state.embeddings, z, "l2", whitening))
        means = np.stack([y[codes == code].mean(0) for code in codes])
        lost.append(np.square(y - means).mean(0))
        # Codes are means of clusters as they are, so that nothing else changes with the space.
        for code in np.unique(codes)[:3]:
            np.testing.assert_allclose(
                state.embeddings[code], np.asarray(z)[codes == code].mean(0), rtol=0.05, atol=0.5
            )
    assert np.sum(lost[0] < 0.5) == 1 and np.sum(lost[1] < 0.75) == WIDTH


def test_first_codes_of_a_grid_are_the_means_of_its_cells():
    z = clusters_along_a_line()
    space = fit_whitening(z, 2)
    state = grid_state(jnp.asarray(z), space, 3)
    codes = np.asarray(choose(state.embeddings, jnp.asarray(z), "l2", space, 3))
    assert state.embeddings.shape == (9, WIDTH) and len(np.unique(codes)) > 6
    for code in np.unique(codes):
        np.testing.assert_allclose(state.embeddings[code], z[codes == code].mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(state.counts, 1)
    assert np.isfinite(state.embeddings).all()


def test_reseeded_codes_are_all_different_while_there_are_samples_enough(state):
    samples = jnp.arange(float(CODES * WIDTH)).reshape(CODES, WIDTH)
    after, moved = reseed_dead(state._replace(uses=jnp.zeros(CODES, jnp.int32)), samples, jax.random.key(0))
    assert moved == CODES
    assert len(np.unique(after.embeddings, axis=0)) == CODES
