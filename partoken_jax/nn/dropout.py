"""Dropout of numbers and of whole vector channels."""

import jax
import jax.numpy as jnp

from partoken_jax.nn.noise import Noise, random_bits


def dropout(x: jax.Array, rate: float, noise: Noise | None, *, trailing: int = 0) -> jax.Array:
    """Inverted dropout of x [R, ...]; off without noise. The last `trailing` axes are dropped together.

    What is dropped depends on the key, the protein, the residue and the channel (`nn/noise.py`), and not on
    what else is in the batch. The rate is exact to 2**-32.
    """
    if noise is None or rate == 0.0:
        return x
    shape = x.shape[: x.ndim - trailing]
    keep = random_bits(noise, shape[1:]) >= jnp.uint32(round(rate * 2**32))
    return jnp.where(keep.reshape(shape + (1,) * trailing), x / (1.0 - rate), 0.0)


def tuple_dropout(
    s: jax.Array, v: jax.Array, rate: float, noise: Noise | None
) -> tuple[jax.Array, jax.Array]:
    """Dropout of scalars [R, D] and of whole vector channels [R, C, 3]; off without noise.

    REFERENCE.md section 3, dropout of vector channels.
    """
    if noise is None:
        return s, v
    return dropout(s, rate, noise.fold_in(0)), dropout(v, rate, noise.fold_in(1), trailing=1)
