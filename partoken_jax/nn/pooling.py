"""From residues to proteins: node features of a flat batch → one vector per protein."""

import jax
from flax import nnx

from partoken_jax.graphs.segments import segment_max, segment_mean, segment_softmax, segment_sum
from partoken_jax.model_config import Pooling
from partoken_jax.nn.linear import MLP


def weighted_sum(x: jax.Array, weight: jax.Array, index: jax.Array, num_graphs: int) -> jax.Array:
    """[G, D]: Σ weight · x per protein, for x [N, D] and weight [N].

    Sum pooling weighs every real residue by 1, attention pooling by the softmax of a score over its protein.

    REFERENCE.md section 3, sum and attention pooling.
    """
    return segment_sum(x * weight[:, None], index, num_graphs)


class Pool(nnx.Module):
    """Node features [N, D] → one vector per graph [G, D]: mean, max, sum or attention.

    Attention: score = Linear(D → D/2), ReLU, Linear → 1, softmax over the residues of one protein. With
    `norm`, a LayerNorm follows.
    """

    def __init__(self, pooling: Pooling, width: int, *, norm: bool = False, rngs: nnx.Rngs):
        self.pooling = pooling
        self.score = MLP((width, width // 2, 1), rngs=rngs) if pooling == "attention" else None
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs) if norm else None

    def __call__(
        self,
        x: jax.Array,  # [N, D]
        mask: jax.Array,  # [N]
        index: jax.Array,  # [N]
        num_graphs: int,
    ) -> jax.Array:
        """The vectors [G, D]. `index` names the graph of each node; masked nodes do not count."""
        pooled = self._pooled(x, mask, index, num_graphs)
        return pooled if self.norm is None else self.norm(pooled)

    def _pooled(self, x: jax.Array, mask: jax.Array, index: jax.Array, num_graphs: int) -> jax.Array:
        if self.pooling == "mean":
            return segment_mean(x, mask, index, num_graphs)
        if self.pooling == "max":
            return segment_max(x, mask, index, num_graphs)
        if self.score is not None:
            weight = segment_softmax(self.score(x)[:, 0], mask, index, num_graphs)
        else:
            weight = mask.astype(x.dtype)
        return weighted_sum(x, weight, index, num_graphs)
