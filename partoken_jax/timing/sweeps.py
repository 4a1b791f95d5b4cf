"""How the training step scales with batch size, clusters, hops and length, and what each setting costs."""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from partoken_jax.nn.platform import target_platform
from partoken_jax.timing.batches import TimingData, timing_data
from partoken_jax.timing.measure import interleave, ratio
from partoken_jax.timing.programs import STAGE, Program, build_program, train_config
from partoken_jax.timing.rows import measurement, settings_of
from partoken_jax.timing_config import TimingConfig

BATCH_SIZES = (4, 8, 16, 32, 64, 128, 256, 512)
CLUSTERS = (5, 10, 15, 20, 25)
HOPS = (1, 2, 3)
LENGTHS = (100, 200, 300, 500, 1000)

SECONDS_PER_GROUP = 120.0
"""Slow programs run less often than asked for, but at least `LEAST_REPEATS` times."""
LEAST_REPEATS = 3


class Point(NamedTuple):
    """One place of a sweep."""

    label: str
    """What is different here."""
    model: str
    config: TimingConfig


Group = list[Point]
"""Points that time one batch, taking turns; the ratios are those of every point to the first."""


def batch_sweep(base: TimingConfig) -> list[Group]:
    """Both models at 4 to 512 proteins."""
    return [
        _models(f"batch {size}", dataclasses.replace(base, batch_size=size), base.models)
        for size in BATCH_SIZES
    ]


def length_sweep(base: TimingConfig) -> list[Group]:
    """Both models on synthetic proteins of 100 to 1,000 residues."""
    return [
        _models(f"{length} residues", dataclasses.replace(base, residues=length, path=None), base.models)
        for length in LENGTHS
    ]


def cluster_sweep(base: TimingConfig) -> list[Group]:
    """ParToken with 5 to 25 clusters, each at 1, 2 and 3 hops."""
    if "partoken" not in base.models:
        return []
    parts = {
        f"{clusters} clusters, {hops} {'hop' if hops == 1 else 'hops'}": dataclasses.replace(
            base.model.partitioner, max_clusters=clusters, k_hop=hops
        )
        for hops in HOPS
        for clusters in CLUSTERS
    }
    return _settings(
        dataclasses.replace(base, models=("partoken",)), {k: {"partitioner": p} for k, p in parts.items()}
    )


def rematerialisation_sweep(base: TimingConfig) -> list[Group]:
    """Both models with all activations kept, computed again by layer, and by chunk."""
    return _settings(
        base, {f"rematerialise {choice}": {"rematerialise": choice} for choice in ("none", "layer", "chunk")}
    )


def backward_sweep(base: TimingConfig) -> list[Group]:
    """Both ways to sum the gradients of a sender's edges, with layers computed again; and the default."""
    changes: dict[str, dict[str, Any]] = {
        f"{choice}, layers computed again": {"sender_gradient": choice, "rematerialise": "layer"}
        for choice in ("scatter", "gather")
    }
    return _settings(base, {**changes, "default": {"sender_gradient": "auto", "rematerialise": "auto"}})


def precision_sweep(base: TimingConfig) -> list[Group]:
    """Both models at every precision of products."""
    return _settings(base, {name: {"precision": name} for name in ("float32", "tensorfloat32", "bfloat16")})


def plain_sweep(base: TimingConfig) -> list[Group]:
    """The fast form of both models against the plain one (`message_passing`)."""
    forms = {"plain": "general", "fast": "dense"}
    return _settings(base, {name: {"message_passing": form} for name, form in forms.items()})


SWEEPS: dict[str, Callable[[TimingConfig], list[Group]]] = {
    "batch": batch_sweep,
    "length": length_sweep,
    "clusters": cluster_sweep,
    "rematerialisation": rematerialisation_sweep,
    "backward": backward_sweep,
    "precision": precision_sweep,
    "plain": plain_sweep,
}


