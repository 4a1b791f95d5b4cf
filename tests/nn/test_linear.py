"""Linear layers and MLPs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn.linear import MLP, apply, linear
from tests.helpers import assert_close


def test_linear_starts_within_the_published_bound():
    layer = linear(64, 500, rngs=nnx.Rngs(0))
    for part in (layer.kernel[...], layer.bias[...]):
        assert np.abs(part).max() <= 1 / 8
        assert np.std(part) == pytest.approx(1 / 8 / 3**0.5, rel=0.1)  # uniform


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_a_layer_applied_to_more_axes_is_the_layer(bias, dtype):
    layer = linear(4, 5, bias=bias, dtype=dtype, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
    graphdef, params = nnx.split(layer)

    def run(call):
        loss = lambda params, x: jnp.sum(jnp.sin(call(nnx.merge(graphdef, params), x)))  # noqa: E731
        return call(layer, x), *jax.tree.leaves(jax.grad(loss, argnums=(0, 1))(params, x))

    for got, want in zip(run(apply), run(lambda layer, x: layer(x)), strict=True):
        assert got.dtype == want.dtype
        assert_close(got, want, 1e-6 if dtype is None else 1e-2)


def test_mlp_against_numpy():
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    mlp = MLP((5, 7, 4, 2), dropout=0.5, rngs=nnx.Rngs(0))
    want = x.astype(np.float64)
    for number, layer in enumerate(mlp.layers):
        want = (np.maximum(want, 0) if number else want) @ np.asarray(layer.kernel[...])
        want = want + np.asarray(layer.bias[...])
    assert_close(mlp(x), want)
