"""How sure one can be of a difference between two models: intervals and power.

Two things vary: the seed of a run, and which proteins the test split holds. Both models have the same seeds
and the same proteins, so that differences are taken pair by pair. Proteins are drawn with their relatives
(experiments/relatives.py). Legend: P proteins, C classes, S seeds.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, stats

from experiments.relatives import groups
from partoken_jax.training.predictions import StoredPredictions

SAMPLES = 1000
DRAWN = 200
"""Variances over which the power is averaged."""
LEVEL, POWER = 0.95, 0.8
ASSUMED_DISAGREEMENT, ASSUMED_DEVIATION = 0.2, 0.01
"""For the power before there are runs: the share of proteins that two models judge differently, and the
standard deviation of the difference in accuracy between seeds. Relatives count as one protein."""


class Difference(NamedTuple):
    """A difference of a score, averaged over seeds."""

    mean: float
    low: float
    high: float
    """The 95% interval."""
    per_seed: list[float]
    protein_error: float | None
    """Standard error from the choice of test proteins (paired bootstrap of groups of relatives); None where
    it is not known."""

    @property
    def significant(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def difference(per_seed: Sequence[float], protein_error: float | None = None) -> Difference:
    """The mean of paired differences with its 95% interval.

    Half its width is the root of t² s²/S + z² `protein_error`²: Student's for the seeds, with S - 1 degrees
    of freedom, and the normal one for the proteins, of which there are many groups. With few seeds s² may
    come out far too small; pooled degrees of freedom (Satterthwaite) then would be far too many, and an
    interval of two or three seeds held the truth 87 to 94 times in a hundred where seeds vary most.

    Of a single seed s² is not known, and of equal differences without a protein error nothing is: then the
    interval has no ends (infinite), for another seed may say the opposite.
    """
    values = np.asarray(per_seed, np.float64)
    mean = float(values.mean())
    variance = float(values.var(ddof=1)) if len(values) > 1 else math.nan
    alike = bool(np.ptp(values) < 1e-9)  # also where floats differ in their last bits
    if len(values) == 1 or (protein_error is None and alike):
        half = math.inf
    else:
        half = half_width(variance, len(values), protein_error or 0.0)
    return Difference(mean, mean - half, mean + half, values.tolist(), protein_error)


def as_json(found: Difference) -> dict[str, Any]:
    """Ends that are not known as null, for JSON has no infinity."""
    known = math.isfinite(found.high)
    return {
        "mean": found.mean,
        "interval": [found.low, found.high] if known else None,
        "per_seed": found.per_seed,
        "protein_error": found.protein_error,
        "significant": bool(known and found.significant),
    }


def half_width(variance: float, seeds: int, protein_error: float) -> float:
    """Half an interval: `variance` is that of the difference between seeds."""
    of_seeds = stats.t.ppf((1 + LEVEL) / 2, seeds - 1) ** 2 * variance / seeds
    of_proteins = (stats.norm.ppf((1 + LEVEL) / 2) * protein_error) ** 2
    return math.sqrt(of_seeds + of_proteins)


def smallest_difference(protein_error: float, seeds: int, seed_deviation: float) -> float | None:
    """The smallest true difference in accuracy that comes out significant in 80% of such experiments; None
    for a single seed, of which nothing does.

    It solves E[Φ((Δ - h) / sqrt(σ²/S + e²))] = 0.8 for Δ, where h is the half width for the variance that S
    seeds happen to have: `protein_error` e is the standard error from the choice of proteins,
    `seed_deviation` σ the standard deviation of the difference between seeds.
    """
    if seeds < 2:
        return None
    error = math.hypot(seed_deviation / math.sqrt(seeds), protein_error)
    if error == 0:
        return 0.0
    shares = (np.arange(DRAWN) + 0.5) / DRAWN
    variances = seed_deviation**2 * stats.chi2.ppf(shares, seeds - 1) / (seeds - 1)
    halves = np.array([half_width(variance, seeds, protein_error) for variance in variances])

    def missing(truth: float) -> float:
        return float(np.mean(stats.norm.cdf((truth - halves) / error))) - POWER

    return float(optimize.brentq(missing, 0, halves.max() + 10 * error))


def power_before(number: int, seeds: int) -> dict[str, float | None]:
    """The smallest true difference in accuracy that would come out significant in 80% of experiments on so
    many groups of relatives, and what that assumes. The error from proteins is then the root of
    disagreement / groups: that of seeds that err on the same groups, all of one size, whose relatives are
    judged alike."""
    error = math.sqrt(ASSUMED_DISAGREEMENT / number)
    return {
        "disagreeing": ASSUMED_DISAGREEMENT,
        "seed_deviation": ASSUMED_DEVIATION,
        "smallest_difference": smallest_difference(error, seeds, ASSUMED_DEVIATION),
    }


def number_of_groups(stored: StoredPredictions, scheme: str = "identity") -> int:
    """How many groups of relatives the labelled proteins make."""
    return len(np.unique(_groups(stored, scheme)))


def _groups(stored: StoredPredictions, scheme: str) -> np.ndarray:
    """int [P], of the labelled proteins."""
    return groups(stored.names[stored.labels >= 0].tolist(), scheme)


def intervals(side: Sequence[StoredPredictions], scheme: str = "identity") -> tuple[list[float], list[float]]:
    """The 95% intervals of accuracy and macro-F1, means over seeds: what lies between 2.5% and 97.5% of 1,000
    bootstrap samples of groups of relatives (Efron, 1979), which are the same in every call.

    Raises ValueError for predictions of different proteins.
    """
    ends = np.quantile(_mean_scores(side, _drawn(side, scheme)), (0.025, 0.975), axis=1)
    accuracy, macro = ends.T.tolist()
    return accuracy, macro


def protein_errors(
    first: Sequence[StoredPredictions], second: Sequence[StoredPredictions], scheme: str = "identity"
) -> tuple[float, float]:
    """Standard errors of (first - second) in accuracy and macro-F1, mean over seeds, from the choice of
    proteins: both models and all seeds have the same 1,000 bootstrap samples of groups of relatives (Efron,
    1979).

    Raises ValueError for predictions of different proteins.
    """
    drawn = _drawn([*first, *second], scheme)
    accuracy, macro = (_mean_scores(first, drawn) - _mean_scores(second, drawn)).std(axis=1, ddof=1)
    return float(accuracy), float(macro)


def _drawn(side: Sequence[StoredPredictions], scheme: str) -> np.ndarray:
    """float32 [SAMPLES, P]: how often a bootstrap sample holds each labelled protein."""
    if any(not np.array_equal(stored.names, side[0].names) for stored in side):
        raise ValueError("the predictions are of different proteins, and cannot be paired")
    _, place = np.unique(_groups(side[0], scheme), return_inverse=True)
    number = int(place.max()) + 1
    samples = np.random.default_rng(0).multinomial(number, np.full(number, 1 / number), size=SAMPLES)
    return samples[:, place].astype(np.float32)


def _mean_scores(side: Sequence[StoredPredictions], drawn: np.ndarray) -> np.ndarray:
    """[2, SAMPLES]: accuracy and macro-F1, means over seeds."""
    return np.mean([_scores(stored, drawn) for stored in side], axis=0)


def _scores(stored: StoredPredictions, drawn: np.ndarray) -> np.ndarray:
    """[2, SAMPLES]: accuracy and macro-F1 of samples, given as counts of proteins [SAMPLES, P].

    A class of few groups is missing in some samples; there it has the F1 that it has on all proteins, for a
    mean over other classes would be another score.
    """
    labelled, size = stored.labels >= 0, len(stored.class_names)
    cell = stored.labels[labelled] * size + stored.predicted[labelled]
    one_hot = np.zeros((len(cell), size * size), np.float32)
    one_hot[np.arange(len(cell)), cell] = 1
    confusion = (drawn @ one_hot).reshape(-1, size, size)
    whole = one_hot.sum(0).reshape(1, size, size)
    f1 = np.where(confusion.sum(2) > 0, _f1(confusion), _f1(whole))
    scored = whole[0].sum(0) + whole[0].sum(1) > 0
    correct = np.einsum("bcc->b", confusion)
    return np.stack([correct / confusion.sum((1, 2)), f1[:, scored].mean(1)])


def _f1(confusion: np.ndarray) -> np.ndarray:
    """[B, C] of confusions [B, C, C]: 2 · hits / (proteins of the class + proteins that were given it)."""
    given = confusion.sum(1) + confusion.sum(2)
    return 2 * np.einsum("bcc->bc", confusion) / np.maximum(given, 1)
