"""Intervals against what is known in closed form, and against experiments that are drawn."""

import numpy as np
import pytest

from experiments import paired
from experiments.paired import (
    difference,
    intervals,
    number_of_groups,
    power_before,
    protein_errors,
    smallest_difference,
)
from partoken_jax.training.metrics import classification, macro_f1_interval, wilson
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
    assert not found.significant and difference([0.019, 0.02, 0.021]).significant


def test_proteins_widen_the_interval_and_one_seed_shows_nothing():
    alone, both = difference([0.01, 0.02, 0.03]), difference([0.01, 0.02, 0.03], 0.05)
    assert both.high - both.mean == pytest.approx(1.96 * 0.05, rel=0.05)  # proteins outweigh seeds by far
    assert both.high > alone.high
    for proteins in (None, 1e-4):
        one = difference([0.02], proteins)
        assert np.isinf(one.high) and not one.significant


def test_the_error_from_proteins_is_that_of_a_paired_share():
    """Var = (d - δ²)/P for a share d of proteins on which they disagree, and a difference δ."""
    count = 900
    first, second = answers(count, 600, 1), answers(count, 500, 2)
    a, b = stored(first), stored(second)
    d, delta = np.mean((first == labels(count)) != (second == labels(count))), 100 / count
    accuracy, macro = protein_errors([a], [b])
    assert accuracy == pytest.approx(np.sqrt((d - delta**2) / count), rel=0.1)
    assert 0.5 * accuracy < macro < 2 * accuracy
    assert protein_errors([a, a], [a, a]) == (0, 0)  # a model against itself
    with pytest.raises(ValueError, match="different proteins"):
        protein_errors([a], [stored(second, np.array(["x"] * count))])


def test_relatives_are_no_independent_evidence(monkeypatch):
    """Four copies of every protein say no more than one, though alone they would halve the error."""
    count = 150
    first, second = answers(count, 100, 1), answers(count, 80, 2)
    alone = [[stored(predicted)] for predicted in (first, second)]
    names = np.repeat(alone[0][0].names, 4)
    copied = [
        [StoredPredictions(names, *(np.repeat(array, 4, axis=0) for array in one[1:4]), one.class_names)]
        for (one,) in alone
    ]
    once, ends = protein_errors(*alone), intervals(alone[0])
    apart = protein_errors(*copied)
    assert np.array(apart) == pytest.approx(np.array(once) / 2, rel=0.15)

    def related(names, scheme):
        assert scheme == "superfamily"
        return np.array([-1 - int(name[1:]) for name in names])  # numbered as those without a file

    monkeypatch.setattr(paired, "groups", related)
    assert protein_errors(*copied, "superfamily") == pytest.approx(once, rel=1e-4)
    assert np.array(intervals(copied[0], "superfamily")) == pytest.approx(np.array(ends), abs=1e-5)
    assert number_of_groups(copied[0][0], "superfamily") == count


def test_the_interval_of_an_accuracy_is_about_wilsons_where_nobody_is_related():
    side = [stored(answers(900, 600, seed)) for seed in (1, 2)]
    (low, high), (macro_low, macro_high) = intervals(side[:1])
    assert (low, high) == pytest.approx(wilson(600, 900), abs=0.004)
    scores = classification(labels(900), side[0].predicted, CLASSES)
    assert (macro_low, macro_high) == pytest.approx(macro_f1_interval(scores), abs=0.006)
    both = intervals(side)[0]
    assert both[1] - both[0] < high - low  # that of a mean over seeds that err on other proteins


def test_samples_are_scored_as_a_report_scores():
    """The scores of many equal samples have no spread about those of the report: checked by drawing all."""
    from experiments.paired import _scores

    predicted = answers(300, 200)
    predicted[::7] = 0
    accuracy, macro = _scores(stored(predicted), np.ones((1, 300), np.float32))
    expected = classification(labels(300), predicted, CLASSES)
    assert (accuracy[0], macro[0]) == pytest.approx((expected["accuracy"], expected["macro_f1"]), rel=1e-5)


def test_a_class_that_a_sample_misses_keeps_its_score():
    """A sample without the one protein of class c is no better for it: the mean is over the same classes."""
    from experiments.paired import _scores

    truth, said = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0])
    side = StoredPredictions(np.array(list("pqrst")), truth, said, np.zeros((0, 0)), np.array(CLASSES))
    drawn = np.array([[1, 1, 1, 1, 1], [2, 1, 1, 1, 0]], np.float32)
    _, (whole, without) = _scores(side, drawn)
    assert whole == pytest.approx((0.8 + 1 + 0) / 3)
    assert without == pytest.approx((1 + 1 + 0) / 3)


def test_the_smallest_difference_is_significant_in_four_of_five_experiments():
    error, seeds, deviation = 0.011, 3, 0.01
    truth = smallest_difference(error, seeds, deviation)
    rng, found = np.random.default_rng(0), 0
    for _ in range(2000):
        per_seed = truth + rng.normal(0, error) + rng.normal(0, deviation, seeds)
        found += difference(per_seed, error).significant
    assert found / 2000 == pytest.approx(0.8, abs=0.04)
    assert smallest_difference(error / 2, seeds, deviation) < truth
    assert smallest_difference(error, 9, deviation) < truth
    # With seeds that do not vary, the normal distribution's: z of 97.5% and of 80%.
    assert smallest_difference(error, 3, 0) == pytest.approx(2.8016 * error, rel=1e-3)
    assert smallest_difference(error, 1, deviation) is None  # which shows nothing
    assert power_before(400, 3)["smallest_difference"] < power_before(100, 3)["smallest_difference"]


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


def test_equal_differences_alone_show_nothing():
    assert not difference([250 / 423 - 248 / 423, 211 / 423 - 209 / 423, 101 / 423 - 99 / 423]).significant
    assert difference([0.0047, 0.0047], 0.001).significant
