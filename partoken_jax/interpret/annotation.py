"""What a model says about one protein: its class, its clusters, their tokens and how much each counted."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from partoken_jax.proteins import Protein
from partoken_jax.proteins.structures import Origin
from partoken_jax.proteins.tasks import class_title


@dataclass(frozen=True, eq=False)
class Cluster:
    """A cluster of n residues that the model found in a protein ("blob" in the paper)."""

    rank: int
    """1 for the most important cluster of the protein."""
    index: int
    """0 … S-1: the round in which the model made it, which is its place in the arrays of the model."""
    importance: float
    """Attention weight; those of a protein sum to 1."""
    seed: int
    """Index of the residue that it grew from."""
    residues: np.ndarray
    """int32 [n]: indices of its residues in the protein, ascending."""
    token: int | None
    """Its code; None where the model does not use its codebook, as after stage 0 alone."""
    distance: float | None
    """Of its features from its code, in units of the features; None without a token."""
    features: np.ndarray
    """float32 [D]: mean of the residues' features."""

    @property
    def size(self) -> int:
        """Number of its residues."""
        return len(self.residues)


@dataclass(frozen=True, eq=False)
class Annotation:
    """A protein of L residues with what a model of C classes and D channels says about it."""

    protein: Protein
    origin: Origin | None
    """Where it is in its file; None for a protein that is from no structure file."""
    class_names: tuple[str, ...]
    probabilities: np.ndarray
    """float64 [C], sum 1."""
    clusters: tuple[Cluster, ...]
    """From the most important one; none where the model is a GVP."""
    residue_features: np.ndarray
    """float32 [L, D]: of the encoder; 0 for residues with missing atoms."""
    protein_features: np.ndarray
    """float32 [D]: what the classifier reads."""
    true_class: str | None = None
    """Name of the protein's class where its source has one."""

    @property
    def predicted(self) -> int:
        """Number of the most probable class."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return self.class_names[self.predicted]

    @property
    def title(self) -> str:
        """The most probable class as a reader knows it: "3.30 (2-layer sandwich)"."""
        return class_title(self.label)

    @property
    def confidence(self) -> float:
        """Probability of the most probable class."""
        return float(self.probabilities[self.predicted])

    @cached_property
    def rank_of_residue(self) -> np.ndarray:
        """int32 [L]: rank of the cluster of each residue, 0 where it is in none."""
        ranks = np.zeros(len(self.protein), np.int32)
        for cluster in self.clusters:
            ranks[cluster.residues] = cluster.rank
        return ranks

    @property
    def coverage(self) -> float:
        """Share of the residues that are in a cluster."""
        return float((self.rank_of_residue > 0).mean())
