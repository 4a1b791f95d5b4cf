"""A whole epoch as `partoken train` runs it, with the input pipeline."""

import itertools
from typing import Any, NamedTuple

import jax

from partoken_jax.config import TrainConfig
from partoken_jax.timing.batches import TimingData
from partoken_jax.timing.programs import STAGE, timing_settings
from partoken_jax.training.epochs import train_epoch
from partoken_jax.training.prefetch import prefetch
from partoken_jax.training.step import compilations, initial_state, make_train_step


class EpochTiming(NamedTuple):
    row: dict[str, Any]
    """A measurement row, as docs/TIMING.md describes it."""
    shapes: list[int]
    """Node counts of the epoch's batches."""
    programs: int
    """What the step was compiled to; more than len(shapes) means that it was compiled anew for nothing."""


def time_epoch(
    config: TrainConfig,
    data: TimingData,
    max_batches: int | None,
    *,
    synthetic_residues: int | None = None,
    quiet: bool = False,
) -> EpochTiming:
    """Times one epoch after every shape has been compiled. `synthetic_residues` is for the row alone."""
    graphdef, state = initial_state(config)
    step = make_train_step(graphdef, bypass_codebook=False)
    settings = timing_settings(config)

    first: dict[int, Any] = {}  # one batch of every shape
    residues = rows = proteins = count = 0
    for batch in itertools.islice(data.loader.epoch(0), max_batches):
        first.setdefault(len(batch.nodes.mask), batch)
        residues += int(batch.nodes.mask.sum())
        rows += len(batch.nodes.mask)
        proteins += int(batch.globals.mask.sum())
        count += 1
    for batch in first.values():
        state, _ = jax.block_until_ready(step(state, jax.device_put(batch), settings))

    trained = train_epoch(
        step,
        state,
        prefetch(itertools.islice(data.loader.epoch(0), max_batches)),
        [settings] * count,
        num_proteins=proteins,
        description="epoch",
        quiet=quiet,
    )
    milliseconds = 1e3 * trained.seconds
    row = {
        "model": config.model.kind,
        "stage": STAGE,
        "pass": "epoch",
        "batch_size": data.loader.plan.batch_size,
        "residues": synthetic_residues,
        "median_ms": milliseconds,
        "quartiles_ms": [milliseconds, milliseconds],
        "runs": 1,
        "lower_s": None,
        "compile_s": None,
        "flops": None,
        "bytes": None,
        "temp_bytes": None,
        "proteins_per_s": proteins / trained.seconds,
        "padding_share": 1.0 - residues / rows,
        "batches": count,
        "proteins": proteins,
        "input_wait_share": trained.input_seconds / trained.seconds,
    }
    return EpochTiming(row, sorted(first), compilations(step))
