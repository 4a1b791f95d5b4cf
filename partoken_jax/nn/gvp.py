"""Geometric vector perceptrons (Jing et al. 2021, "Learning from protein structure with GVPs").

Features are tuples (s, v): scalars s [..., D] and vectors v [..., C, 3]. Scalars never change under
a rotation of the protein, vectors rotate with it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from partoken_jax.nn.linear import apply, linear
from partoken_jax.nn.norms import component_product, vector_norm

Dims = tuple[int, int]
Activation = Callable[[jax.Array], jax.Array] | None
Features = tuple[jax.Array, jax.Array]


class GVP(nnx.Module):
    """One geometric vector perceptron.

    vh = W_h v;  s' = W_s [s, |vh|] + b;  v' = W_v vh, scaled by act_v(|v'|) (`norm_gated`), or with
    `vector_gate` by sigmoid(W_g act_v(s') + b) (`scalar_gated`);  then act_s(s').

    The published models use neither `vector_gate` nor another width `hidden` of vh than the default; the
    original offers both, and golden case 1 (`gvp_gate`, `gvp_hdim`) holds their numbers.
    """

    def __init__(
        self,
        dims_in: Dims,
        dims_out: Dims,
        *,
        hidden: int | None = None,
        activations: tuple[Activation, Activation] = (jax.nn.relu, jax.nn.sigmoid),
        vector_gate: bool = False,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """`dims_*`: (scalar, vector) channels; `hidden`: width of vh, by default the larger vector width;
        `dtype`: of products and results, by default that of the inputs. Norms are computed in float32."""
        (si, self.vi), (so, self.vo) = dims_in, dims_out
        self.hidden = (hidden or max(self.vi, self.vo)) if self.vi else 0
        self.scalar_activation, self.vector_activation = activations
        self.vector_gate = vector_gate
        self.wh = linear(self.vi, self.hidden, bias=False, dtype=dtype, rngs=rngs) if self.vi else None
        self.ws = linear(si + self.hidden, so, dtype=dtype, rngs=rngs)
        self.wv = (
            linear(self.hidden, self.vo, bias=False, dtype=dtype, rngs=rngs) if self.vi and self.vo else None
        )
        self.wg = linear(so, self.vo, dtype=dtype, rngs=rngs) if self.wv is not None and vector_gate else None

    def __call__(self, s: jax.Array, v: jax.Array | None = None) -> Features:
        """s [..., si], v [..., vi, 3] → ([..., so], [..., vo, 3]); vi = 0 gives zero vectors."""
        columns = None if v is None else jnp.swapaxes(v, -1, -2)
        s, columns = self.columns(s, columns)
        return s, jnp.swapaxes(columns, -1, -2)

    def columns(self, s: jax.Array, v: jax.Array | None) -> Features:
        """The same on vectors stored as [..., 3, C], so that every product is along the last axis.

        vh = W_h v;  s' = W_s [s, |vh|] + b;  v' = W_v vh.

        REFERENCE.md section 3, GVP.
        """
        if self.wh is None or v is None:
            pre = apply(self.ws, s)
            return self.activate(pre, jnp.zeros((*pre.shape[:-1], 3, 0), pre.dtype))
        vh = apply(self.wh, v)
        pre = apply(self.ws, jnp.concatenate([s, vector_norm(vh, axis=-2)], axis=-1))
        return self.activate(pre, vh)

    def activate(self, pre: jax.Array, vh: jax.Array) -> Features:
        """From s' before its activation [..., so] and vh [..., 3, hidden] to the outputs."""
        if self.wv is None:
            out_v = jnp.zeros((*pre.shape[:-1], 3, self.vo), pre.dtype)
        else:
            out_v = apply(self.wv, vh)
            if self.wg is not None:
                out_v = scalar_gated(out_v, apply(self.wg, _activate(self.vector_activation, pre)))
            elif self.vector_activation is not None:
                out_v = norm_gated(out_v, self.vector_activation)
        return _activate(self.scalar_activation, pre), out_v


def norm_gated(v: jax.Array, activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """v · act(|v|) for vectors [..., 3, C]: each is scaled by its own length.

    REFERENCE.md section 3, default gate.
    """
    return _scaled(v, activation(vector_norm(v, axis=-2)))


def scalar_gated(v: jax.Array, logits: jax.Array) -> jax.Array:
    """v · sigmoid(logits) for vectors [..., 3, C] and `logits` [..., C] = W_g act(s') + b.

    REFERENCE.md section 3, vector gate.
    """
    return _scaled(v, jax.nn.sigmoid(logits))


@jax.custom_vjp
def _scaled(v: jax.Array, scale: jax.Array) -> jax.Array:
    """v [..., 3, C] times scale [..., C]."""
    return v * scale[..., None, :]


def _scaled_forward(v, scale):
    return _scaled(v, scale), (v, scale)


def _scaled_backward(residuals, gradient):
    v, scale = residuals
    return gradient * scale[..., None, :], component_product(gradient, v, axis=-2)


_scaled.defvjp(_scaled_forward, _scaled_backward)


def _activate(activation: Activation, x: jax.Array) -> jax.Array:
    return x if activation is None else activation(x)
