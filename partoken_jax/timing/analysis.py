"""One timing analysis: measurements, ratios, components, roofline, and the gap between the models.

The result is plain dictionaries, ready for JSON; experiments/results/README.md describes every field.
"""

import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from partoken_jax.config import ModelConfig
from partoken_jax.models import build_model
from partoken_jax.parameters import parameter_table
from partoken_jax.timing.ablation import PARTS, ablation
from partoken_jax.timing.batches import TimingData, timing_data
from partoken_jax.timing.breakdown import break_down
from partoken_jax.timing.epoch import time_epochs
from partoken_jax.timing.measure import Timing, count_compilations, interleave, ratio
from partoken_jax.timing.programs import Program, build_program, train_config
from partoken_jax.timing.roofline import measure_ceilings, minimum, roofline
from partoken_jax.timing.rows import measurement
from partoken_jax.timing.sweeps import run_sweep
from partoken_jax.timing_config import TimingConfig
from partoken_jax.training.report import environment

SCHEMA = "partoken.timing/1"


def analyse(
    config: TimingConfig,
    *,
    quiet: bool = False,
    command: str | None = None,
    save: Callable[[dict[str, Any]], Any] = lambda result: None,
) -> dict[str, Any]:
    """Everything that `partoken time` reports about one batch size, and the sweeps of the settings.

    Args:
      command: what the result says it was made by; by default the command line.
      save: called with the result so far, after every part of it.

    Raises DataError for proteins that cannot be read.
    """
    data = timing_data(config)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "environment": {
            **environment(),
            "command": " ".join(sys.argv) if command is None else command,
            "precision": config.model.precision,
        },
        "data": {
            # The path of the embedded file is one of this installation.
            "source": data.dataset.source if config.path or config.residues else "embedded",
            "task": data.dataset.task,
            "proteins": len(data.dataset),
            "residues": data.residues,
            "edges": data.edges,
            "nodes": len(data.batch.nodes.mask),
        },
        "parameters": {
            kind: dict(_parameters(train_config(config, data, kind).model)) for kind in config.models
        },
        "measurements": [],
        "ratios": {},
        "shapes": [len(data.batch.nodes.mask)],
        "recompilations": 1,
    }
    if any(name != "epoch" for name in config.passes):
        _time_batch(result, config, data, quiet)
        save(result)
    if "epoch" in config.passes:
        _time_epochs(result, config, data, quiet)
        save(result)
    for name in config.sweeps:
        result.setdefault("sweeps", {})[name] = run_sweep(name, config, quiet=quiet)
        save(result)
    return result


def _time_batch(result: dict[str, Any], config: TimingConfig, data: TimingData, quiet: bool) -> None:
    """Adds the measurements of one batch, what is inside the training step, and the gap."""
    compiled = [name for name in config.passes if name != "epoch"]
    ablate = config.gap and set(config.models) == {"gvp", "partoken"} and "train_step" in compiled
    total = (len(config.models) * len(compiled) + ablate * (len(PARTS) + 1)) * config.repeats
    with tqdm(total=total, desc="timing", unit=" runs", leave=False, disable=quiet or None) as bar:
        tick: Callable[[], Any] = lambda: bar.update()  # noqa: E731
        programs: dict[tuple[str, str], Program] = {
            (kind, name): build_program(train_config(config, data, kind), data.batch, name)
            for kind in config.models
            for name in compiled
        }
        with count_compilations() as late:
            times = interleave(
                {f"{kind} {name}": program.call for (kind, name), program in programs.items()},
                repeats=config.repeats,
                progress=tick,
            )
        result["measurements"] += [
            measurement(config, data, kind, name, program.compiled, times[f"{kind} {name}"])
            for (kind, name), program in programs.items()
        ]
        for name in compiled:
            result["ratios"] |= _gap_ratio(name, {k: times[f"{k} {name}"] for k in config.models})
        result["recompilations"] += late.count
        if "train_step" in compiled:
            result |= _inside(config, data, programs, times)
        if ablate:
            result["gap"] = ablation(
                programs["gvp", "train_step"],
                programs["partoken", "train_step"],
                train_config(config, data, "partoken"),
                jax.device_put(data.batch),
                repeats=config.repeats,
                progress=tick,
            )


def _time_epochs(result: dict[str, Any], config: TimingConfig, data: TimingData, quiet: bool) -> None:
    """Adds whole epochs, their shapes, and how often the step was compiled for them."""
    found = time_epochs(
        {kind: train_config(config, data, kind) for kind in config.models},
        data,
        config.epoch_batches,
        synthetic_residues=config.residues,
        quiet=quiet,
    )
    result["measurements"] += [epoch.row for epoch in found.values()]
    result["ratios"] |= _gap_ratio("epoch", {kind: epoch.timing for kind, epoch in found.items()})
    result["shapes"] = next(iter(found.values())).shapes
    result["recompilations"] = max(epoch.programs for epoch in found.values())


def _gap_ratio(name: str, times: dict[str, Timing]) -> dict[str, Any]:
    if set(times) != {"gvp", "partoken"}:
        return {}
    return {f"partoken_over_gvp.{name}": ratio(times["partoken"], times["gvp"])}


def _inside(
    config: TimingConfig,
    data: TimingData,
    programs: dict[tuple[str, str], Program],
    times: dict[str, Timing],
) -> dict[str, Any]:
    """The components of the training steps, and their roofline."""
    ceilings = measure_ceilings(config.model)
    breakdowns, roofs, components = {}, {}, []
    for kind in config.models:
        program = programs[kind, "train_step"]
        found = break_down(kind, program.compiled.text, program.call)
        components += found["components"]
        breakdowns[kind] = {key: value for key, value in found.items() if key not in ("model", "components")}
        model = train_config(config, data, kind).model
        parameters = dict(_parameters(model))["total"]
        least = minimum(model, data.residues, data.edges, parameters)
        roofs[kind] = roofline(least, ceilings, 1e3 * times[f"{kind} train_step"].median)
    return {
        "components": components,
        "unattributed_share": float(np.mean([b["unattributed_share"] for b in breakdowns.values()])),
        "breakdown": breakdowns,
        "ceilings": ceilings,
        "roofline": roofs,
    }


def _parameters(model: ModelConfig) -> list[tuple[str, int]]:
    return parameter_table(nnx.eval_shape(lambda: build_model(model, rngs=nnx.Rngs(0))))
