"""The programs that are timed: forward pass, forward and backward pass, and full training step of a model."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx

from partoken_jax.config import LossConfig, StageConfig, TrainConfig
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.timing.batches import TimingData
from partoken_jax.timing.measure import Compiled, compile_program
from partoken_jax.timing_config import TimingConfig
from partoken_jax.training.devices import check_platform
from partoken_jax.training.schedules import StepSettings, epoch_settings
from partoken_jax.training.state import TrainState, initial_state
from partoken_jax.training.step import make_eval_step, make_gradient_step, make_train_step

Pass = Literal["forward", "forward_backward", "train_step"]
"""forward: inference, with the features. forward_backward: training mode, gradients of every parameter.
train_step: that, the optimiser and the metrics; the program that `partoken train` runs."""

STAGE: Literal[1] = 1
"""What is timed: the joint stage, with the codebook in use and all losses live."""


def train_config(config: TimingConfig, data: TimingData, kind: str) -> TrainConfig:
    """The run whose steps are timed: all losses at full weight, the codebook moving."""
    classes = len(data.dataset.class_names)
    model = dataclasses.replace(config.model, kind=kind, num_classes=classes)  # type: ignore[arg-type]
    return TrainConfig(
        seed=config.seed,
        model=model,
        stage1=StageConfig(epochs=1, warmup_epochs=0),
        loss=LossConfig(ramp_epochs=0),
        freeze_codebook_epochs=0,
    )


class Program(NamedTuple):
    """A compiled program together with its arguments."""

    compiled: Compiled
    call: Callable[[], Any]
    """Runs it once; a training step goes on from where the last one ended."""


def build_program(config: TrainConfig, graph: PackedGraph, name: Pass) -> Program:
    """Compiles one pass for a batch."""
    check_platform(config.model.message_passing)
    graph = jax.device_put(graph)
    graphdef, state = initial_state(config)
    settings = timing_settings(config)
    if name == "forward":
        step = make_eval_step(graphdef, bypass_codebook=False)
        arguments = (state.params, state.codebook, graph, np.float32(1.0))
        compiled = compile_program(step, *arguments)
        return Program(compiled, lambda: compiled.run(*arguments))
    if name == "forward_backward":
        gradient_step = jax.jit(make_gradient_step(graphdef, bypass_codebook=False))
        compiled = compile_program(gradient_step, state, graph, settings)
        return Program(compiled, lambda: compiled.run(state, graph, settings))
    return train_step_program(graphdef, state, graph, settings)


def train_step_program(
    graphdef: nnx.GraphDef,
    state: TrainState,
    graph: PackedGraph,
    settings: StepSettings,
    *,
    bypass_codebook: bool = False,
    freeze_encoder: bool = False,
) -> Program:
    """The full training step of any model that `partoken_jax.training.step` can train."""
    step = make_train_step(graphdef, bypass_codebook=bypass_codebook, freeze_encoder=freeze_encoder)
    compiled = compile_program(step, state, graph, settings)
    current = state

    def call():
        nonlocal current  # the old state is donated
        current, metrics = compiled.run(current, graph, settings)
        return current, metrics

    return Program(compiled, call)


def timing_settings(config: TrainConfig) -> StepSettings:
    """Scalars of a training step of stage 1 at full loss weights."""
    return epoch_settings(config, STAGE, 0, 1, has_codebook=config.model.kind == "partoken")[0]
