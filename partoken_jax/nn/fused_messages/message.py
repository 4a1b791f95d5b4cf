"""The message of every edge of a block: edges in columns, every argument one plain array."""

import jax
import jax.numpy as jnp

from partoken_jax.nn.fused_messages.products import Products, times
from partoken_jax.nn.fused_messages.weights import LaneWeights
from partoken_jax.nn.norms import vector_norm


def messages(
    s: jax.Array, vh: jax.Array, edge: jax.Array, weights: LaneWeights, precision: Products
) -> jax.Array:
    """What the last message GVP needs of e edges: scalars, norms and vectors, float32 [S + 4 C, e].

    `s`, `vh`: float32 [S, e] and [3 H, e], the sum of the sender's and the receiver's part; `edge`: [E, e].
    """

    def linear(weight: jax.Array, *x: jax.Array) -> jax.Array:
        return times(weight, jnp.concatenate(x) if len(x) > 1 else x[0], precision)

    edge = edge.astype(jnp.float32)
    vh = vh + linear(weights.edge, edge)
    s = _relu(s + linear(weights.s1, edge, _norms(vh)))
    vh = linear(weights.h2, _gated(linear(weights.v1, vh)))
    s = _relu(linear(weights.s2, s, _norms(vh)) + weights.b2)
    vh = linear(weights.h3, _gated(linear(weights.v2, vh)))
    return jnp.concatenate([s, _norms(vh), vh])


def _norms(v: jax.Array) -> jax.Array:
    """Of vectors [3 C, e], x of all first: [C, e]."""
    return vector_norm(v.reshape(3, -1, v.shape[-1]), axis=0)


def _gated(v: jax.Array) -> jax.Array:
    """`gvp.norm_gated` for coordinates first: v · sigmoid(|v|)."""
    return v * jnp.tile(jax.nn.sigmoid(_norms(v)), (3, 1))


def _relu(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, 0.0)
