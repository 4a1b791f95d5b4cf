"""Intervals of means and ratios over proteins, whose relatives are drawn together."""

from typing import NamedTuple

import numpy as np

SAMPLES = 2000


class Estimate(NamedTuple):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


def ratio_estimate(
    numerators: np.ndarray,  # [P]
    denominators: np.ndarray,  # [P]
    groups: np.ndarray,  # int [P]
) -> Estimate:
    """Σ numerators / Σ denominators, with what lies between 2.5% and 97.5% of bootstrap samples of the groups
    (Efron, 1979), which are the same in every call.

    Proteins of a group, say of one cluster by sequence identity, are drawn together: they are no independent
    evidence. Raises ValueError where the denominators add up to 0.
    """
    if not denominators.sum() > 0:
        raise ValueError("there is nothing to count in")
    _, group = np.unique(groups, return_inverse=True)
    number = int(group.max()) + 1
    above, below = (np.bincount(group, values, number) for values in (numerators, denominators))
    drawn = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=SAMPLES)
    below_drawn = drawn @ below
    ratios = (drawn @ above)[below_drawn > 0] / below_drawn[below_drawn > 0]
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Estimate(float(above.sum() / below.sum()), float(low), float(high))


def mean_estimate(values: np.ndarray, groups: np.ndarray) -> Estimate:
    """The mean over proteins, [P], as `ratio_estimate`."""
    return ratio_estimate(values, np.ones(len(values)), groups)
