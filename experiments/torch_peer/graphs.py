"""A batch of proteins as PyTorch reads it: flat residues, one edge list, no padding."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from partoken_jax.graphs.types import FeaturisedGraph, PackedGraph, edge_list


class ProteinBatch(NamedTuple):
    """B proteins as they travel to the device: coordinates and edges."""

    backbone: Tensor
    """[N, 4, 3]: N, CA, C, O in Å; NaN where an atom is missing."""
    residue_type: Tensor
    """int64 [N]: index into `ARNDCQEGHILKMFPSTWYV`."""
    mask: Tensor
    """bool [N]: the residue has all four atoms."""
    edge_index: Tensor
    """int64 [2, E]: sender (neighbour), receiver (centre); any order, any number per residue."""
    batch: Tensor
    """int64 [N]: protein of each residue, ascending."""
    label: Tensor
    """int64 [B]: class."""


class ProteinGraph(NamedTuple):
    """The same batch with features, as the models read it."""

    node_s: Tensor
    """[N, 6]"""
    node_v: Tensor
    """[N, 3, 3]: channel, then x, y, z."""
    residue_type: Tensor
    """int64 [N]"""
    mask: Tensor
    """bool [N]"""
    edge_index: Tensor
    """int64 [2, E]"""
    edge_s: Tensor
    """[E, 32]"""
    edge_v: Tensor
    """[E, 1, 3]"""
    batch: Tensor
    """int64 [N]"""
    label: Tensor
    """int64 [B]"""


def from_packed(
    graph: PackedGraph, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ProteinBatch:
    """A batch packed by `partoken_jax.pack` without its padding: the same proteins, and the same neighbours
    in the same order. `dtype` is that of the coordinates, and so of everything computed."""
    graph = edge_list(graph)
    return ProteinBatch(**_tensors(graph, {"backbone": graph.nodes.backbone}, {}, device, dtype))


def from_featurised(
    graph: FeaturisedGraph, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ProteinGraph:
    """The same of a batch with the features of `partoken_jax.featurise`. The sine of a dihedral near 180°
    loses half of float32's digits, so numbers are compared closely only from the same features."""
    graph = edge_list(graph)
    nodes = {"node_s": graph.nodes.scalars, "node_v": graph.nodes.vectors}
    edges = {"edge_s": graph.edges.scalars, "edge_v": graph.edges.vectors}
    return ProteinGraph(**_tensors(graph, nodes, edges, device, dtype))


def _tensors(
    graph: PackedGraph | FeaturisedGraph, nodes: dict, edges: dict, device, dtype
) -> dict[str, Tensor]:
    """What both records share, and the given arrays by node and by edge. Padding nodes come last and are cut
    off with the edges that are masked."""
    num_proteins = int(np.sum(graph.globals.mask))
    n_node = np.asarray(graph.n_node)[:num_proteins]
    nodes = nodes | {"residue_type": graph.nodes.residue_type, "mask": graph.nodes.mask}
    edges = edges | {"sender": graph.senders, "receiver": graph.receivers}
    real = np.asarray(graph.edges.mask)
    arrays = {name: np.asarray(array)[: n_node.sum()] for name, array in nodes.items()}
    arrays |= {name: np.asarray(array)[real] for name, array in edges.items()}
    arrays["edge_index"] = np.stack([arrays.pop("sender"), arrays.pop("receiver")])
    arrays["batch"] = np.repeat(np.arange(num_proteins), n_node)
    arrays["label"] = np.asarray(graph.globals.label)[:num_proteins]
    dtypes = {"f": dtype, "i": torch.int64, "b": torch.bool}
    return {
        name: torch.tensor(array, dtype=dtypes[array.dtype.kind], device=device)
        for name, array in arrays.items()
    }


def knn_edges(ca: Tensor, complete: Tensor, k: int) -> Tensor:
    """The k nearest complete residues of every complete residue of ONE protein; n - 1 where n ≤ k.

    From CA coordinates [L, 3] in Å and a mask bool [L]. Returns int64 [2, E], grouped by receiver ascending,
    senders by distance and then by index.
    """
    present = complete.nonzero()[:, 0]
    distance = torch.cdist(ca[present], ca[present], compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(torch.inf)
    count = min(k, len(present) - 1)
    nearest = distance.argsort(dim=1, stable=True)[:, :count]
    receiver = present[:, None].expand(-1, count)
    return torch.stack([present[nearest], receiver]).reshape(2, -1)


def radius_edges(ca: Tensor, complete: Tensor, radius: float) -> Tensor:
    """All pairs of complete residues of ONE protein whose CA atoms are less than `radius` Å apart.

    Arguments and result as for `knn_edges`; a residue may have any number of edges, or none.
    """
    near = torch.cdist(ca, ca, compute_mode="donot_use_mm_for_euclid_dist") < radius
    near &= complete[:, None] & complete[None, :]
    near.fill_diagonal_(False)
    receiver, sender = near.nonzero(as_tuple=True)
    return torch.stack([sender, receiver])
