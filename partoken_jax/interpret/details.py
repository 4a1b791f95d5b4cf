"""More of an evaluation than its scores: where classes are confused, whether probabilities hold, what
clusters and codes look like.

Legend: P proteins, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from partoken_jax.interpret.annotation import Annotation
from partoken_jax.interpret.enrichment import Enrichment, fisher_enrichment
from partoken_jax.interpret.tables import residue_numbers
from partoken_jax.training.calibration import Bin, reliability
from partoken_jax.training.metrics import Distribution, confusion_matrix, distribution

BINS = 10
"""Of the table of reliability."""
TYPICAL = 3
"""Clusters that are shown of every code."""


class CodeUse(NamedTuple):
    """How a code is used."""

    token: int
    clusters: int
    share: float
    """Of all clusters with a code."""
    proteins: int
    """Proteins with such a cluster."""
    mean_size: float
    """Residues per cluster."""
    mean_importance: float


class TypicalCluster(NamedTuple):
    """A cluster near to its code."""

    token: int
    distance: float
    """From the code, in units of the features."""
    protein: str
    rank: int
    """1 for the most important cluster of the protein."""
    label: str
    """Class of the protein; empty where it has none."""
    residues: str
    """Numbers of its residues in the protein, with insertion codes."""


class Details(NamedTuple):
    """What there is to say of P proteins beside their scores."""

    class_names: tuple[str, ...]
    confusion: np.ndarray
    """int [C, C]: proteins of class (row) that were given class (column)."""
    reliability: list[Bin]
    sizes: Distribution
    """Residues per cluster."""
    clusters: Distribution
    """Clusters per protein."""
    coverage: Distribution
    """Share of a protein's residues that are in a cluster, over the proteins."""
    codes: list[CodeUse]
    """From the most frequent one."""
    enrichment: list[Enrichment]
    """Codes with the proteins' true classes, from the smallest p."""
    typical: list[TypicalCluster]
    """By code, from the nearest."""


def details(annotations: Sequence[Annotation], labels: np.ndarray) -> Details:
    """What the annotations of P proteins say together.

    Args:
      annotations: one per protein, at least one.
      labels: int [P], true classes as the model counts them; -1 where there is none.

    Raises ValueError where no protein has a label.
    """
    names = annotations[0].class_names
    probabilities = np.array([annotation.probabilities for annotation in annotations])
    known, predicted = labels >= 0, probabilities.argmax(axis=1)
    clusters = [(place, cluster) for place, a in enumerate(annotations) for cluster in a.clusters]
    tokens = np.array([-1 if c.token is None else c.token for _, c in clusters], int)
    owner = np.array([place for place, _ in clusters], int)
    return Details(
        class_names=names,
        confusion=confusion_matrix(labels[known], predicted[known], len(names)),
        reliability=reliability(probabilities, labels, BINS),
        sizes=distribution(np.array([cluster.size for _, cluster in clusters])),
        clusters=distribution(np.array([len(a.clusters) for a in annotations])),
        coverage=distribution(np.array([a.coverage for a in annotations])),
        codes=_codes(annotations),
        enrichment=fisher_enrichment(tokens, labels[owner], dict(enumerate(names))),
        typical=_typical(annotations, labels),
    )


def _codes(annotations: Sequence[Annotation]) -> list[CodeUse]:
    found: dict[int, list[tuple[int, int, float]]] = {}
    for place, annotation in enumerate(annotations):
        for cluster in annotation.clusters:
            if cluster.token is not None:
                found.setdefault(cluster.token, []).append((place, cluster.size, cluster.importance))
    total = sum(map(len, found.values()))
    rows = []
    for token, clusters in found.items():
        places, sizes, importances = np.array(clusters).T
        rows.append(
            CodeUse(
                token=token,
                clusters=len(clusters),
                share=len(clusters) / total,
                proteins=len(np.unique(places)),
                mean_size=float(sizes.mean()),
                mean_importance=float(importances.mean()),
            )
        )
    return sorted(rows, key=lambda row: (-row.clusters, row.token))


def _typical(annotations: Sequence[Annotation], labels: np.ndarray) -> list[TypicalCluster]:
    """Of every code the `TYPICAL` clusters nearest to it, of different proteins."""
    found: dict[int, list[TypicalCluster]] = {}
    for annotation, label in zip(annotations, labels.tolist(), strict=True):
        nearest: dict[int, TypicalCluster] = {}  # of this protein
        numbers = residue_numbers(annotation)
        for cluster in annotation.clusters:
            if cluster.token is None or cluster.distance is None:
                continue
            row = TypicalCluster(
                token=cluster.token,
                distance=cluster.distance,
                protein=annotation.protein.name,
                rank=cluster.rank,
                label="" if label < 0 else annotation.class_names[label],
                residues=" ".join(numbers[i] for i in cluster.residues),
            )
            if cluster.token not in nearest or row < nearest[cluster.token]:
                nearest[cluster.token] = row
        for token, row in nearest.items():
            found.setdefault(token, []).append(row)
    return [row for token in sorted(found) for row in sorted(found[token])[:TYPICAL]]
