"""Learning rate, loss weights, temperature and freezing over a run."""

import dataclasses

import numpy as np
import pytest

from partoken_jax.config import LossConfig, StageConfig, TemperatureConfig, TrainConfig
from partoken_jax.training.schedules import codebook_frozen, epoch_settings, learning_rates, loss_weights

CONFIG = TrainConfig(
    stage0=StageConfig(epochs=4, learning_rate=1e-3, warmup_epochs=1),
    stage1=StageConfig(epochs=6, learning_rate=5e-4, warmup_epochs=1),
    loss=LossConfig(vq=2.0, coverage=0.5, cardinality=0.25, ramp_epochs=2),
    temperature=TemperatureConfig(initial=1.0, decay=0.5, final=0.1),
    freeze_codebook_epochs=2,
)


def test_learning_rate_warms_up_linearly_and_decays_as_a_cosine():
    rates = learning_rates(StageConfig(epochs=10, learning_rate=1e-3, warmup_epochs=2), steps_per_epoch=5)
    assert rates.shape == (50,)
    np.testing.assert_allclose(rates[:11], 1e-3 * np.arange(1, 12) / 11, rtol=1e-5)
    progress = np.arange(40) / 40
    np.testing.assert_allclose(rates[10:], 1e-3 * (1 + np.cos(np.pi * progress)) / 2, rtol=1e-4)
    assert 0 < rates[-1] < 2e-6


def test_no_warm_up_starts_at_the_peak():
    rates = learning_rates(StageConfig(epochs=2, learning_rate=1e-3, warmup_epochs=0), steps_per_epoch=3)
    assert rates[0] == np.float32(1e-3)
    assert np.all(np.diff(rates) < 0)


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_stage_shorter_than_its_warm_up_still_reaches_its_peak(epochs):
    rates = learning_rates(StageConfig(epochs=epochs, learning_rate=1e-3, warmup_epochs=5), steps_per_epoch=4)
    assert rates.argmax() == epochs * 2
    assert rates.max() == np.float32(1e-3)


def test_a_stage_without_epochs_has_no_steps():
    assert learning_rates(StageConfig(epochs=0, learning_rate=1e-3), steps_per_epoch=4).size == 0


def test_weights_ramp_in_stage_1_and_stage_0_has_the_cardinality_term_alone():
    def weights(stage, epochs_done, has_codebook=True):
        return tuple(loss_weights(CONFIG.loss, stage, epochs_done, has_codebook=has_codebook))

    assert weights(0, 3) == (0, 0, 0.25)
    assert weights(1, 0) == (0, 0, 0.25)
    assert weights(1, 0.5) == (0.5, 0.125, 0.25)
    assert weights(1, 2) == weights(1, 5) == (2, 0.5, 0.25)
    assert weights(1, 2, has_codebook=False) == (0, 0, 0.25)


def test_no_ramp_means_full_strength_at_once():
    assert loss_weights(LossConfig(vq=2.0, ramp_epochs=0), 1, 0.0, has_codebook=True).vq == 2.0


def test_codebook_freezes_in_the_last_epochs_of_stage_1_only():
    assert [codebook_frozen(CONFIG, 1, epoch) for epoch in range(6)] == [False] * 4 + [True] * 2
    assert not any(codebook_frozen(CONFIG, 0, epoch) for epoch in range(4))


def test_settings_of_an_epoch_follow_the_schedules():
    settings = epoch_settings(CONFIG, 1, 1, steps_per_epoch=4, has_codebook=True)
    assert len(settings) == 4
    # Temperature counts epochs over both stages: 4 + 1 epochs of halving, but not below 0.1.
    assert {float(s.temperature) for s in settings} == {float(np.float32(0.1))}
    np.testing.assert_allclose([s.weights.vq for s in settings], [1.0, 1.25, 1.5, 1.75])
    np.testing.assert_array_equal([s.learning_rate for s in settings], learning_rates(CONFIG.stage1, 4)[4:8])
    first = epoch_settings(CONFIG, 0, 1, steps_per_epoch=4, has_codebook=True)[0]
    assert first.temperature == 0.5 and not first.frozen


def test_one_schedule_is_one_warm_up_and_one_cosine_over_both_stages():
    config = dataclasses.replace(CONFIG, one_schedule=True)
    both = [
        s.learning_rate
        for stage, epochs in ((0, CONFIG.stage0.epochs), (1, CONFIG.stage1.epochs))
        for epoch in range(epochs)
        for s in epoch_settings(config, stage, epoch, 4, has_codebook=True)
    ]
    whole = dataclasses.replace(CONFIG.stage0, epochs=CONFIG.stage0.epochs + CONFIG.stage1.epochs)
    np.testing.assert_array_equal(both, learning_rates(whole, 4))
    assert np.sum(np.diff(np.sign(np.diff(both))) != 0) == 1  # it rises once and falls once
