"""Which tokens go with which labels more often than chance would have it."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import false_discovery_control, fisher_exact


class Enrichment(NamedTuple):
    """A token and a label, in the 2 × 2 table of M clusters."""

    token: int
    label: str
    both: int
    """Clusters with the token and the label."""
    of_token: int
    of_label: int
    clusters: int
    """M"""
    ratio: float
    """Share of the label among the clusters of the token over its share among all."""
    p: float
    """Fisher's exact test, one-sided: so many or more if token and label were independent."""
    q: float
    """p after Benjamini and Hochberg (1995), over all pairs that were tested."""


def fisher_enrichment(
    tokens: np.ndarray,  # int [M], -1 where a cluster has none
    labels: np.ndarray,  # int [M], -1 where it has none
    names: Mapping[int, str],  # label → name, of the labels that are tested
) -> list[Enrichment]:
    """Every token with every label that occur, from the smallest p; clusters without either are left out.

    Clusters count as independent. Those of one protein, and of related proteins, are not quite, so that a q
    near the limit says little.
    """
    known = (tokens >= 0) & (labels >= 0)
    tokens, labels, total = tokens[known], labels[known], int(known.sum())
    rows, ps = [], []
    for token in np.unique(tokens).tolist():
        mine = tokens == token
        for label, name in names.items():
            its = labels == label
            both, of_token, of_label = int((mine & its).sum()), int(mine.sum()), int(its.sum())
            if not of_label:
                continue
            others = [[both, of_token - both], [of_label - both, total - of_token - of_label + both]]
            ps.append(float(fisher_exact(others, alternative="greater").pvalue))
            ratio = both * total / (of_token * of_label)
            rows.append((token, name, both, of_token, of_label, total, ratio))
    if not rows:
        return []
    adjusted = false_discovery_control(ps)
    found = [Enrichment(*row, p, float(q)) for row, p, q in zip(rows, ps, adjusted, strict=True)]
    return sorted(found, key=lambda row: (row.p, row.token, row.label))
