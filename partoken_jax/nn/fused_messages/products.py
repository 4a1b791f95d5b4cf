"""Matrix products on the matrix unit of a TPU, which multiplies bfloat16, in the precisions that models have.

"float32" leaves six products of parts to the compiler. "tensorfloat32" is what XLA makes of it on a TPU:
float32 as the sum of two bfloat16, and three of their four products. "bfloat16" is one product of rounded
numbers. Sums are float32. Written out, the last two have the same rounding in interpret mode. That is for
kernels: XLA may take a number and what it was rounded from for the same, so outside of them the compiler is
told how precise a product is (`jax.lax.Precision`).
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
Products = Precision | jax.lax.Precision
"""How products are computed: as kernels have them, or as the compiler is told."""
PARTS: dict[Precision, int] = {"float32": 3, "tensorfloat32": 2, "bfloat16": 1}
"""Numbers of bfloat16 whose sum a float32 is taken for: 3 have all its 24 digits."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def times(weight: jax.Array, x: jax.Array, precision: Products) -> jax.Array:
    """weight [o, i] · x [i, e] → [o, e]; the products of its gradient are of the same precision."""
    return contracted(weight, x, (1, 0), precision)


def _forward(weight, x, precision):
    return times(weight, x, precision), (weight, x)


def _backward(precision, saved, gradient):
    weight, x = saved
    return contracted(gradient, x, (1, 1), precision), contracted(weight, gradient, (0, 0), precision)


times.defvjp(_forward, _backward)


def contracted(a: jax.Array, b: jax.Array, axes: tuple[int, int], precision: Products) -> jax.Array:
    """Σ over axis axes[0] of the float32 matrix a and axis axes[1] of b."""
    if precision == "float32":
        precision = jax.lax.Precision.HIGHEST
    if isinstance(precision, jax.lax.Precision):
        dims = (((axes[0],), (axes[1],)), ((), ()))
        return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)
    parts = PARTS[precision]
    split_a, split_b = in_parts(a, parts), in_parts(b, parts)
    return functools.reduce(jnp.add, [of_parts(split_a[i], split_b[j], axes) for i, j in pairs(parts)])


def pairs(parts: int) -> list[tuple[int, int]]:
    """Which parts of two numbers are multiplied: those whose product counts, the smallest first."""
    found = [(i, j) for i in range(parts) for j in range(parts) if i + j < parts]
    return sorted(found, key=sum, reverse=True)


def of_parts(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """The same for bfloat16 matrices, whose products are exact in float32, whatever precision is set."""
    dims = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(
        a, b, dims, precision=jax.lax.Precision.DEFAULT, preferred_element_type=jnp.float32
    )


def in_parts(x: jax.Array, parts: int) -> list[jax.Array]:
    """bfloat16 arrays whose sum is x but for what does not fit, the largest first."""
    found = []
    for _ in range(parts):
        part = x.astype(jnp.bfloat16)
        found.append(part)
        x = x - part.astype(jnp.float32)
    return found
