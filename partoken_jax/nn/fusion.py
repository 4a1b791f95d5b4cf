"""How a protein and its attended clusters become one vector: a gate."""

import jax
import jax.numpy as jnp
from flax import nnx

from partoken_jax.nn.linear import MLP, linear


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
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The fused vector [B, D] and β [B, D]."""
        beta = jax.nn.sigmoid(self.gate(jnp.concatenate([protein, clusters], axis=-1), key=key))
        return self.norm(protein + beta * self.project(clusters)), beta
