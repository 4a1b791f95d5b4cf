"""How the training step scales: with batch size, clusters and hops, protein length, and rematerialisation."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from partoken_jax.config import TimingConfig
from partoken_jax.timing.analysis import analyse, measurement, settings_of, train_config
from partoken_jax.timing.batches import TimingData, timing_data
from partoken_jax.timing.measure import interleave, ratio
from partoken_jax.timing.programs import STAGE, Program, build_program

BATCH_SIZES = (4, 8, 16, 32, 64, 128, 256, 512)
CLUSTERS = (5, 10, 15, 20, 25)
HOPS = (1, 2, 3)
LENGTHS = (100, 200, 300, 500, 1000)


class Point(NamedTuple):
    """One place of a sweep."""

    model: str
    config: TimingConfig


def batch_sweep(base: TimingConfig) -> list[Point]:
    """Both models at 4 to 512 proteins."""
    return [
        Point(kind, dataclasses.replace(base, batch_size=size))
        for size in BATCH_SIZES
        for kind in base.models
    ]


def cluster_sweep(base: TimingConfig) -> list[Point]:
    """ParToken with 5 to 25 clusters, each at 1, 2 and 3 hops."""
    points = []
    for hops in HOPS:
        for clusters in CLUSTERS:
            part = dataclasses.replace(base.model.partitioner, max_clusters=clusters, k_hop=hops)
            model = dataclasses.replace(base.model, partitioner=part)
            points.append(Point("partoken", dataclasses.replace(base, model=model)))
    return points


def length_sweep(base: TimingConfig) -> list[Point]:
    """Both models on synthetic proteins of 100 to 1,000 residues."""
    return [
        Point(kind, dataclasses.replace(base, residues=length)) for length in LENGTHS for kind in base.models
    ]


def rematerialisation_sweep(base: TimingConfig) -> list[Point]:
    """Both models with all activations kept, computed again by layer, and by chunk."""
    return [
        Point(kind, dataclasses.replace(base, model=dataclasses.replace(base.model, rematerialise=choice)))  # type: ignore[arg-type]
        for choice in ("none", "layer", "chunk")
        for kind in base.models
    ]


SWEEPS: dict[str, Callable[[TimingConfig], list[Point]]] = {
    "batch": batch_sweep,
    "clusters": cluster_sweep,
    "length": length_sweep,
    "rematerialisation": rematerialisation_sweep,
}
INTERLEAVED = frozenset({"clusters", "rematerialisation"})
"""Sweeps whose ratios matter: all points are compiled first and then take turns."""


def analyse_and_sweep(config: TimingConfig, *, command: str | None = None) -> Iterator[dict[str, Any]]:
    """The analysis of a batch, then again with `sweeps` (by name) after each sweep of the settings, so that
    what is measured can be saved at once. Raises as `analyse`."""
    result = analyse(config, command=command)
    yield result
    for name in config.sweeps:
        result.setdefault("sweeps", {})[name] = run_sweep(name, config)
        yield result


def run_sweep(name: str, base: TimingConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Times the training step at every point of a sweep.

    Returns:
      `rows`: measurement rows; a point that does not fit into memory has `status` "out of memory" and no
      times. `ratios`: for interleaved sweeps, every point over the first one of its model.
    """
    points = SWEEPS[name](base)
    rows: list[dict[str, Any]] = []
    ratios: dict[str, Any] = {}
    held: dict[str, tuple[Point, TimingData, Program]] = {}
    made: dict[TimingConfig, TimingData] = {}
    for point in tqdm(points, desc=f"{name} sweep", unit=" points", leave=False, disable=quiet or None):
        where = dataclasses.replace(point.config, model=base.model)
        if where not in made:
            made = {where: timing_data(where)}  # one set of proteins at a time is enough
        data = made[where]
        program = _fitting_program(point, data)
        if program is None:
            rows.append(_row_without_times(point, data))
        elif name in INTERLEAVED:
            held[f"{len(held)} {_label(point)}"] = (point, data, program)
        else:
            rows += _timed(point, data, program, base.repeats)
    if held:
        times = interleave({key: program.call for key, (_, _, program) in held.items()}, repeats=base.repeats)
        first: dict[str, str] = {}
        for key, (point, data, program) in held.items():
            row = measurement(point.config, data, point.model, "train_step", program.compiled, times[key])
            rows.append({**row, "status": "ok"})
            start = first.setdefault(point.model, key)
            if start != key:
                names = key.split(" ", 1)[1], start.split(" ", 1)[1]
                ratios[f"{names[0]} over {names[1]}"] = ratio(times[key], times[start])
    return {"rows": rows, "ratios": ratios}


def _timed(point: Point, data: TimingData, program: Program, repeats: int) -> list[dict[str, Any]]:
    timing = interleave({"step": program.call}, repeats=repeats)["step"]
    row = measurement(point.config, data, point.model, "train_step", program.compiled, timing)
    return [{**row, "status": "ok"}]


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
    if jax.default_backend() != "cpu" or not memory.is_file():
        return float("inf")
    available = re.search(r"MemAvailable:\s+(\d+) kB", memory.read_text())
    return 1024.0 * int(available[1]) if available else float("inf")


def _row_without_times(point: Point, data: TimingData) -> dict[str, Any]:
    return {
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


def _label(point: Point) -> str:
    model = point.config.model
    return (
        f"{point.model} {model.partitioner.max_clusters} clusters {model.partitioner.k_hop} hops "
        f"rematerialise {model.rematerialise}"
    )
