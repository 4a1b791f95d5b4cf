"""Linear layers and MLPs."""

import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn.linear import MLP, linear
from tests.helpers import assert_close


def test_linear_starts_within_the_published_bound():
    layer = linear(64, 500, rngs=nnx.Rngs(0))
    for part in (layer.kernel[...], layer.bias[...]):
        assert np.abs(part).max() <= 1 / 8
        assert np.std(part) == pytest.approx(1 / 8 / 3**0.5, rel=0.1)  # uniform


def test_mlp_against_numpy():
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    mlp = MLP((5, 7, 4, 2), dropout=0.5, rngs=nnx.Rngs(0))
    want = x.astype(np.float64)
    for number, layer in enumerate(mlp.layers):
        want = (np.maximum(want, 0) if number else want) @ np.asarray(layer.kernel[...])
        want = want + np.asarray(layer.bias[...])
    assert_close(mlp(x), want)
