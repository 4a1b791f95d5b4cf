"""Recorded graphs in both layouts of this package."""

import jax.numpy as jnp
import numpy as np

from experiments.parity.layout import dense_layout
from experiments.parity.vectors import Vectors
from partoken_jax.graphs.types import EdgeFeatures, FeaturisedGraph, NodeFeatures, ProteinGlobals


def edge_graph(edge_index: np.ndarray, num_nodes: int, dense: bool):
    """(senders, receivers, mask, take): a list of edges as recorded, or a table of neighbours without
    receivers. `take` picks the recorded edge of each slot."""
    senders, receivers = edge_index
    if not dense:
        return senders, receivers, np.ones(len(senders), bool), np.arange(len(senders))
    table, slot = dense_layout(senders, receivers, num_nodes)
    return table, None, slot >= 0, np.maximum(slot, 0)


def batch_graph(inputs: Vectors, form: str) -> FeaturisedGraph:
    """A recorded batch (`in.*`) as a featurised graph with an empty padding graph."""
    batch, labels = inputs["batch"], inputs["y"]
    num_graphs = len(labels)
    senders, receivers, mask, take = edge_graph(inputs["edge_index"], len(batch), form != "general")
    n_edge = np.bincount(batch[inputs["edge_index"][1]], minlength=num_graphs)
    return FeaturisedGraph(
        nodes=NodeFeatures(
            jnp.asarray(inputs["node_s"]),
            jnp.asarray(inputs["node_v"]),
            jnp.asarray(inputs["seq"]),
            jnp.ones(len(batch), bool),
        ),
        edges=EdgeFeatures(
            jnp.asarray(inputs["edge_s"][take]), jnp.asarray(inputs["edge_v"][take]), jnp.asarray(mask)
        ),
        senders=jnp.asarray(senders),
        receivers=None if receivers is None else jnp.asarray(receivers),
        n_node=jnp.asarray(np.append(np.bincount(batch, minlength=num_graphs), 0)),
        n_edge=jnp.asarray(np.append(n_edge, 0)),
        globals=ProteinGlobals(
            label=jnp.asarray(np.append(labels, -1)),
            protein=jnp.arange(num_graphs + 1),
            mask=jnp.arange(num_graphs + 1) < num_graphs,
        ),
    )