def run_sweep(name: str, base: TimingConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Times the training step at every point of a sweep; the points of a group take turns.

    Returns:
      `rows`: measurement rows with `label` and `status`; a point that does not fit into memory has the status
      "out of memory" and no times. `ratios`: every point over the first one of its group that could run.
    """
    groups = SWEEPS[name](base)
    rows: list[dict[str, Any]] = []
    ratios: dict[str, Any] = {}
    total = sum(len(group) for group in groups)
    with tqdm(total=total, desc=f"{name} sweep", unit=" points", leave=False, disable=quiet or None) as bar:
        for group in groups:
            found, compared = _time_group(group, base.repeats, lambda: bar.update())
            rows += found
            ratios |= compared
    return {"rows": rows, "ratios": ratios}


def _time_group(
    group: Group, repeats: int, progress: Callable[[], Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    data = timing_data(group[0].config)  # one batch for all
    programs: dict[str, Program] = {}
    seconds = 0.0
    for point in group:
        if (program := _fitting_program(point, data)) is not None:
            programs[point.label] = program
            # The first run was the warm-up; the second tells how often there is time for more.
            seconds += interleave({"": program.call}, repeats=1, warm_up=0)[""].median
        progress()
    repeats = min(repeats, max(LEAST_REPEATS, int(SECONDS_PER_GROUP / max(seconds, 1e-9))))
    calls = {label: program.call for label, program in programs.items()}
    times = interleave(calls, repeats=repeats, warm_up=0)  # every program has run twice
    rows = [
        {
            "label": point.label,
            **measurement(
                point.config,
                data,
                point.model,
                "train_step",
                programs[point.label].compiled,
                times[point.label],
            ),
            "status": "ok",
        }
        if point.label in programs
        else _row_without_times(point, data)
        for point in group
    ]
    labels = list(times)
    ratios = {f"{label} / {labels[0]}": ratio(times[label], times[labels[0]]) for label in labels[1:]}
    return rows, ratios


def _models(label: str, config: TimingConfig, models: Sequence[str]) -> Group:
    return [Point(f"{_NAMES[kind]}, {label}", kind, config) for kind in models]


def _settings(base: TimingConfig, changes: dict[str, dict[str, Any]]) -> list[Group]:
    """A group for each model, with a point for each change of its settings."""
    return [
        [
            Point(
                f"{_NAMES[kind]}, {label}",
                kind,
                dataclasses.replace(base, model=dataclasses.replace(base.model, **change)),
            )
            for label, change in changes.items()
        ]
        for kind in base.models
    ]


_NAMES = {"gvp": "GVP", "partoken": "ParToken"}


def _fitting_program(point: Point, data: TimingData) -> Program | None:
    """The compiled training step, or None if it cannot run in the memory there is. A CPU does not refuse to
    allocate, it kills the process; so what XLA asks for is compared with what the machine has free."""
    try:
        program = build_program(train_config(point.config, data, point.model), data.batch, "train_step")
        if program.compiled.temp_bytes > 0.8 * free_memory():
            return None
        jax.block_until_ready(program.call())  # a device refuses memory when a program runs
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    return program


def free_memory() -> float:
    """Bytes that the CPU's programs may still use; infinite for other devices and where it cannot be read."""
    memory = Path("/proc/meminfo")
    if target_platform() != "cpu" or not memory.is_file():
        return float("inf")
    available = re.search(r"MemAvailable:\s+(\d+) kB", memory.read_text())
    return 1024.0 * int(available[1]) if available else float("inf")


def _row_without_times(point: Point, data: TimingData) -> dict[str, Any]:
    return {
        "label": point.label,
        "model": point.model,
        "stage": STAGE,
        "pass": "train_step",
        "batch_size": point.config.batch_size,
        "residues": point.config.residues,
        "median_ms": None,
        "quartiles_ms": None,
        "padding_share": data.padding_share,
        **settings_of(point.config),
        "status": "out of memory",
    }
