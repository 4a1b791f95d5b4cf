"""How sure one can be of a difference between two models: intervals and power.

Two things vary: the seed of a run, and which proteins the test split holds. Both models have the same seeds
and the same proteins, so that differences are taken pair by pair. Legend: P proteins, C classes, S seeds.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from partoken_jax.training.predictions import StoredPredictions

SAMPLES = 1000
LEVEL, POWER = 0.95, 0.8
ASSUMED_DISAGREEMENT, ASSUMED_DEVIATION = 0.2, 0.01
"""For the power before there are runs: the share of proteins that two models judge differently, and the
standard deviation of the difference in accuracy between seeds."""


class Difference(NamedTuple):
    """A difference of a score, averaged over seeds."""

    mean: float
    low: float
    high: float
    """The 95% interval."""
    per_seed: list[float]
    protein_error: float | None
    """Standard error from the choice of test proteins (paired bootstrap); None where it is not known."""

    @property
    def told(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def difference(per_seed: Sequence[float], protein_error: float | None = None) -> Difference:
    """The mean of paired differences with its 95% interval.

    The variance of the mean is s²/S from the seeds plus `protein_error`² from the proteins. The first has
    S - 1 degrees of freedom and the second as many as one likes, together those of Welch and Satterthwaite.
    Without the second this is Student's interval over seeds. Of a single seed the first is not known, so that
    the interval has no ends (infinite): another seed may say the opposite.
    """
    values = np.asarray(per_seed, np.float64)
    mean, known = float(values.mean()), protein_error or 0.0
    of_seeds = float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0
    if len(values) == 1:
        half = math.inf
    else:
        half = quantile(of_seeds, known**2, len(values)) * math.sqrt(of_seeds + known**2)
    return Difference(mean, mean - half, mean + half, values.tolist(), protein_error)


def as_json(found: Difference) -> dict[str, Any]:
    """Ends that are not known as null, for JSON has no infinity."""
    known = math.isfinite(found.high)
    return {
        "mean": found.mean,
        "interval": [found.low, found.high] if known else None,
        "per_seed": found.per_seed,
        "protein_error": found.protein_error,
        "told": bool(known and found.told),
    }


def quantile(of_seeds: float, of_proteins: float, seeds: int, level: float = LEVEL) -> float:
    """Of Student's distribution, two-sided, for a sum of two variances (Satterthwaite, 1946)."""
    if of_seeds == 0:
        return float(stats.norm.ppf((1 + level) / 2))
    freedom = (of_seeds + of_proteins) ** 2 / (of_seeds**2 / (seeds - 1))
    return float(stats.t.ppf((1 + level) / 2, freedom))


def smallest_difference(proteins: int, seeds: int, disagreeing: float, seed_deviation: float) -> float:
    """The smallest true difference in accuracy that is told in 80% of such experiments, at 95%.

    (t₉₇.₅ + t₈₀) · sqrt(σ²/S + d/P): `disagreeing` d is the share of proteins that one model gets right and
    the other does not, `seed_deviation` σ the standard deviation of the difference between seeds. d/P holds
    for seeds that err on the same proteins, and is too much for others: a cautious number. Of one seed σ
    counts as 0, for it cannot be known.
    """
    of_seeds = seed_deviation**2 / seeds if seeds > 1 else 0.0
    of_proteins = disagreeing / proteins
    error = math.sqrt(of_seeds + of_proteins)
    return (
        quantile(of_seeds, of_proteins, seeds) + quantile(of_seeds, of_proteins, seeds, 2 * POWER - 1)
    ) * error


def power_before(proteins: int, seeds: int) -> dict[str, float]:
    """The smallest difference in accuracy that runs still to come would tell, and what it assumes."""
    return {
        "disagreeing": ASSUMED_DISAGREEMENT,
        "seed_deviation": ASSUMED_DEVIATION,
        "smallest_difference": smallest_difference(proteins, seeds, ASSUMED_DISAGREEMENT, ASSUMED_DEVIATION),
    }


def protein_errors(
    first: Sequence[StoredPredictions], second: Sequence[StoredPredictions]
) -> tuple[float, float]:
    """Standard errors of (first - second) in accuracy and macro-F1, mean over seeds, from the choice of
    proteins: both models and all seeds have the same 1,000 bootstrap samples (Efron, 1979).

    Raises ValueError for predictions of different proteins.
    """
    names = first[0].names
    for stored in (*first, *second):
        if not np.array_equal(stored.names, names):
            raise ValueError("the predictions are of different proteins, and cannot be paired")
    labelled = first[0].labels >= 0
    number = int(labelled.sum())
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(number, np.full(number, 1 / number), size=SAMPLES).astype(np.float32)
    mine, theirs = (np.mean([_scores(stored, drawn) for stored in side], axis=0) for side in (first, second))
    accuracy, macro = (mine - theirs).std(axis=1, ddof=1)
    return float(accuracy), float(macro)


def _scores(stored: StoredPredictions, drawn: np.ndarray) -> np.ndarray:
    """[2, SAMPLES]: accuracy and macro-F1 of samples, given as counts of proteins [SAMPLES, P]."""
    labelled, size = stored.labels >= 0, len(stored.class_names)
    cell = stored.labels[labelled] * size + stored.predicted[labelled]
    one_hot = np.zeros((len(cell), size * size), np.float32)
    one_hot[np.arange(len(cell)), cell] = 1
    confusion = (drawn @ one_hot).reshape(-1, size, size)
    correct, given = np.einsum("bcc->bc", confusion), confusion.sum(1) + confusion.sum(2)
    macro = (2 * correct / np.maximum(given, 1)).sum(1) / (given > 0).sum(1)
    return np.stack([correct.sum(1) / confusion.sum((1, 2)), macro])


def disagreement(first: Sequence[StoredPredictions], second: Sequence[StoredPredictions]) -> float:
    """Share of labelled proteins that one model gets right and the other does not, mean over paired seeds."""
    shares = []
    for a, b in zip(first, second, strict=True):
        labelled = a.labels >= 0
        shares.append(np.mean((a.predicted == a.labels)[labelled] != (b.predicted == b.labels)[labelled]))
    return float(np.mean(shares))
