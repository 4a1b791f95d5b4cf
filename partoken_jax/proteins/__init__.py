"""What a protein is and where it comes from. NumPy only."""

from partoken_jax.proteins.dataset import ProteinDataset, load_dataset, load_splits
from partoken_jax.proteins.protein import RESIDUE_TYPES, DataError, Protein
from partoken_jax.proteins.selection import limit_lengths, require_classes, subset

__all__ = [
    "RESIDUE_TYPES",
    "DataError",
    "Protein",
    "ProteinDataset",
    "limit_lengths",
    "load_dataset",
    "load_splits",
    "require_classes",
    "subset",
]
