"""Whether a model cuts a protein the same way twice: over NMR models, under noise, over training seeds.

Legend: L residues of a protein. Needs scikit-learn (the extra "baselines").
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from sklearn.metrics import adjusted_rand_score

from partoken_jax.proteins import DataError, Protein
from partoken_jax.training.trained import Prediction


class Agreement(NamedTuple):
    """How alike two partitions of a protein's residues are."""

    adjusted_rand: float
    """Index of Hubert and Arabie (1985), 0 for what chance gives. Of all residues, those in no cluster being
    a group of their own."""
    adjusted_rand_clustered: float
    """Of the residues that are in a cluster in both; 1 where there are none."""
    overlap: float
    """Residues in a cluster in both over those in a cluster in either; 1 where there are none."""


def agreement(first: np.ndarray, second: np.ndarray) -> Agreement:
    """Of two clusterings of a protein, int [L]: a cluster's number, -1 where a residue is in none."""
    if first.shape != second.shape:
        raise DataError(f"clusterings of {len(first)} and {len(second)} residues cannot be compared")
    both, either = (first >= 0) & (second >= 0), (first >= 0) | (second >= 0)
    return Agreement(
        float(adjusted_rand_score(first, second)),
        float(adjusted_rand_score(first[both], second[both])),
        float(both.sum() / either.sum()) if either.any() else 1.0,
    )


def mean_agreement(pairs: Sequence[Agreement]) -> Agreement:
    """The mean of each number."""
    return Agreement(*(float(values) for values in np.mean(pairs, axis=0)))


def agreement_of_all(clusterings: Sequence[np.ndarray]) -> Agreement:
    """Mean over all pairs of clusterings of one protein, [L] each: by the models of an NMR entry, or by
    models of several training seeds. Raises DataError for fewer than two."""
    if len(clusterings) < 2:
        raise DataError("one clustering has nothing to be compared with; give two or more")
    return mean_agreement([agreement(a, b) for a, b in combinations(clusterings, 2)])


def noisy(
    protein: Protein, sigma: float, rng: np.random.Generator, *, whole_residues: bool = False
) -> Protein:
    """The protein with Gaussian noise of `sigma` Å on every coordinate of its backbone; with
    `whole_residues` the same for all atoms of a residue, so that its own geometry is kept."""
    length, atoms, _ = protein.backbone.shape
    noise = rng.normal(scale=sigma, size=(length, 1 if whole_residues else atoms, 3))
    return replace(protein, backbone=(protein.backbone + noise).astype(np.float32))


def same_tokens(first: Prediction, second: Prediction) -> tuple[int, int]:
    """Of the clusters that grew from the same residue in both: how many have the same token, and how many
    there are; clusters without a token do not count."""
    codes = dict(zip(second.seeds.tolist(), second.codes.tolist(), strict=True))
    pairs = [
        (code, codes[seed])
        for seed, code in zip(first.seeds.tolist(), first.codes.tolist(), strict=True)
        if seed >= 0 and code >= 0 and codes.get(seed, -1) >= 0
    ]
    return sum(a == b for a, b in pairs), len(pairs)
