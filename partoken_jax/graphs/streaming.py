"""Proteins of a prepared set as batches need them: read range by range, so that memory does not grow."""

from collections.abc import Sequence

import numpy as np

from partoken_jax.graphs.neighbours import PreparedTables
from partoken_jax.graphs.packing import FlatProteins, flatten
from partoken_jax.proteins import DataError, ProteinDataset
from partoken_jax.proteins.protein import TYPE_OF_LETTER


class StreamedProteins:
    """P proteins on disk. Like `FlatProteins`, it gives the residues of any of them."""

    def __init__(self, tables: PreparedTables):
        self.tables, self.proteins = tables, tables.proteins
        self.length = self.proteins.lengths
        self.label = self.proteins.labels

    def some(self, places: np.ndarray) -> FlatProteins:
        """The proteins at these places, in their order, read from disk.

        Raises DataError for residues that cannot be, in letter or neighbours.
        """
        lengths = self.length[places]
        first = np.cumsum(lengths) - lengths
        backbone = self.proteins.read("backbone", places)
        residue_type = TYPE_OF_LETTER[self.proteins.read("sequence", places)]
        offset = self.tables.offsets(places)
        local = (np.arange(len(offset)) - np.repeat(first, lengths)).astype(np.int32)
        neighbour = local[:, None] + offset
        outside = (neighbour < 0) | (neighbour >= np.repeat(lengths, lengths)[:, None])
        wrong = np.flatnonzero((residue_type < 0) | outside.any(axis=1))
        if wrong.size:
            name = self.proteins.name(places[np.searchsorted(first, wrong[0], side="right") - 1])
            raise DataError(
                f"{self.proteins.prepared.path}: {name}: its residue {local[wrong[0]] + 1} has a letter or "
                "neighbours that cannot be; copy or prepare the set again"
            )
        return FlatProteins(
            backbone=backbone,
            residue_type=residue_type,
            complete=np.asarray(np.isfinite(backbone).all(axis=(1, 2))),
            neighbour_offset=offset,
            first=first,
            length=lengths,
            label=self.label[places],
            number=places.astype(np.int32),
        )


def residues(dataset: ProteinDataset, tables: Sequence[np.ndarray]) -> FlatProteins | StreamedProteins:
    """The residues of a dataset: of a prepared set on disk, else in memory.

    Raises DataError as `flatten`.
    """
    if isinstance(tables, PreparedTables) and tables.proteins is dataset.proteins:
        return StreamedProteins(tables)
    return flatten(dataset, tables)
