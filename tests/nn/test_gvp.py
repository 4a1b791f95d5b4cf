"""GVP blocks: scalars do not change under rotation, vectors rotate, and nothing is NaN at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn.gvp import GVP, norm_gated, scalar_gated
from partoken_jax.nn.norms import TupleLayerNorm
from tests.helpers import assert_close, random_rotation

GVPS = {
    "default": {},
    "gate": {"vector_gate": True},
    "gate without activation": {"vector_gate": True, "activations": (None, None)},
    "no activation": {"activations": (None, None)},
    "hidden": {"hidden": 9},
}


def features(rng, scalars=5, vectors=4, rows=11):
    s, v = rng.normal(size=(rows, scalars)), rng.normal(size=(rows, vectors, 3))
    return jnp.asarray(s, jnp.float32), jnp.asarray(v, jnp.float32)


@pytest.mark.parametrize("options", GVPS.values(), ids=GVPS)
def test_gvp_is_equivariant(options):
    rng = np.random.default_rng(0)
    s, v = features(rng)
    turn = jnp.asarray(random_rotation(rng), jnp.float32)
    gvp = GVP((5, 4), (7, 3), rngs=nnx.Rngs(0), **options)
    plain_s, plain_v = gvp(s, v)
    turned_s, turned_v = gvp(s, v @ turn.T)
    assert (plain_s.shape, plain_v.shape) == ((11, 7), (11, 3, 3))
    assert_close(turned_s, plain_s)
    assert_close(turned_v, plain_v @ turn.T)
    assert np.abs(turned_v - plain_v).max() > 0.01  # the rotation did something


def test_gvp_without_vectors():
    s, _ = features(np.random.default_rng(0))
    into_vectors = GVP((5, 0), (7, 3), rngs=nnx.Rngs(0))
    scalars, vectors = into_vectors(s)
    assert scalars.shape == (11, 7) and vectors.shape == (11, 3, 3)
    np.testing.assert_array_equal(vectors, 0)
    _, v = features(np.random.default_rng(0))
    scalars, vectors = GVP((5, 4), (7, 0), rngs=nnx.Rngs(0))(s, v)
    assert scalars.shape == (11, 7) and vectors.shape == (11, 0, 3)


@pytest.mark.parametrize("vector_gate", [False, True])
def test_gradients_at_zero_vectors_are_finite(vector_gate):
    s, v = features(np.random.default_rng(0))
    norm = TupleLayerNorm((5, 4), rngs=nnx.Rngs(0))
    gvp = GVP((5, 4), (7, 3), vector_gate=vector_gate, rngs=nnx.Rngs(0))

    def total(s, v):
        return sum(jnp.sum(jnp.square(x)) for x in gvp(*norm(s, v)))

    for gradient in jax.grad(total, argnums=(0, 1))(s, v.at[:5].set(0.0)):
        assert np.isfinite(gradient).all() and np.any(gradient)


def test_gates_against_numpy():
    """On vectors [..., 3, C]: one scales each by a function of its length, the other by given logits."""
    rng = np.random.default_rng(1)
    v, logits = rng.normal(size=(6, 3, 4)), rng.normal(size=(6, 4))
    by_length, by_logits = np.zeros_like(v), np.zeros_like(v)
    for row, channel in np.ndindex(6, 4):
        one = v[row, :, channel]
        by_length[row, :, channel] = one * np.tanh(np.linalg.norm(one))
        by_logits[row, :, channel] = one / (1 + np.exp(-logits[row, channel]))
    v, logits = jnp.asarray(v, jnp.float32), jnp.asarray(logits, jnp.float32)
    assert_close(norm_gated(v, jnp.tanh), by_length)
    assert_close(scalar_gated(v, logits), by_logits)


@pytest.mark.parametrize("gate", [norm_gated, scalar_gated])
def test_gradients_of_the_gates_are_the_slopes(gate):
    """Against differences in float64, computed by numpy."""
    rng = np.random.default_rng(5)
    v, by, cotangent = rng.normal(size=(4, 3, 2)), rng.normal(size=(4, 2)), rng.normal(size=(4, 3, 2))
    second = jnp.tanh if gate is norm_gated else jnp.asarray(by, jnp.float32)
    _, pull = jax.vjp(lambda v: gate(v, second), jnp.asarray(v, jnp.float32))

    def total(v):
        scale = np.tanh(np.linalg.norm(v, axis=1)) if gate is norm_gated else 1 / (1 + np.exp(-by))
        return np.sum(v * scale[:, None] * cotangent)

    slopes = np.zeros_like(v)
    for place in np.ndindex(v.shape):
        step = np.zeros_like(v)
        step[place] = 1e-6
        slopes[place] = (total(v + step) - total(v - step)) / 2e-6
    assert_close(pull(jnp.asarray(cotangent, jnp.float32))[0], slopes)


@pytest.mark.parametrize("gate", [False, True])
def test_gvp_against_numpy(gate):
    s, v = features(np.random.default_rng(2))
    gvp = GVP((5, 4), (7, 3), vector_gate=gate, rngs=nnx.Rngs(0))
    wh, wv = (np.asarray(layer.kernel[...], np.float64) for layer in (gvp.wh, gvp.wv))
    ws, b = (np.asarray(p[...], np.float64) for p in (gvp.ws.kernel, gvp.ws.bias))
    want_s, want_v = np.zeros((len(s), 7)), np.zeros((len(s), 3, 3))
    for row in range(len(s)):
        vh = wh.T @ np.asarray(v[row], np.float64)
        pre = np.concatenate([s[row], np.linalg.norm(vh, axis=1)]) @ ws + b
        out = wv.T @ vh
        logits = np.linalg.norm(out, axis=1)
        if gate:
            activated = 1 / (1 + np.exp(-pre))
            logits = activated @ np.asarray(gvp.wg.kernel[...]) + np.asarray(gvp.wg.bias[...])
        want_s[row] = np.maximum(pre, 0)
        want_v[row] = out / (1 + np.exp(-logits))[:, None]
    got_s, got_v = gvp(s, v)
    assert_close(got_s, want_s)
    assert_close(got_v, want_v)
