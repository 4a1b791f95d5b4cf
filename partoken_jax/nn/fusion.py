"""How a protein and its attended clusters become one vector: a gate. Legend: B proteins, D channels."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from partoken_jax.nn.linear import MLP, linear
from partoken_jax.nn.noise import Noise

Map = Callable[[jax.Array], jax.Array]


def gate(head: Map, protein: jax.Array, clusters: jax.Array) -> jax.Array:
    """β [B, D] = sigmoid(MLP([protein, clusters])), for the MLP `head`, 2 D → D.

    REFERENCE.md section 5, gate β.
    """
    return jax.nn.sigmoid(head(jnp.concatenate([protein, clusters], axis=-1)))


def fused(norm: Map, protein: jax.Array, beta: jax.Array, projected: jax.Array) -> jax.Array:
    """[B, D]: LayerNorm(protein + β · projected), for `projected` = Linear(clusters).

    REFERENCE.md section 5, fused vector.
    """
    return norm(protein + beta * projected)


class GatedFusion(nnx.Module):
    """β = sigmoid(MLP([protein, clusters])); LayerNorm(protein + β · Linear(clusters))."""

    def __init__(self, width: int, *, dropout: float = 0.0, rngs: nnx.Rngs):
        self.gate = MLP((2 * width, width // 2, width), dropout=dropout, rngs=rngs)
        self.project = linear(width, width, bias=False, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    def __call__(
        self,
        protein: jax.Array,  # [B, D]
        clusters: jax.Array,  # [B, D]
        *,
        noise: Noise | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The fused vector [B, D] and β [B, D]."""
        beta = gate(functools.partial(self.gate, noise=noise), protein, clusters)
        return fused(self.norm, protein, beta, self.project(clusters)), beta
