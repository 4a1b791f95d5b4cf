"""Proteins as static-shape `jraph.GraphsTuple`s."""

from partoken_jax.graphs.batching import BatchPlan, plan_batches
from partoken_jax.graphs.features import featurise
from partoken_jax.graphs.loader import BatchLoader
from partoken_jax.graphs.neighbours import neighbour_tables
from partoken_jax.graphs.packing import pack
from partoken_jax.graphs.types import (
    EdgeFeatures,
    FeaturisedGraph,
    HiddenGraph,
    HiddenNodes,
    NeighbourEdges,
    NodeFeatures,
    PackedGraph,
    ProteinGlobals,
    ResidueNodes,
    edge_list,
)
from partoken_jax.proteins.neighbours import neighbour_table

__all__ = [
    "BatchLoader",
    "BatchPlan",
    "EdgeFeatures",
    "FeaturisedGraph",
    "HiddenGraph",
    "HiddenNodes",
    "NeighbourEdges",
    "NodeFeatures",
    "PackedGraph",
    "ProteinGlobals",
    "ResidueNodes",
    "edge_list",
    "featurise",
    "neighbour_table",
    "neighbour_tables",
    "pack",
    "plan_batches",
]
