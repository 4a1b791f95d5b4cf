"""GVP blocks: scalars do not change under rotation, vectors rotate, and nothing is NaN at zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn.dropout import dropout, tuple_dropout
from partoken_jax.nn.gvp import GVP
from partoken_jax.nn.linear import linear
from partoken_jax.nn.norms import TupleLayerNorm, vector_norm
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


def test_vector_norm_is_clamped_with_gradient_zero_below():
    small, large = jnp.array([1e-6, 2e-6, 0.0]), jnp.array([3.0, 4.0, 0.0])
    assert vector_norm(small) == pytest.approx(1e-4) and vector_norm(large) == pytest.approx(5)
    np.testing.assert_array_equal(jax.grad(vector_norm)(small), 0)
    np.testing.assert_array_equal(jax.grad(vector_norm)(jnp.zeros(3)), 0)
    np.testing.assert_allclose(jax.grad(vector_norm)(large), [0.6, 0.8, 0], rtol=1e-6)


@pytest.mark.parametrize("vector_gate", [False, True])
def test_gradients_at_zero_vectors_are_finite(vector_gate):
    s, v = features(np.random.default_rng(0))
    norm = TupleLayerNorm((5, 4), rngs=nnx.Rngs(0))
    gvp = GVP((5, 4), (7, 3), vector_gate=vector_gate, rngs=nnx.Rngs(0))

    def total(s, v):
        return sum(jnp.sum(jnp.square(x)) for x in gvp(*norm(s, v)))

    for gradient in jax.grad(total, argnums=(0, 1))(s, v.at[:5].set(0.0)):
        assert np.isfinite(gradient).all() and np.any(gradient)


def test_layer_norm():
    rng = np.random.default_rng(1)
    s, v = features(rng)
    turn = jnp.asarray(random_rotation(rng), jnp.float32)
    norm = TupleLayerNorm((5, 4), rngs=nnx.Rngs(0))
    out_s, out_v = norm(s, v)
    turned_s, turned_v = norm(s, v @ turn.T)
    np.testing.assert_array_equal(turned_s, out_s)
    assert_close(turned_v, out_v @ turn.T)
    wide = np.asarray(s, np.float64)
    want = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    assert_close(out_s, want)
    np.testing.assert_allclose(np.mean(np.sum(np.square(out_v), -1), -1), 1, rtol=1e-5)
    # Neither the size of the scalars nor that of the vectors passes.
    far_s, far_v = norm(s + 300.0, 7.0 * v)
    np.testing.assert_allclose(far_s, out_s, atol=2e-4)  # 300 is rounded to 3e-5
    assert_close(far_v, out_v)


def test_tuple_dropout_drops_whole_vector_channels():
    s, v = jnp.ones((200, 30)), jnp.ones((200, 10, 3))
    dropped_s, dropped_v = tuple_dropout(s, v, 0.25, jax.random.key(0))
    for part in (dropped_s, dropped_v):
        values, counts = np.unique(part, return_counts=True)
        np.testing.assert_allclose(values, [0, 1 / 0.75], rtol=1e-6)
        assert counts[0] / counts.sum() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(dropped_v[..., :1] == dropped_v, True)
    for part, same in zip((s, v), tuple_dropout(s, v, 0.25, None), strict=True):
        np.testing.assert_array_equal(part, same)


def test_dropout_keeps_the_mean_and_follows_its_key():
    x = jnp.ones((100, 1000))
    first, again, other = (dropout(x, 0.1, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert np.mean(first) == pytest.approx(1, abs=5e-3)  # standard error 1e-3
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


def test_linear_starts_within_the_published_bound():
    layer = linear(64, 500, rngs=nnx.Rngs(0))
    for part in (layer.kernel[...], layer.bias[...]):
        assert np.abs(part).max() <= 1 / 8
        assert np.std(part) == pytest.approx(1 / 8 / 3**0.5, rel=0.1)  # uniform
