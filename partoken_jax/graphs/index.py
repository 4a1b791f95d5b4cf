"""Which nodes of a flat batch belong to which graph."""

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
