"""Dropout of numbers and of whole vector channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partoken_jax.nn.dropout import dropout, tuple_dropout


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
