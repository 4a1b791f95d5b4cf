"""What changes during a run: learning rate, loss weights, temperature, a frozen codebook.

Everything here is worked out on the host and enters the compiled step as scalars, so that no
schedule ever causes a recompilation.
"""

import dataclasses
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import optax

from partoken_jax.config import LossConfig, StageConfig, TrainConfig
from partoken_jax.training.objective import LossWeights

Stage = Literal[0, 1]


class StepSettings(NamedTuple):
    """The scalars of one training step."""

    learning_rate: np.float32
    temperature: np.float32
    weights: LossWeights
    frozen: np.bool_
    """True: the moving averages of the codebook do not move."""
    class_weights: np.ndarray | None = None
    """float32 [C]: how much the proteins of each class count in the cross entropy; None for all alike."""


@cache
def learning_rates(stage: StageConfig, steps_per_epoch: int) -> np.ndarray:
    """float32 [epochs * steps_per_epoch]: linear warm-up, then cosine decay towards 0.

    With W warm-up steps, step i < W runs at (i + 1) / (W + 1) of the peak. In a stage shorter than
    twice its warm-up, the warm-up takes half of the stage.
    """
    steps = stage.epochs * steps_per_epoch
    if steps == 0:
        return np.zeros(0, np.float32)
    warmup = min(round(stage.warmup_epochs * steps_per_epoch), steps // 2)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=stage.learning_rate / (warmup + 1),
        peak_value=stage.learning_rate,
        warmup_steps=warmup,
        decay_steps=steps,
    )
    return np.asarray(schedule(np.arange(steps)), np.float32)


def loss_weights(config: LossConfig, stage: Stage, epochs_done: float, *, has_codebook: bool) -> LossWeights:
    """Weights of the auxiliary terms after `epochs_done` epochs of a stage (a fraction within one).

    Stage 0, and a model without a codebook: the cardinality term alone, at full strength, as there are
    no codes. Stage 1: vq and coverage grow linearly from 0 to full strength over `ramp_epochs`.
    """
    if stage == 0 or not has_codebook:
        ramp = 0.0
    elif config.ramp_epochs <= 0:
        ramp = 1.0
    else:
        ramp = min(1.0, epochs_done / config.ramp_epochs)
    return LossWeights(
        np.float32(ramp * config.vq), np.float32(ramp * config.coverage), np.float32(config.cardinality)
    )


def codebook_frozen(config: TrainConfig, stage: Stage, epoch: int) -> bool:
    """Whether the codebook stands still in an epoch (counted from 0 within its stage)."""
    return stage == 1 and epoch >= config.stage1.epochs - config.freeze_codebook_epochs


def epoch_rates(config: TrainConfig, stage: Stage, epoch: int, steps_per_epoch: int) -> np.ndarray:
    """float32 [at least steps_per_epoch]: the learning rates from the start of an epoch of a stage on."""
    schedule = config.stage1 if stage == 1 else config.stage0
    if config.one_schedule:
        first = config.stage0 if config.stage0.epochs else config.stage1
        schedule = dataclasses.replace(first, epochs=config.stage0.epochs + config.stage1.epochs)
        epoch += config.stage0.epochs if stage == 1 else 0
    return learning_rates(schedule, steps_per_epoch)[epoch * steps_per_epoch :]


def epoch_settings(
    config: TrainConfig,
    stage: Stage,
    epoch: int,
    steps_per_epoch: int,
    *,
    has_codebook: bool,
    class_weights: np.ndarray | None = None,
) -> list[StepSettings]:
    """The settings of every step of an epoch (counted from 0 within its stage)."""
    rates = epoch_rates(config, stage, epoch, steps_per_epoch)
    temperature = np.float32(config.temperature.at(epoch + (config.stage0.epochs if stage == 1 else 0)))
    frozen = np.bool_(codebook_frozen(config, stage, epoch))
    return [
        StepSettings(
            learning_rate=rates[step],
            temperature=temperature,
            weights=loss_weights(
                config.loss, stage, epoch + step / steps_per_epoch, has_codebook=has_codebook
            ),
            frozen=frozen,
            class_weights=class_weights,
        )
        for step in range(steps_per_epoch)
    ]
