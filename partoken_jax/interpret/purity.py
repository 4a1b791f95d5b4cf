"""How much tokens say of a label of the protein, as by their purity, against shuffled labels.

Legend: M clusters, P proteins. Needs scikit-learn (the extra "baselines").
"""

from collections.abc import Callable
from typing import TypedDict

import numpy as np
from sklearn.metrics.cluster import contingency_matrix

SHUFFLES = 1000


class Association(TypedDict):
    """A measure of tokens and labels, and the same of labels that were shuffled between proteins."""

    value: float
    shuffled: float
    """Mean over the shuffles. It is not 0: few clusters a token look pure by chance."""
    shuffled_interval: tuple[float, float]
    """What 95% of the shuffles lie within."""
    p: float
    """Share of shuffles with as high a value, (1 + as high) / (1 + shuffles)."""


def purity(tokens: np.ndarray, labels: np.ndarray) -> float:
    """Share of clusters whose label is the most frequent one of their token, both int [M], not negative."""
    return float(contingency_matrix(tokens, labels).max(axis=1).sum() / len(tokens))


def association(
    measure: Callable[[np.ndarray, np.ndarray], float],
    tokens: np.ndarray,  # int [M], -1 where a cluster has none
    protein: np.ndarray,  # int [M]: place of its protein in the labels
    labels: np.ndarray,  # int [P], -1 where there is none
    shuffles: int = SHUFFLES,
) -> Association:
    """`measure` of the tokens and labels of the clusters that have both, such as `purity`.

    Labels are shuffled between proteins, so that the clusters of one keep theirs in common, and the shuffles
    are the same in every call. Raises ValueError where no cluster has both.
    """
    known = (tokens >= 0) & (labels[protein] >= 0)
    if not known.any():
        raise ValueError("no cluster has a token and a label; choose a split with labels")
    tokens, (there, protein) = tokens[known], np.unique(protein[known], return_inverse=True)
    labels, rng = labels[there], np.random.default_rng(0)
    value = float(measure(tokens, labels[protein]))
    random = np.array([measure(tokens, rng.permutation(labels)[protein]) for _ in range(shuffles)])
    low, high = np.quantile(random, (0.025, 0.975))
    return Association(
        value=value,
        shuffled=float(random.mean()),
        shuffled_interval=(float(low), float(high)),
        p=float((1 + (random >= value).sum()) / (1 + shuffles)),
    )
