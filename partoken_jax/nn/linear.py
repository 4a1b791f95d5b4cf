"""Linear layers and multilayer perceptrons with the initialisation of the published model."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from partoken_jax.nn.dropout import dropout
from partoken_jax.nn.noise import Noise

# U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for weights and biases.
_kernel_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def linear(
    d_in: int, d_out: int, *, bias: bool = True, dtype: DTypeLike | None = None, rngs: nnx.Rngs
) -> nnx.Linear:
    """y = x W + b, W [d_in, d_out]. With `dtype`, x and the float32 parameters are rounded to it first."""
    bound = d_in**-0.5 if d_in else 0.0
    return nnx.Linear(
        d_in,
        d_out,
        use_bias=bias,
        dtype=dtype,
        kernel_init=_kernel_init if d_in else nnx.initializers.zeros_init(),
        bias_init=lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound),
        rngs=rngs,
    )


def affine(layer: nnx.Linear) -> tuple[jax.Array, jax.Array]:
    """W [in, out] and b [out] of a layer with a bias, in its dtype, for code that applies them in parts."""
    assert layer.bias is not None
    return kernel(layer), _rounded(layer.bias[...], layer)


def kernel(layer: nnx.Linear) -> jax.Array:
    """W [in, out] of a layer, in its dtype."""
    return _rounded(layer.kernel[...], layer)


def _rounded(parameter: jax.Array, layer: nnx.Linear) -> jax.Array:
    return parameter if layer.dtype is None else parameter.astype(layer.dtype)


def product(x: jax.Array, weight: jax.Array) -> jax.Array:
    """x [..., in] · W [in, out] in the dtype of W.

    Vectors of rows, [R, 3, in], are 3 R rows: for the gradient of W, XLA on a CPU would transpose an x of
    more than two axes.
    """
    x = x.astype(weight.dtype)
    if x.ndim == 3 and x.shape[1] == 3:
        return (x.reshape(3 * x.shape[0], x.shape[2]) @ weight).reshape(*x.shape[:2], weight.shape[1])
    return x @ weight


def apply(layer: nnx.Linear, x: jax.Array) -> jax.Array:
    """x W + b, or x W for a layer without a bias, for x [..., in]; the same as the layer's call."""
    y = product(x, kernel(layer))
    return y if layer.bias is None else y + _rounded(layer.bias[...], layer)


class MLP(nnx.Module):
    """Linear layers with ReLU and dropout between them: widths (d0, d1, …, dn) make n layers."""

    def __init__(self, widths: tuple[int, ...], *, dropout: float = 0.0, rngs: nnx.Rngs):
        self.rate = dropout
        self.layers = nnx.List([linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])

    def __call__(self, x: jax.Array, *, noise: Noise | None = None) -> jax.Array:
        """x [..., d0] → [..., dn]: Linear, then (ReLU, dropout, Linear) n - 1 times. Dropout needs noise.

        REFERENCE.md section 3, MLP.
        """
        for i, layer in enumerate(self.layers):
            if i:
                x = dropout(jax.nn.relu(x), self.rate, None if noise is None else noise.fold_in(i))
            x = layer(x)
        return x
