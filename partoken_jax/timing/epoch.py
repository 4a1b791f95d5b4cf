"""A whole epoch as `partoken train` runs it, with the input pipeline."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from partoken_jax.config import TrainConfig
from partoken_jax.timing.batches import TimingData
from partoken_jax.timing.measure import Timing, summary
from partoken_jax.timing.programs import STAGE, timing_settings
from partoken_jax.training.epochs import train_epoch
from partoken_jax.training.prefetch import prefetch
from partoken_jax.training.state import initial_state
from partoken_jax.training.step import TrainStep, compilations, make_train_step

RUNS = 3
"""Timed epochs of every model."""


class EpochTiming(NamedTuple):
    row: dict[str, Any]
    """A measurement row, as experiments/results/README.md describes it."""
    timing: Timing
    shapes: list[int]
    """Node counts of the epoch's batches."""
    programs: int
    """What the step was compiled to; more than len(shapes) means that it was compiled anew for nothing."""


class _Run(NamedTuple):
    call: Callable[[], tuple[float, float]]
    """Trains for one epoch: seconds, and of these waited for input."""
    step: TrainStep


def time_epochs(
    configs: Mapping[str, TrainConfig],
    data: TimingData,
    max_batches: int | None,
    *,
    synthetic_residues: int | None = None,
    quiet: bool = False,
) -> dict[str, EpochTiming]:
    """Times epochs of models that take turns, after every shape has been compiled. `synthetic_residues` is
    for the row alone."""
    first: dict[int, Any] = {}  # one batch of every shape
    residues = rows = proteins = count = 0
    for batch in itertools.islice(data.loader.epoch(0), max_batches):
        first.setdefault(len(batch.nodes.mask), batch)
        residues += int(batch.nodes.mask.sum())
        rows += len(batch.nodes.mask)
        proteins += int(batch.globals.mask.sum())
        count += 1

    def prepare(config: TrainConfig) -> _Run:
        graphdef, state = initial_state(config)
        step = make_train_step(graphdef, bypass_codebook=False)
        settings = timing_settings(config)
        for batch in first.values():
            state, _ = jax.block_until_ready(step(state, jax.device_put(batch), settings))

        def call() -> tuple[float, float]:
            nonlocal state
            trained = train_epoch(
                step,
                state,
                prefetch(itertools.islice(data.loader.epoch(0), max_batches)),
                [settings] * count,
                num_proteins=proteins,
                description="epoch",
                quiet=quiet,
            )
            state = trained.state
            return trained.so_far["seconds"], trained.so_far["input_seconds"]

        return _Run(call, step)

    runs = {name: prepare(config) for name, config in configs.items()}
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(RUNS):
        for name, run in runs.items():
            seconds[name].append(run.call())
    found = {}
    for name, run in runs.items():
        timing = summary([total for total, _ in seconds[name]])
        row = {
            "model": configs[name].model.kind,
            "stage": STAGE,
            "pass": "epoch",
            "batch_size": data.loader.plan.batch_size,
            "residues": synthetic_residues,
            "median_ms": 1e3 * timing.median,
            "quartiles_ms": [1e3 * q for q in timing.quartiles],
            "runs": RUNS,
            "lower_s": None,
            "compile_s": None,
            "flops": None,
            "bytes": None,
            "temp_bytes": None,
            "proteins_per_s": proteins / timing.median,
            "padding_share": 1.0 - residues / rows,
            "batches": count,
            "proteins": proteins,
            "input_wait_share": float(np.median([waited / total for total, waited in seconds[name]])),
        }
        found[name] = EpochTiming(row, timing, sorted(first), compilations(run.step))
    return found
