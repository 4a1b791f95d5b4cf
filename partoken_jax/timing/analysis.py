"""One timing analysis: measurements, ratios, components, roofline, and the gap between the models.

The result is plain dictionaries, ready for JSON; docs/TIMING.md describes every field.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from partoken_jax.config import LossConfig, ModelConfig, StageConfig, TimingConfig, TrainConfig
from partoken_jax.models import build_model, parameter_table
from partoken_jax.timing.ablation import PARTS, ablation
from partoken_jax.timing.batches import TimingData, timing_data
from partoken_jax.timing.breakdown import break_down, program_cost
from partoken_jax.timing.epoch import time_epoch
from partoken_jax.timing.measure import Compiled, Timing, count_compilations, interleave, ratio
from partoken_jax.timing.programs import STAGE, Program, build_program
from partoken_jax.timing.roofline import measure_ceilings, minimum, roofline
from partoken_jax.training.report import environment

SCHEMA = "partoken.timing/1"


def analyse(config: TimingConfig, *, quiet: bool = False, command: str | None = None) -> dict[str, Any]:
    """Everything that `partoken time` reports about one batch size.

    Raises DataError for proteins that cannot be read.
    """
    data = timing_data(config)
    compiled = [name for name in config.passes if name != "epoch"]
    total = len(config.models) * len(compiled) * config.repeats
    both = set(config.models) == {"gvp", "partoken"}
    ablate = both and "train_step" in compiled
    total += ablate * (len(PARTS) + 1) * config.repeats
    with tqdm(total=total, desc="timing", unit=" runs", leave=False, disable=quiet or None) as bar:
        tick: Callable[[], Any] = lambda: bar.update()  # noqa: E731
        programs = {
            (kind, name): build_program(train_config(config, data, kind), data.batch, name)  # type: ignore[arg-type]
            for kind in config.models
            for name in compiled
        }
        with count_compilations() as late:
            times = interleave(
                {f"{kind} {name}": program.call for (kind, name), program in programs.items()},
                repeats=config.repeats,
                progress=tick,
            )
        rows = [
            measurement(config, data, kind, name, program.compiled, times[f"{kind} {name}"])
            for (kind, name), program in programs.items()
        ]
        result: dict[str, Any] = {
            "schema": SCHEMA,
            "environment": {
                **environment(),
                "command": " ".join(sys.argv) if command is None else command,
                "precision": precision(),
            },
            "data": {
                "source": data.dataset.source,
                "task": data.dataset.task,
                "proteins": len(data.dataset),
                "residues": data.residues,
                "edges": data.edges,
                "nodes": len(data.batch.nodes.mask),
            },
            "parameters": {
                kind: dict(_parameters(train_config(config, data, kind).model)) for kind in config.models
            },
            "measurements": rows,
            "ratios": _ratios(times) if both else {},
            "shapes": [len(data.batch.nodes.mask)],
            "recompilations": 1 + late.count,
        }
        if "train_step" in compiled:
            result |= _inside(config, data, programs, times)
        if ablate:
            result["gap"] = ablation(
                train_config(config, data, "gvp"),
                train_config(config, data, "partoken"),
                jax.device_put(data.batch),
                repeats=config.repeats,
                progress=tick,
            )
    if "epoch" in config.passes:
        for kind in config.models:
            epoch = time_epoch(
                train_config(config, data, kind),
                data,
                config.epoch_batches,
                synthetic_residues=config.residues,
                quiet=quiet,
            )
            rows.append(epoch.row)
            result["shapes"] = epoch.shapes
            result["recompilations"] = max(result["recompilations"], epoch.programs)
    return result


def precision() -> str:
    """What float32 products are computed in: as set in jax, else the device's default."""
    chosen = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if chosen is None and jax.default_backend() == "cpu":
        return "float32"
    return f"float32, products in {chosen or 'the default precision of the device (TF32 on recent GPUs)'}"


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


def measurement(
    config: TimingConfig, data: TimingData, kind: str, name: str, compiled: Compiled, timing: Timing
) -> dict[str, Any]:
    """A row of `measurements`: one pass of one model."""
    flops, bytes_ = program_cost(compiled.text)
    return {
        "model": kind,
        "stage": STAGE,
        "pass": name,
        "batch_size": config.batch_size,
        "residues": config.residues,
        "median_ms": 1e3 * timing.median,
        "quartiles_ms": [1e3 * q for q in timing.quartiles],
        "runs": len(timing.seconds),
        "lower_s": compiled.lower_s,
        "compile_s": compiled.compile_s,
        "flops": flops,
        "bytes": bytes_,
        "xla_flops": compiled.flops,
        "xla_bytes": compiled.bytes,
        "temp_bytes": compiled.temp_bytes,
        "proteins_per_s": data.proteins / timing.median,
        "padding_share": data.padding_share,
        **settings_of(config),
    }


def settings_of(config: TimingConfig) -> dict[str, Any]:
    """The settings that a sweep may change, for a row."""
    return {
        "neighbours": config.neighbours,
        "max_clusters": config.model.partitioner.max_clusters,
        "k_hop": config.model.partitioner.k_hop,
        "rematerialise": config.model.rematerialise,
    }


def _ratios(times: dict[str, Timing]) -> dict[str, Any]:
    names = [key.removeprefix("gvp ") for key in times if key.startswith("gvp ")]
    return {
        f"partoken_over_gvp.{name}": ratio(times[f"partoken {name}"], times[f"gvp {name}"]) for name in names
    }


def _inside(
    config: TimingConfig,
    data: TimingData,
    programs: dict[tuple[str, str], Program],
    times: dict[str, Timing],
) -> dict[str, Any]:
    """The components of the training steps, and their roofline."""
    ceilings = measure_ceilings()
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
