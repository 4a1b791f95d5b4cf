"""Norms of vectors, and the layer norm of scalars and vectors (docs/REFERENCE.md, section 3)."""

import functools
from typing import overload

import jax
import jax.numpy as jnp
from flax import nnx

MIN_SQUARED_NORM = 1e-8


def vector_norm(v: jax.Array, axis: int = -1) -> jax.Array:
    """sqrt(max(Σ x², 1e-8)) along `axis`; the gradient is 0 under the clamp. Computed in float32.

    REFERENCE.md section 3, norm.
    """
    return _norm(v.astype(jnp.float32), axis).astype(v.dtype)


def component_product(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    """Σ a b along `axis`, the one of x, y and z.

    Added up term by term: with XLA's reduction a whole conv takes 1.13 times as long on a CPU.
    """
    (ax, ay, az), (bx, by, bz) = jnp.unstack(a, axis=axis), jnp.unstack(b, axis=axis)
    return ax * bx + ay * by + az * bz


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _norm(v: jax.Array, axis: int) -> jax.Array:
    return jnp.sqrt(_clamped(component_product(v, v, axis)))


def _norm_forward(v, axis):
    return _norm(v, axis), v


def _norm_backward(axis, v, gradient):
    squared = component_product(v, v, axis)
    inverse = jnp.where(squared > MIN_SQUARED_NORM, inverse_root(_clamped(squared)), 0.0)
    return (v * jnp.expand_dims(gradient * inverse, axis),)


_norm.defvjp(_norm_forward, _norm_backward)


def inverse_root(x: jax.Array) -> jax.Array:
    """1 / √x as √(1 / x), which XLA does not make a reciprocal root: that is slow on a CPU."""
    return jnp.sqrt(1.0 / x)


def _clamped(squared: jax.Array) -> jax.Array:
    # `where`, not `maximum`: the gradient must be 0 below and whole above, never split or NaN.
    return jnp.where(squared > MIN_SQUARED_NORM, squared, MIN_SQUARED_NORM)


def vector_layer_norm(v: jax.Array) -> jax.Array:
    """v / sqrt(mean over channels of max(|v_c|², 1e-8)), for vectors [..., C, 3]; no parameters.

    REFERENCE.md section 3, vector layer norm.
    """
    squared = _clamped(jnp.sum(v * v, axis=-1, keepdims=True))
    return v / jnp.sqrt(jnp.mean(squared, axis=-2, keepdims=True))


class TupleLayerNorm(nnx.Module):
    """LayerNorm of the scalars; vectors are divided by their root mean square length."""

    def __init__(self, dims: tuple[int, int], *, rngs: nnx.Rngs):
        self.scalar_norm = nnx.LayerNorm(dims[0], epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    @overload
    def __call__(self, s: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]: ...
    @overload
    def __call__(self, s: jax.Array, v: None = None) -> tuple[jax.Array, None]: ...

    def __call__(self, s, v=None):
        """LayerNorm(s) with ε 1e-5, and `vector_layer_norm(v)`; s [..., D], v [..., C, 3] or None.

        REFERENCE.md section 3, tuple layer norm.
        """
        s = self.scalar_norm(s)
        if v is None or v.shape[-2] == 0:
            return s, v
        return s, vector_layer_norm(v)
