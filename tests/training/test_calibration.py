"""Calibration against slow and obvious forms of the formulas."""

import numpy as np
import pytest
from scipy.special import softmax

from partoken_jax.training.calibration import (
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability,
)


def drawn(temperature: float, count: int = 400, seed: int = 0):
    """Logits, and labels drawn from softmax(logits / temperature); every seventh protein has none."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(count, 5))
    noise = rng.gumbel(size=logits.shape)
    labels = (logits / temperature + noise).argmax(axis=1)
    labels[::7] = -1
    return logits.astype(np.float32), labels


def slow_error(probabilities, labels, num_bins):
    error, total = 0.0, (labels >= 0).sum()
    for i in range(num_bins):
        confidences, right = [], []
        for p, label in zip(probabilities, labels, strict=True):
            if label >= 0 and i / num_bins < p.max() <= (i + 1) / num_bins:
                confidences.append(p.max())
                right.append(p.argmax() == label)
        if right:
            error += len(right) / total * abs(np.mean(right) - np.mean(confidences))
    return error


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_expected_calibration_error(num_bins):
    logits, labels = drawn(2.0)
    probabilities = softmax(logits, axis=1)
    bins = reliability(probabilities, labels, num_bins)
    assert sum(b["count"] for b in bins) == (labels >= 0).sum()
    assert expected_calibration_error(bins) == pytest.approx(slow_error(probabilities, labels, num_bins))
    assert expected_calibration_error(bins) > 0.05  # too sure by a factor of 2


def test_a_confidence_on_the_edge_of_a_bin_belongs_to_the_lower_one():
    bins = reliability(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 1]), 2)
    assert [(b["count"], b["correct"], b["confidence"]) for b in bins] == [(1, 1, 0.5), (1, 0, 1.0)]
    assert expected_calibration_error(bins) == pytest.approx(0.75)


def test_likelihood():
    logits, labels = drawn(1.0, count=20)
    kept = labels >= 0
    by_hand = -np.mean(np.log(softmax(logits / 1.7, axis=1)[kept, labels[kept]]))
    assert negative_log_likelihood(logits, labels, 1.7) == pytest.approx(by_hand)
    assert np.isfinite(negative_log_likelihood(1e4 * logits, labels))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_fitted_temperature_is_that_of_the_best_likelihood(temperature):
    logits, labels = drawn(temperature, count=2000)
    fitted = fit_temperature(logits, labels)
    grid = np.geomspace(0.2, 6, 400)
    best = grid[np.argmin([negative_log_likelihood(logits, labels, t) for t in grid])]
    assert fitted == pytest.approx(best, rel=0.01)
    assert fitted == pytest.approx(temperature, rel=0.1)


def test_a_model_that_is_always_right_meets_the_bound():
    logits = np.eye(3)
    assert fit_temperature(logits, np.arange(3), (0.1, 10)) == pytest.approx(0.1, rel=1e-5)
    assert fit_temperature(logits, np.roll(np.arange(3), 1), (0.1, 10)) == pytest.approx(10, rel=1e-5)


def test_without_labels_there_is_nothing_to_compare():
    with pytest.raises(ValueError, match="no labelled proteins"):
        fit_temperature(np.zeros((2, 3)), np.array([-1, -1]))
