"""Trains the GVP baseline and ParToken on a few hundred real chains, in minutes on two CPU cores.

    python -m experiments.demo        (what `make demo` runs)

Leaves under runs/demo: one run directory per model, report.md with the table, results.json, and
learning_curves.png with both models.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.flags import Flags, count, run_script
from partoken_jax import (
    CodebookConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    PartitionerConfig,
    StageConfig,
    TemperatureConfig,
    TrainConfig,
)
from partoken_jax.progress import say
from partoken_jax.tables import markdown_table
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.curves import plot_curves
from partoken_jax.training.data import RunData, load_run_data
from partoken_jax.training.loop import train
from partoken_jax.training.metrics import hits, wilson
from partoken_jax.training.records import read_records
from partoken_jax.training.report import RunReport, accuracy_with_interval, environment
from partoken_jax.training.schedules import epoch_settings
from partoken_jax.training.state import initial_state
from partoken_jax.training.step import make_train_step

NAMES = {"gvp": "GVP baseline", "partoken": "ParToken"}


def demo_config(kind: str, directory: Path, seed: int) -> TrainConfig:
    """The published models in 1 + 2 epochs instead of 120 + 30, with schedules in proportion, on 208 chains.
    ParToken's clusters start at their expected size, and it has 32 codes instead of 512, which follow their
    clusters faster and come back when nobody chose them: so few clusters leave 2 of 512 codes in use."""
    return TrainConfig(
        run_dir=str(directory / kind),
        seed=seed,
        model=ModelConfig(
            kind=kind,  # type: ignore[arg-type]
            num_classes=4,
            partitioner=PartitionerConfig(start="data"),
            codebook=CodebookConfig(size=32, decay=0.9),
        ),
        data=DataConfig(task="cath-class", batch_size=16, max_shapes=1, max_train=208, max_eval=96),
        stage0=StageConfig(epochs=1, learning_rate=1e-3, warmup_epochs=0.25),
        stage1=StageConfig(epochs=2, learning_rate=5e-4, warmup_epochs=0.25),
        loss=LossConfig(ramp_epochs=1),
        temperature=TemperatureConfig(decay=0.32),
        freeze_codebook_epochs=0,
        reseed_dead_codes=True,
        overwrite=True,
    )


def interleaved_step_times(directory: Path, seed: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of full training steps (stage 1), the two models taking turns on the same batch."""
    data: RunData = load_run_data(demo_config("gvp", directory, seed))
    loader = data.loaders["train"]
    batch = jax.device_put(next(iter(loader.epoch(0))))
    programs: dict[str, Any] = {}
    for kind in NAMES:
        config = demo_config(kind, directory, seed)
        graphdef, state = initial_state(config)
        settings = epoch_settings(config, 1, 0, len(loader), has_codebook=kind == "partoken")[-1]
        step = make_train_step(graphdef, bypass_codebook=False)
        state, _ = jax.block_until_ready(step(state, batch, settings))  # compiles
        programs[kind] = [step, state, settings]
    times: dict[str, list[float]] = {kind: [] for kind in NAMES}
    for _ in range(repeats):
        for kind, program in programs.items():
            step, state, settings = program
            start = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch, settings))
            times[kind].append(time.perf_counter() - start)
            program[1] = state
    return times


def table(reports: dict[str, RunReport], times: dict[str, list[float]], batch_size: int) -> str:
    """The closing table, as Markdown. Accuracies come with their 95% intervals (`metrics.wilson`)."""
    rows: list[tuple[object, ...]] = []
    for kind, name in NAMES.items():
        report = reports[kind]
        scores = report["test"]["classification"]
        milliseconds = 1e3 * float(np.median(times[kind]))
        rows.append(
            (
                name,
                accuracy_with_interval(scores),
                f"{scores['macro_f1']:.3f}",
                f"{milliseconds:.0f} ms",
                f"{1e3 * batch_size / milliseconds:.1f}",
                f"{report['parameters']['total']:,}",
            )
        )
    majority = reports["gvp"]["test"]["classification"]["majority_share"]
    rows.append(("always the most frequent class", f"{majority:.3f}"))
    header = ("", "test accuracy (95% interval)", "macro-F1", "training step", "proteins/s", "parameters")
    return markdown_table(header, rows)


