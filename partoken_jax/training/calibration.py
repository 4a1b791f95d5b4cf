"""Whether probabilities mean what they say, in NumPy on the host.

Legend: P proteins, C classes.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax


class Bin(TypedDict):
    """The proteins whose confidence, the probability of the predicted class, lies in (low, high]."""

    low: float
    high: float
    count: int
    correct: int
    """Of these, given their own class."""
    confidence: float
    """Mean over them; 0 where there are none."""


def negative_log_likelihood(
    logits: np.ndarray,  # [P, C]
    labels: np.ndarray,  # int [P], -1 where there is no label
    temperature: float = 1.0,
) -> float:
    """-mean log softmax(z / T) of the labels, in nats, over the proteins with one.

    Raises ValueError where there is none.
    """
    logits, labels = _labelled(logits, labels)
    return float(-np.mean(log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels]))


def fit_temperature(
    logits: np.ndarray,  # [P, C]
    labels: np.ndarray,  # int [P], -1 where there is no label
    bounds: tuple[float, float] = (0.05, 20.0),
) -> float:
    """The T in `bounds` whose softmax(z / T) gives the labels the highest likelihood (temperature scaling,
    Guo et al. 2017, section 4.2); no prediction changes by it.

    Raises ValueError without a labelled protein.
    """
    low, high = (math.log(bound) for bound in bounds)  # of scale: its logarithm has no favourite end
    found = minimize_scalar(
        lambda log: negative_log_likelihood(logits, labels, math.exp(log)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-8},
    )
    return math.exp(found.x)


def reliability(
    probabilities: np.ndarray,  # [P, C]
    labels: np.ndarray,  # int [P], -1 where there is no label
    num_bins: int,
) -> list[Bin]:
    """The labelled proteins in `num_bins` bins of equal width by their confidence.

    Raises ValueError where there is none.
    """
    probabilities, labels = _labelled(probabilities, labels)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    # Bins are open below and closed above, so that a confidence of 1 is in the last.
    place = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    return [
        Bin(
            low=i / num_bins,
            high=(i + 1) / num_bins,
            count=int((place == i).sum()),
            correct=int(correct[place == i].sum()),
            confidence=float(confidence[place == i].mean()) if (place == i).any() else 0.0,
        )
        for i in range(num_bins)
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """Σ over bins of count/P · |correct/count - confidence| (Guo et al. 2017, equation 3)."""
    proteins = sum(b["count"] for b in bins)
    return sum(abs(b["correct"] - b["count"] * b["confidence"]) for b in bins) / proteins


def _labelled(values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, labels = np.asarray(values, np.float64)[labels >= 0], labels[labels >= 0]
    if len(labels) == 0:
        raise ValueError("there are no labelled proteins to compare with; choose a split that has some")
    return values, labels
