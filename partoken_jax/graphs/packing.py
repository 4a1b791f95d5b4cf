"""Packs proteins into one padded `jraph.GraphsTuple` of NumPy arrays (layout: graphs/types.py)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from partoken_jax.graphs.types import NeighbourEdges, PackedGraph, ProteinGlobals, ResidueNodes
from partoken_jax.proteins import DataError, Protein, ProteinDataset

ROUND_TO = 64
"""Node counts are multiples of this."""


class FlatProteins(NamedTuple):
    """P proteins with all R residues one after another, so that a batch is a few `take`s."""

    backbone: np.ndarray
    """float32 [R, 4, 3], Å."""
    residue_type: np.ndarray
    """int32 [R]."""
    complete: np.ndarray
    """bool [R]."""
    neighbour_offset: np.ndarray
    """int32 [R, K]: neighbour minus residue, as indices; 0 = none, for nobody is their own neighbour."""
    first: np.ndarray
    """int64 [P]: row of the first residue of each protein."""
    length: np.ndarray
    """int64 [P]."""
    label: np.ndarray
    """int32 [P]."""
    number: np.ndarray
    """int32 [P]: what `globals.protein` says of the protein."""


def flatten(
    proteins: ProteinDataset | Sequence[Protein],
    tables: Sequence[np.ndarray],
    indices: Sequence[int] | None = None,
) -> FlatProteins:
    """Concatenates P proteins and their tables (int32 [L, K] each), numbered by `indices` or from 0.

    Raises DataError for tables that do not belong to the proteins (naming the first), or a number of indices
    that is not theirs.
    """
    if len(proteins) != len(tables) or len(proteins) == 0:
        raise DataError(
            f"{len(tables)} neighbour tables for {len(proteins)} proteins; "
            "give at least one protein and a table for each"
        )
    if indices is not None and np.shape(indices) != (len(proteins),):
        raise DataError(
            f"indices has shape {np.shape(indices)} for {len(proteins)} proteins; give one index for each"
        )
    chains = [proteins[i] for i in range(len(proteins))]
    width = tables[0].shape[1]
    for protein, table in zip(chains, tables, strict=True):
        if table.shape != (len(protein), width):
            raise DataError(
                f"{protein.name}: neighbour table has shape {table.shape}, but must be "
                f"({len(protein)}, {width}); compute the tables anew, after cropping and with one k"
            )
    length = np.array([len(protein) for protein in chains], np.int64)
    first = np.cumsum(length) - length
    backbone = np.concatenate([protein.backbone for protein in chains])
    offset = np.concatenate(tables, dtype=np.int32)
    local = (np.arange(len(backbone)) - np.repeat(first, length)).astype(np.int32)[:, None]
    missing = offset < 0
    offset -= local
    offset[missing] = 0
    return FlatProteins(
        backbone=backbone,
        residue_type=np.concatenate([protein.residue_types for protein in chains]),
        complete=np.concatenate([protein.complete for protein in chains]),
        neighbour_offset=offset,
        first=first,
        length=length,
        label=np.array([protein.label for protein in chains], np.int32),
        number=np.arange(len(chains), dtype=np.int32) if indices is None else np.asarray(indices, np.int32),
    )


def pack_flat(flat: FlatProteins, indices: np.ndarray, *, num_nodes: int, batch_size: int) -> PackedGraph:
    """A batch of the proteins at the given places: `batch_size` slots and the padding graph.

    Args:
      indices: int [at most batch_size], places of proteins in `flat`; slots left over are empty and masked.
      num_nodes: N; at least one more than the batch has residues, because jraph's last graph is padding.

    Returns:
      Graph of N nodes, a table of N * K edges and batch_size + 1 graphs, fields as in graphs/types.py; NumPy
      arrays.

    Raises DataError if the proteins do not fit.
    """
    lengths = flat.length[indices]
    total, count = int(lengths.sum()), len(indices)
    if count > batch_size or total + 1 > num_nodes:
        raise DataError(
            f"{count} proteins of {total} residues do not fit into {batch_size} slots and {num_nodes} nodes "
            f"(one of them padding); take fewer proteins or at least {padded_count(total)} nodes"
        )
    width = flat.neighbour_offset.shape[1]
    rows = np.repeat(flat.first[indices] - (np.cumsum(lengths) - lengths), lengths) + np.arange(total)

    backbone = np.full((num_nodes, 4, 3), np.nan, np.float32)
    backbone[:total] = flat.backbone[rows]
    residue_type = np.zeros(num_nodes, np.int32)
    residue_type[:total] = flat.residue_type[rows]
    complete = np.zeros(num_nodes, bool)
    complete[:total] = flat.complete[rows]

    offset = np.zeros((num_nodes, width), np.int32)
    np.take(flat.neighbour_offset, rows, axis=0, out=offset[:total], mode="clip")
    n_node = np.zeros(batch_size + 1, np.int32)
    n_node[:count] = lengths
    n_node[-1] = num_nodes - total
    label = np.full(batch_size + 1, -1, np.int32)
    label[:count] = flat.label[indices]
    index = np.full(batch_size + 1, -1, np.int32)
    index[:count] = flat.number[indices]

    return PackedGraph(
        nodes=ResidueNodes(backbone, residue_type, complete),
        edges=NeighbourEdges(offset != 0),
        globals=ProteinGlobals(label, index, np.arange(batch_size + 1) < count),
        senders=np.arange(num_nodes, dtype=np.int32)[:, None] + offset,
        receivers=None,  # told by the row of the table, so they need not travel
        n_node=n_node,
        n_edge=n_node * np.int32(width),
    )


def pack(
    proteins: Sequence[Protein],
    tables: Sequence[np.ndarray],
    *,
    num_nodes: int | None = None,
    batch_size: int | None = None,
    indices: Sequence[int] | None = None,
) -> PackedGraph:
    """A batch of a few proteins; for many batches of one dataset see `batching.BatchLoader`.

    Args:
      proteins, tables: the proteins of the batch and their neighbour tables, int32 [L, K].
      num_nodes: N; by default the next multiple of `ROUND_TO` that leaves a padding residue.
      batch_size: protein slots; by default as many as proteins.
      indices: what `globals.protein` shall say of each protein; by default 0, 1, 2 ...

    Raises DataError if tables or indices do not belong to the proteins, or the proteins do not fit.
    """
    flat = flatten(proteins, tables, indices)
    return pack_flat(
        flat,
        np.arange(len(proteins)),
        num_nodes=padded_count(int(flat.length.sum())) if num_nodes is None else num_nodes,
        batch_size=len(proteins) if batch_size is None else batch_size,
    )


def padded_count(total: int) -> int:
    """The next multiple of `ROUND_TO` that leaves at least one padding residue."""
    return (total // ROUND_TO + 1) * ROUND_TO
