"""Annotations made by hand, so that what is written does not depend on a model."""

import gzip
from pathlib import Path

import numpy as np

from partoken_jax.interpret.annotation import Annotation, Cluster
from partoken_jax.proteins import Protein
from partoken_jax.proteins.structures import read_structure

CRO = Path(__file__).parent / "1orc.pdb.gz"
"""The entry 1ORC of the PDB (CC0 1.0): 64 residues, five of them with insertion codes, and 57 waters."""
CLASSES = ("oxidoreductase", "transferase", "hydrolase")
MEMBERS = (range(5, 17), [*range(24, 33), 53], [54, 56, 57], [60, 61])
"""Residues of the clusters, from the most important one; 53 is number 56, 54 is 56A, 56 is 56C."""
TOKENS = (14, 3, 14, None)
IMPORTANCES = (0.5, 0.3, 0.15, 0.05)


def annotated(protein: Protein, origin=None, members=MEMBERS) -> Annotation:
    """A protein with clusters of given residues."""
    clusters = tuple(
        Cluster(
            rank=rank,
            index=len(members) - rank,
            importance=IMPORTANCES[rank - 1],
            seed=next(iter(residues)),
            residues=np.array(residues, np.int32),
            token=TOKENS[rank - 1],
            distance=None if TOKENS[rank - 1] is None else rank / 8,
            features=np.zeros(2, np.float32),
        )
        for rank, residues in enumerate(members, 1)
    )
    return Annotation(
        protein=protein,
        origin=origin,
        class_names=CLASSES,
        probabilities=np.array([0.2, 0.7, 0.1]),
        clusters=clusters,
        residue_features=np.zeros((len(protein), 2), np.float32),
        protein_features=np.zeros(2, np.float32),
    )


def cro_annotation(folder: Path) -> Annotation:
    """1ORC as it is in an unpacked file, which this writes into a folder."""
    path = folder / "1orc.pdb"
    path.write_bytes(gzip.decompress(CRO.read_bytes()))
    contents = read_structure(path)
    return annotated(contents.proteins[0], contents.origins[0])
