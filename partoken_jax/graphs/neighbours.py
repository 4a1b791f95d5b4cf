"""The neighbours of many proteins: computed, or as a prepared set holds them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from partoken_jax.proteins import DataError, PreparedProteins, Protein, ProteinDataset
from partoken_jax.proteins.neighbours import neighbour_table
from partoken_jax.proteins.prepared import neighbour_offsets

_MANY_PROTEINS = 1000


class PreparedTables(Sequence[np.ndarray]):
    """Tables int32 [L, k] of prepared proteins, each read when it is asked for; computed for cropped ones."""

    def __init__(self, proteins: PreparedProteins, k: int):
        self.proteins, self.k = proteins, k

    def __len__(self) -> int:
        return len(self.proteins)

    def __getitem__(self, i):
        offset = self.offsets(np.array([i]))
        table = np.arange(len(offset), dtype=np.int32)[:, None] + offset
        table[offset == 0] = -1
        return table

    def offsets(self, places: np.ndarray) -> np.ndarray:
        """int32 [sum of L, k]: neighbour minus residue, 0 where there is none, of the proteins at these
        places, one after another."""
        offset = self.proteins.read("neighbours", places)[:, : self.k].astype(np.int32)
        ends = np.cumsum(self.proteins.lengths[places])
        for place in np.flatnonzero(self.proteins.is_cropped[places]):
            protein = self.proteins[places[place]]
            table = neighbour_table(protein.backbone[:, 1], protein.complete, self.k)
            offset[ends[place] - len(protein) : ends[place]] = neighbour_offsets(protein, table, self.k)
        return offset


def check_proteins(proteins: Any, taker: str) -> None:
    """Raises DataError unless the argument of `taker` is a sequence of proteins; the first is looked at."""
    if isinstance(proteins, Protein):
        raise DataError(f"{proteins.name}: {taker} takes a list of proteins; give it as [protein]")
    is_sequence = isinstance(proteins, ProteinDataset | Sequence)
    if not is_sequence or (len(proteins) and not isinstance(proteins[0], Protein)):
        raise DataError(
            f"{taker} takes a list of proteins (partoken_jax.Protein), and this is none; structure files are "
            "read by partoken_jax.annotate"
        )


def neighbour_tables(
    proteins: ProteinDataset | PreparedProteins | Sequence[Protein], k: int
) -> Sequence[np.ndarray]:
    """`neighbour_table` of every protein, with a progress bar for many; of a prepared set, what it holds.

    Returns:
      int32 [L, k] per protein.

    Raises DataError where a prepared set holds fewer than k neighbours of a residue, and for what are no
    proteins.
    """
    if isinstance(proteins, ProteinDataset):
        return neighbour_tables(proteins.proteins, k)
    if isinstance(proteins, PreparedProteins):
        held = proteins.prepared.neighbours
        if k > held:
            raise DataError(
                f"{proteins.prepared.path}: holds {held} neighbours of a residue, but {k} are asked for; "
                f"lower data.neighbours to {held}, or prepare the set again with {k}"
            )
        return PreparedTables(proteins, k)
    check_proteins(proteins, "neighbour_tables")
    bar = tqdm(
        proteins,
        desc="neighbours",
        unit="protein",
        disable=len(proteins) < _MANY_PROTEINS or None,  # None: no bar where there is no terminal
        leave=False,
    )
    return [neighbour_table(protein.backbone[:, 1], protein.complete, k) for protein in bar]
