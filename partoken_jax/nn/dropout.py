"""Dropout of numbers and of whole vector channels, with explicit keys."""

import jax
import jax.numpy as jnp


def dropout(
    x: jax.Array,
    rate: float,
    key: jax.Array | None,
    *,
    trailing: int = 0,
) -> jax.Array:
    """Inverted dropout; off when `key` is None. The last `trailing` axes are dropped together.

    16 random bits decide each unit (random numbers are a measurable part of a step), so the rate is
    exact to 1 / 65536.
    """
    if key is None or rate == 0.0:
        return x
    shape = x.shape[: x.ndim - trailing]
    bits = jax.random.bits(key, shape, jnp.uint16)
    keep = (bits >= round(rate * 65536)).reshape(shape + (1,) * trailing)
    return jnp.where(keep, x / (1.0 - rate), 0.0)


def tuple_dropout(
    s: jax.Array, v: jax.Array, rate: float, key: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Dropout of scalars [..., D] and of whole vector channels [..., C, 3]; off without a key.

    REFERENCE.md section 3, dropout of vector channels.
    """
    if key is None:
        return s, v
    key_s, key_v = jax.random.split(key)
    return dropout(s, rate, key_s), dropout(v, rate, key_v, trailing=1)
