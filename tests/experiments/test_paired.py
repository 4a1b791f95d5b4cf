"""Intervals against what is known in closed form, and against experiments that are drawn."""

import numpy as np
import pytest

from experiments.paired import difference, disagreement, protein_errors, smallest_difference
from partoken_jax.training.metrics import classification
from partoken_jax.training.predictions import StoredPredictions
from tests.experiments.made_runs import CLASSES, answers, labels


def stored(predicted, names=None) -> StoredPredictions:
    count = len(predicted)
    names = np.array([f"p{i}" for i in range(count)]) if names is None else names
    return StoredPredictions(names, labels(count), predicted, np.zeros((count, 3)), np.array(CLASSES))


def test_the_interval_over_seeds_is_students():
    """Of 0.01, 0.02, 0.03: mean 0.02, s = 0.01, t = 4.3027 with two degrees of freedom."""
    found = difference([0.01, 0.02, 0.03])
    assert found.mean == pytest.approx(0.02)
    assert found.high - found.mean == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert not found.told and difference([0.019, 0.02, 0.021]).told


def test_proteins_widen_the_interval_and_one_seed_tells_nothing():
    alone, both = difference([0.01, 0.02, 0.03]), difference([0.01, 0.02, 0.03], 0.05)
    assert both.high - both.mean == pytest.approx(1.96 * 0.05, rel=0.05)  # proteins outweigh seeds by far
    assert both.high > alone.high
    for proteins in (None, 1e-4):
        one = difference([0.02], proteins)
        assert np.isinf(one.high) and not one.told


def test_the_error_from_proteins_is_that_of_a_paired_share():
    """Var = (d - δ²)/P for a share d of proteins on which they disagree, and a difference δ."""
    count = 900
    first, second = answers(count, 600, 1), answers(count, 500, 2)
    a, b = stored(first), stored(second)
    d, delta = disagreement([a], [b]), 100 / count
    assert d == np.mean((first == labels(count)) != (second == labels(count)))
    accuracy, macro = protein_errors([a], [b])
    assert accuracy == pytest.approx(np.sqrt((d - delta**2) / count), rel=0.1)
    assert 0.5 * accuracy < macro < 2 * accuracy
    assert protein_errors([a, a], [a, a]) == (0, 0)  # a model against itself
    with pytest.raises(ValueError, match="different proteins"):
        protein_errors([a], [stored(second, np.array(["x"] * count))])


def test_samples_are_scored_as_a_report_scores():
    """The scores of many equal samples have no spread about those of the report: checked by drawing all."""
    from experiments.paired import _scores

    predicted = answers(300, 200)
    predicted[::7] = 0
    accuracy, macro = _scores(stored(predicted), np.ones((1, 300), np.float32))
    expected = classification(labels(300), predicted, CLASSES)
    assert (accuracy[0], macro[0]) == pytest.approx((expected["accuracy"], expected["macro_f1"]), rel=1e-5)


def test_the_smallest_difference_is_told_in_four_of_five_experiments():
    proteins, seeds, d, deviation = 1600, 3, 0.2, 0.01
    truth = smallest_difference(proteins, seeds, d, deviation)
    rng, told = np.random.default_rng(0), 0
    for _ in range(2000):
        from_proteins = rng.normal(0, np.sqrt(d / proteins))
        per_seed = truth + from_proteins + rng.normal(0, deviation, seeds)
        told += difference(per_seed, np.sqrt(d / proteins)).told
    assert told / 2000 == pytest.approx(0.8, abs=0.04)
    assert smallest_difference(4 * proteins, seeds, d, deviation) < truth
    assert smallest_difference(proteins, 9, d, deviation) < truth
    # With seeds that do not vary, the normal distribution's: z of 97.5% and of 80%.
    assert smallest_difference(proteins, 3, d, 0) == pytest.approx(2.8016 * np.sqrt(d / proteins), rel=1e-3)
    assert smallest_difference(proteins, 1, d, deviation) is None  # which tells nothing


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("ratio", [0, 0.5, 2, 8])
def test_the_interval_holds_the_truth_whatever_varies_most(seeds, ratio):
    """`ratio`: of the standard error from seeds to that from proteins."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(4000):
        per_seed = rng.normal(0, 1) + rng.normal(0, ratio * seeds**0.5, seeds)
        found = difference(per_seed, 1.0)
        held += found.low < 0 < found.high
    assert held / 4000 > 0.94


def test_equal_differences_alone_tell_nothing():
    assert not difference([250 / 423 - 248 / 423, 211 / 423 - 209 / 423, 101 / 423 - 99 / 423]).told
    assert difference([0.0047, 0.0047], 0.001).told
