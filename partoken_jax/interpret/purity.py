"""How much tokens say of a label of the protein: purity and mutual information, against shuffled labels.

Legend: M clusters, P proteins.
"""

from collections.abc import Callable
from typing import TypedDict

import numpy as np
from scipy.stats import entropy

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


def contingency(tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """int [T, C]: clusters with token (row) and label (column), both int [M] and not negative."""
    shape = int(tokens.max()) + 1, int(labels.max()) + 1
    return np.bincount(tokens * shape[1] + labels, minlength=shape[0] * shape[1]).reshape(shape)


def purity(table: np.ndarray) -> float:
    """Share of clusters whose label is the most frequent one of their token, of a `contingency` table."""
    return float(table.max(axis=1).sum() / table.sum())


def normalised_information(table: np.ndarray) -> float:
    """I(token; label) / ((H(token) + H(label)) / 2) of a `contingency` table: 0 where they are independent, 1
    where each says the other; 0 where neither varies."""
    tokens, labels, both = (float(entropy(n)) for n in (table.sum(1), table.sum(0), table.ravel()))
    mean = (tokens + labels) / 2
    return (tokens + labels - both) / mean if mean > 0 else 0.0


def association(
    measure: Callable[[np.ndarray], float],
    tokens: np.ndarray,  # int [M], -1 where a cluster has none
    protein: np.ndarray,  # int [M]: place of its protein in the labels
    labels: np.ndarray,  # int [P], -1 where there is none
    shuffles: int = SHUFFLES,
) -> Association:
    """`measure`, which is `purity` or `normalised_information`, of the clusters with token and label.

    Labels are shuffled between proteins, so that the clusters of one keep theirs in common, and the shuffles
    are the same in every call. Raises ValueError where no cluster has both.
    """
    known = (tokens >= 0) & (labels[protein] >= 0)
    if not known.any():
        raise ValueError("no cluster has a token and a label; choose a split with labels")
    tokens, (there, protein) = tokens[known], np.unique(protein[known], return_inverse=True)
    labels, rng = labels[there], np.random.default_rng(0)
    value = measure(contingency(tokens, labels[protein]))
    random = np.array(
        [measure(contingency(tokens, rng.permutation(labels)[protein])) for _ in range(shuffles)]
    )
    low, high = np.quantile(random, (0.025, 0.975))
    return Association(
        value=value,
        shuffled=float(random.mean()),
        shuffled_interval=(float(low), float(high)),
        p=float((1 + (random >= value).sum()) / (1 + shuffles)),
    )
