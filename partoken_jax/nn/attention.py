"""How clusters reach the classifier: attention of the whole protein over its clusters.

Legend: B proteins, S clusters, D channels, h heads of d = D / h channels.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from partoken_jax.nn.dropout import dropout
from partoken_jax.nn.linear import linear
from partoken_jax.nn.noise import Noise


class Attended(NamedTuple):
    pooled: jax.Array
    """[B, D]"""
    importance: jax.Array
    """[B, S]: attention weight of each cluster, mean over heads; sums to 1, or 0 without clusters."""
    weights: jax.Array
    """[B, heads, S]"""


def attention_weights(
    query: jax.Array,  # [B, h, d]
    keys: jax.Array,  # [B, S, h, d]
    mask: jax.Array,  # bool [B, S]
    temperature: float = 1.0,
) -> jax.Array:
    """a [B, h, S] = softmax_s(⟨q, k_s⟩ / (sqrt(d) T)) over the valid clusters.

    Masked before the softmax and after it, then divided by max(Σ a, 1e-6): a sums to 1 over the valid
    clusters, and is 0 everywhere in a protein without any.

    REFERENCE.md section 5, attention weights.
    """
    logits = jnp.einsum("bhd,bshd->bhs", query, keys) / (query.shape[-1] ** 0.5 * temperature)
    valid = mask[:, None, :]
    weights = jax.nn.softmax(jnp.where(valid, logits, -1e9), axis=-1) * valid
    return weights / jnp.maximum(jnp.sum(weights, axis=-1, keepdims=True), 1e-6)


def attended_values(weights: jax.Array, values: jax.Array) -> jax.Array:
    """[B, D]: Σ_s a_s v_s of every head, side by side; weights [B, h, S], values [B, S, h, d].

    REFERENCE.md section 5, attended clusters.
    """
    pooled = jnp.einsum("bhs,bshd->bhd", weights, values)
    return pooled.reshape(pooled.shape[0], -1)


def importance(weights: jax.Array) -> jax.Array:
    """[B, S]: the attention weight of each cluster, mean over heads, from [B, h, S].

    REFERENCE.md section 5, importance.
    """
    return jnp.mean(weights, axis=1)


class ClusterAttention(nnx.Module):
    """One query from the pooled protein, keys and values from its clusters; no biases."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0, rngs: nnx.Rngs):
        self.heads = heads
        self.rate = dropout
        self.query = linear(width, width, bias=False, rngs=rngs)
        self.key = linear(width, width, bias=False, rngs=rngs)
        self.value = linear(width, width, bias=False, rngs=rngs)
        self.out = linear(width, width, bias=False, rngs=rngs)

    def __call__(
        self,
        protein: jax.Array,  # [B, D]
        clusters: jax.Array,  # [B, S, D]
        mask: jax.Array,  # bool [B, S]
        *,
        temperature: float = 1.0,
        noise: Noise | None = None,
    ) -> Attended:
        """Attends; without clusters all is 0.

        `temperature` divides the logits. The published models leave it at 1, but golden case 6
        (`attn.temp0.5`) holds the numbers of another.
        """
        chex.assert_shape(clusters, (*mask.shape, protein.shape[-1]))
        chex.assert_equal_shape_prefix((protein, clusters, mask), 1)
        weights = self.weights(protein, clusters, mask, temperature)
        values = self.value(clusters).reshape(*clusters.shape[:2], self.heads, -1)
        pooled = attended_values(dropout(weights, self.rate, noise), values)
        return Attended(self.out(pooled), importance(weights), weights)

    def weights(
        self, protein: jax.Array, clusters: jax.Array, mask: jax.Array, temperature: float = 1.0
    ) -> jax.Array:
        """Attention weights [B, heads, S]: 0 on invalid clusters, summing to 1 over the valid ones."""
        query = self.query(protein).reshape(protein.shape[0], self.heads, -1)
        keys = self.key(clusters).reshape(*clusters.shape[:2], self.heads, -1)
        return attention_weights(query, keys, mask, temperature)
