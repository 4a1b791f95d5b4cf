"""Which nodes of a flat batch belong to which graph, and reductions over the nodes of each graph.

The index [N] (`graph_index`) is sorted and names the graph of each node; masked nodes never count.
"""

import jax
import jax.numpy as jnp
import jraph


def graph_index(graph: jraph.GraphsTuple) -> jax.Array:
    """int32 [N]: number of the graph that each node belongs to; ascending."""
    num_graphs = graph.n_node.shape[0]
    num_nodes = jax.tree.leaves(graph.nodes)[0].shape[0]
    return jnp.repeat(jnp.arange(num_graphs, dtype=jnp.int32), graph.n_node, total_repeat_length=num_nodes)


def first_node(graph: jraph.GraphsTuple) -> jax.Array:
    """int32 [G]: where each graph begins among the nodes."""
    return jnp.cumsum(graph.n_node) - graph.n_node


def segment_sum(x: jax.Array, index: jax.Array, num_segments: int) -> jax.Array:
    """Sum of x [N, ...] per segment → [num_segments, ...]; `index` must be sorted."""
    return jax.ops.segment_sum(x, index, num_segments, indices_are_sorted=True)


def segment_mean(x: jax.Array, mask: jax.Array, index: jax.Array, num_segments: int) -> jax.Array:
    """Mean of the unmasked rows of x [N, D] per segment; 0 for a segment without any.

    REFERENCE.md section 3, mean pooling.
    """
    weight = mask.astype(x.dtype)
    count = segment_sum(weight, index, num_segments)
    return segment_sum(x * weight[:, None], index, num_segments) / jnp.maximum(count, 1.0)[:, None]


def segment_max(x: jax.Array, mask: jax.Array, index: jax.Array, num_segments: int) -> jax.Array:
    """Largest unmasked entry of x [N, ...] per segment; 0 for a segment without any.

    REFERENCE.md section 3, max pooling.
    """
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - 1))
    top = jax.ops.segment_max(jnp.where(mask, x, -jnp.inf), index, num_segments, indices_are_sorted=True)
    return jnp.where(jnp.isfinite(top), top, 0.0)


def segment_softmax(logits: jax.Array, mask: jax.Array, index: jax.Array, num_segments: int) -> jax.Array:
    """Softmax of logits [N] over the unmasked entries of each segment; 0 where masked.

    REFERENCE.md section 3, attention pooling weights.
    """
    top = jax.lax.stop_gradient(segment_max(logits, mask, index, num_segments))
    exponent = jnp.where(mask, logits - top[index], 0.0)  # masked before exp: no inf, no NaN gradient
    weight = jnp.where(mask, jnp.exp(exponent), 0.0)
    total = segment_sum(weight, index, num_segments)
    return weight / jnp.where(total > 0, total, 1.0)[index]
