"""From residues to proteins: node features of a flat batch → one vector per protein."""

import jax
from flax import nnx

from partoken_jax.config import Pooling
from partoken_jax.graphs.segments import segment_max, segment_mean, segment_softmax, segment_sum
from partoken_jax.nn.linear import MLP


class Pool(nnx.Module):
    """Node features [N, D] → one vector per graph [G, D]: mean, max, sum or attention.

    Attention: score = Linear(D → D/2), ReLU, Linear → 1, softmax over the residues of one protein.
    """

    def __init__(self, pooling: Pooling, width: int, *, rngs: nnx.Rngs):
        self.pooling = pooling
        self.score = MLP((width, width // 2, 1), rngs=rngs) if pooling == "attention" else None

    def __call__(
        self,
        x: jax.Array,  # [N, D]
        mask: jax.Array,  # [N]
        index: jax.Array,  # [N]
        num_graphs: int,
    ) -> jax.Array:
        if self.pooling == "mean":
            return segment_mean(x, mask, index, num_graphs)
        if self.pooling == "max":
            return segment_max(x, mask, index, num_graphs)
        if self.score is not None:
            weight = segment_softmax(self.score(x)[:, 0], mask, index, num_graphs)
        else:
            weight = mask.astype(x.dtype)
        return segment_sum(x * weight[:, None], index, num_graphs)
