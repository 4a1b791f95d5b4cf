"""What a protein is and where it comes from. NumPy only."""

from partoken_jax.proteins.dataset import ProteinDataset, ProteinList, load_dataset, load_splits
from partoken_jax.proteins.prepared import LabelColumn, write_prepared
from partoken_jax.proteins.prepared_set import PreparedProteins, PreparedSet, open_prepared, verify_prepared
from partoken_jax.proteins.protein import RESIDUE_TYPES, DataError, Protein
from partoken_jax.proteins.selection import limit_lengths, require_classes, subset

__all__ = [
    "RESIDUE_TYPES",
    "DataError",
    "LabelColumn",
    "PreparedProteins",
    "PreparedSet",
    "Protein",
    "ProteinDataset",
    "ProteinList",
    "limit_lengths",
    "load_dataset",
    "load_splits",
    "open_prepared",
    "require_classes",
    "subset",
    "verify_prepared",
    "write_prepared",
]