def verdict(reports: dict[str, RunReport]) -> str:
    """What the accuracies say about which model is the better one: nothing, where their intervals overlap."""
    scores = [reports[kind]["test"]["classification"] for kind in NAMES]
    intervals = [wilson(hits(s), s["proteins"]) for s in scores]
    if max(low for low, _ in intervals) > min(high for _, high in intervals):
        return "The intervals of the two accuracies do not overlap."
    counts = " against ".join(f"{hits(s)} of {s['proteins']}" for s in scores)
    return f"With one seed each, {counts} proteins is too little to tell them apart."


def epochs(results: dict[str, Any]) -> int:
    """Epochs of both stages."""
    config = results["reports"]["gvp"]["config"]
    return config["stage0"]["epochs"] + config["stage1"]["epochs"]


def step_ratio(results: dict[str, Any]) -> str:
    """The closing sentence about the training step."""
    ratio = results["ratios"]["partoken_over_gvp.train_step"]
    low, high = ratio["quartiles"]
    return (
        f"A full training step of ParToken takes {ratio['median']:.2f} times as long as one of GVP "
        f"(quartiles {low:.2f} to {high:.2f} of {len(results['step_seconds']['gvp'])} interleaved pairs) on "
        f"{results['environment']['device']}."
    )


def report(results: dict[str, Any]) -> str:
    """The text of report.md."""
    reports = results["reports"]
    data = reports["gvp"]["data"]
    training, validation, test = (sum(data["class_counts"][split]) for split in ("train", "val", "test"))
    lines = [
        "# Demo: GVP and ParToken on real proteins",
        "",
        f"Both models learn the task {data['task']} from {training} chains in {epochs(results)} epochs of "
        f"batches of {data['batch_size']}, with {validation} chains for validation and {test} for the test; "
        f"seed {reports['gvp']['config']['seed']}. All took {results['seconds']:.0f} s on "
        f"{results['environment']['cores']} cores, compilation included.",
        "",
        table(reports, results["step_seconds"], data["batch_size"]),
        "",
        verdict(reports),
        "",
        step_ratio(results),
        "",
        "![learning curves](learning_curves.png)",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--directory", type=Path, default=Path("runs/demo"), help="Where everything goes.")
    flags.add_argument("--seed", type=int, default=0, help="Seed of weights, batches and dropout.")
    flags.add_argument("--repeats", type=count, default=11, help="Timed steps of each model, taking turns.")
    args = flags.parse_args()
    start = time.perf_counter()
    args.directory.mkdir(parents=True, exist_ok=True)
    use_compilation_cache()

    reports: dict[str, RunReport] = {}
    for kind in NAMES:
        say(f"\n== {kind} ==")
        reports[kind] = train(demo_config(kind, args.directory, args.seed))
    say("\n== timing: training steps of both models, taking turns ==")
    times = interleaved_step_times(args.directory, args.seed, args.repeats)
    ratios = np.array(times["partoken"]) / np.array(times["gvp"])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    plot_curves(
        {kind: read_records(args.directory / kind / "metrics.jsonl") for kind in NAMES},
        args.directory / "learning_curves.png",
    )

    results = {
        "schema": "partoken.demo/1",
        "command": " ".join(["python -m experiments.demo", *sys.argv[1:]]),
        "environment": {**environment(), "cores": os.cpu_count()},
        "seconds": time.perf_counter() - start,
        "step_seconds": times,
        "ratios": {"partoken_over_gvp.train_step": {"median": middle, "quartiles": [low, high]}},
        "reports": reports,
    }
    (args.directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.directory / "report.md").write_text(report(results))
    say(f"\n{table(reports, times, reports['gvp']['data']['batch_size'])}")
    say(f"\n{verdict(reports)}\n{step_ratio(results)}")
    say(f"{results['seconds']:.0f} s in all; see {args.directory}/report.md and learning_curves.png")


if __name__ == "__main__":
    run_script(main)
