"""What a round asks of the edges, for both layouts of `partoken_jax.graphs.types`.

A table of neighbours is read by its rows; a list of edges takes segment operations. Masked edges never count.
Legend: N residues, K neighbours, E edges, G graphs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph


class Edges(NamedTuple):
    """The edges of a batch: a table of neighbours [N, K] without receivers, or a list [E]."""

    senders: jax.Array
    """int32 [N, K] or [E]"""
    receivers: jax.Array | None
    """None or int32 [E]"""
    mask: jax.Array
    """bool [N, K] or [E]: a real edge."""
    out_degree: jax.Array
    """[N]: edges that each residue is the sender of."""


def edges_of(graph: jraph.GraphsTuple, num_nodes: int) -> Edges:
    """The edges of a graph, with the out-degree of its `num_nodes` residues counted once for all rounds."""
    senders, mask = jnp.asarray(graph.senders), jnp.asarray(graph.edges.mask)
    degree = jax.ops.segment_sum(mask.astype(jnp.float32).reshape(-1), senders.reshape(-1), num_nodes)
    return Edges(senders, graph.receivers, mask, degree)


def edges_from(flag: jax.Array, edges: Edges) -> jax.Array:
    """[N]: edges into each residue whose sender is flagged, bool [N]."""
    flagged = flag[edges.senders] & edges.mask
    if edges.receivers is None:
        return jnp.sum(flagged, axis=1, dtype=jnp.float32)
    return jax.ops.segment_sum(flagged.astype(jnp.float32), edges.receivers, flag.shape[0])


def edges_into_seed(is_seed: jax.Array, seed: jax.Array, edges: Edges) -> jax.Array:
    """[N]: edges from each residue into its protein's seed.

    The seeds are given twice: as flags, bool [N], and as residues, int32 [G], -1 where there is none.
    """
    num_nodes = is_seed.shape[0]
    if edges.receivers is None:  # the row of a seed lists all that send to it
        row = jnp.maximum(seed, 0)
        real = (edges.mask[row] & (seed >= 0)[:, None]).astype(jnp.float32)
        return jnp.zeros(num_nodes).at[edges.senders[row]].add(real)
    into_seed = is_seed[edges.receivers] & edges.mask
    return jax.ops.segment_sum(into_seed.astype(jnp.float32), edges.senders, num_nodes)
