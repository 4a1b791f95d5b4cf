"""The message of every edge of a block, in the layout of the kernels and of plain arrays alone."""

import jax
import jax.numpy as jnp

from partoken_jax.nn.fused_messages.products import Precision, times
from partoken_jax.nn.fused_messages.weights import MessageWeights
from partoken_jax.nn.norms import vector_norm


def messages(x: jax.Array, edge: jax.Array, weights: MessageWeights, precision: Precision) -> jax.Array:
    """What the last message GVP needs of e edges: scalars, norms and vectors, float32 [S + 4 C, e].

    `x`: float32 [F, e], the sum of the sender's and the receiver's part; `edge`: [E, e].
    """
    rows, hidden = weights.wn1.shape
    x = x + times(weights.edge, edge.astype(jnp.float32), precision)
    s, vh = x[:rows], x[rows:].reshape(3, hidden, -1)
    s = _relu(s + times(weights.wn1, vector_norm(vh, axis=0), precision))
    vh = _of_vectors(weights.wh2, _gated(_of_vectors(weights.wv1, vh, precision)), precision)
    norm = times(weights.wn2, vector_norm(vh, axis=0), precision)
    s = _relu(times(weights.ws2, s, precision) + norm + weights.b2)
    vh = _of_vectors(weights.wh3, _gated(_of_vectors(weights.wv2, vh, precision)), precision)
    return jnp.concatenate([s, vector_norm(vh, axis=0), *vh])


def _of_vectors(weight: jax.Array, v: jax.Array, precision: Precision) -> jax.Array:
    """weight [o, i] · v [3, i, e] for each coordinate."""
    return jnp.stack([times(weight, v[i], precision) for i in range(3)])


def _gated(v: jax.Array) -> jax.Array:
    """`gvp.norm_gated` for coordinates first: v · sigmoid(|v|)."""
    return v * jax.nn.sigmoid(vector_norm(v, axis=0))


def _relu(x: jax.Array) -> jax.Array:
    return jnp.where(x > 0, x, 0.0)
