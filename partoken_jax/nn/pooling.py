"""From residues to proteins: segment reductions over a flat batch.

The index [N] (`partoken_jax.graphs.index.graph_index`) is sorted and names the protein of each residue;
masked residues never count.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from partoken_jax.config import Pooling
from partoken_jax.nn.linear import MLP


def segment_sum(x: jax.Array, index: jax.Array, num_segments: int) -> jax.Array:
    """Sum of x [N, ...] per segment → [num_segments, ...]; `index` must be sorted."""
    return jax.ops.segment_sum(x, index, num_segments, indices_are_sorted=True)


def segment_mean(x: jax.Array, mask: jax.Array, index: jax.Array, num_segments: int) -> jax.Array:
    """Mean of the unmasked rows of x [N, D] per segment; 0 for a segment without any."""
    weight = mask.astype(x.dtype)
    count = segment_sum(weight, index, num_segments)
    return segment_sum(x * weight[:, None], index, num_segments) / jnp.maximum(count, 1.0)[:, None]


def segment_max(x: jax.Array, mask: jax.Array, index: jax.Array, num_segments: int) -> jax.Array:
    """Largest unmasked entry of x [N, ...] per segment; 0 for a segment without any."""
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - 1))
    top = jax.ops.segment_max(jnp.where(mask, x, -jnp.inf), index, num_segments, indices_are_sorted=True)
    return jnp.where(jnp.isfinite(top), top, 0.0)


def segment_softmax(logits: jax.Array, mask: jax.Array, index: jax.Array, num_segments: int) -> jax.Array:
    """Softmax of logits [N] over the unmasked entries of each segment; 0 where masked."""
    top = jax.lax.stop_gradient(segment_max(logits, mask, index, num_segments))
    exponent = jnp.where(mask, logits - top[index], 0.0)  # masked before exp: no inf, no NaN gradient
    weight = jnp.where(mask, jnp.exp(exponent), 0.0)
    total = segment_sum(weight, index, num_segments)
    return weight / jnp.where(total > 0, total, 1.0)[index]


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
