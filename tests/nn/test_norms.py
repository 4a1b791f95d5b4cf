"""The norm of vectors and the layer norm of scalars and vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn.norms import TupleLayerNorm, vector_layer_norm, vector_norm
from tests.helpers import assert_close, random_rotation


def features(rng, scalars=5, vectors=4, rows=11):
    s, v = rng.normal(size=(rows, scalars)), rng.normal(size=(rows, vectors, 3))
    return jnp.asarray(s, jnp.float32), jnp.asarray(v, jnp.float32)


def test_vector_norm_is_clamped_with_gradient_zero_below():
    small, large = jnp.array([1e-6, 2e-6, 0.0]), jnp.array([3.0, 4.0, 0.0])
    assert vector_norm(small) == pytest.approx(1e-4) and vector_norm(large) == pytest.approx(5)
    np.testing.assert_array_equal(jax.grad(vector_norm)(small), 0)
    np.testing.assert_array_equal(jax.grad(vector_norm)(jnp.zeros(3)), 0)
    np.testing.assert_allclose(jax.grad(vector_norm)(large), [0.6, 0.8, 0], rtol=1e-6)


@pytest.mark.parametrize("axis", [-1, -2])
def test_gradient_of_the_norm_is_the_unit_vector(axis):
    v = np.random.default_rng(3).normal(size=(5, 3, 3))
    v[1] = 0  # under the clamp
    v[2] *= 1e3
    lengths = np.linalg.norm(v, axis=axis, keepdims=True)
    unit = np.divide(v, lengths, out=np.zeros_like(v), where=lengths > 0)
    cotangent = np.random.default_rng(4).normal(size=(5, 3))
    _, pull = jax.vjp(lambda v: vector_norm(v, axis), jnp.asarray(v, jnp.float32))
    assert_close(pull(jnp.asarray(cotangent, jnp.float32))[0], np.expand_dims(cotangent, axis) * unit)


def test_vector_layer_norm_against_numpy():
    v = np.random.default_rng(2).normal(size=(5, 4, 3))
    v[0, :2] = 0  # under the clamp
    want = [row / np.sqrt(np.mean([max(one @ one, 1e-8) for one in row])) for row in v]
    assert_close(vector_layer_norm(jnp.asarray(v, jnp.float32)), np.stack(want))


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
