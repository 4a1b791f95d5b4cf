"""Trains the GVP baseline and ParToken on a few hundred real chains, in minutes on two CPU cores.

    python -m experiments.demo        (what `make demo` runs)

Leaves under runs/demo: one run directory per model, report.md with the table, results.json, and
learning_curves.png with both models.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from partoken_jax import DataConfig, LossConfig, ModelConfig, StageConfig, TemperatureConfig, TrainConfig
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.data import RunData, load_run_data
from partoken_jax.training.loop import train
from partoken_jax.training.records import read_records
from partoken_jax.training.report import RunReport, environment, plot_curves
from partoken_jax.training.schedules import epoch_settings
from partoken_jax.training.step import initial_state, make_train_step

KINDS = ("gvp", "partoken")


def demo_config(kind: str, directory: Path, seed: int) -> TrainConfig:
    """The published models, 1 + 2 epochs instead of 120 + 30 and schedules in proportion, on 208 chains."""
    return TrainConfig(
        run_dir=str(directory / kind),
        seed=seed,
        model=ModelConfig(kind=kind, num_classes=4),  # type: ignore[arg-type]
        data=DataConfig(task="cath-class", batch_size=16, max_shapes=1, max_train=208, max_eval=96),
        stage0=StageConfig(epochs=1, learning_rate=1e-3, warmup_epochs=0.25),
        stage1=StageConfig(epochs=2, learning_rate=5e-4, warmup_epochs=0.25),
        loss=LossConfig(ramp_epochs=1),
        temperature=TemperatureConfig(decay=0.32),
        freeze_codebook_epochs=1,
        overwrite=True,
    )


def interleaved_step_times(directory: Path, seed: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of full training steps (stage 1), the two models taking turns on the same batch."""
    data: RunData = load_run_data(demo_config("gvp", directory, seed))
    loader = data.loaders["train"]
    batch = jax.device_put(next(iter(loader.epoch(0))))
    programs: dict[str, Any] = {}
    for kind in KINDS:
        config = demo_config(kind, directory, seed)
        graphdef, state = initial_state(config)
        settings = epoch_settings(config, 1, 0, len(loader), has_codebook=kind == "partoken")[-1]
        step = make_train_step(graphdef, bypass_codebook=False)
        state, _ = jax.block_until_ready(step(state, batch, settings))  # compiles
        programs[kind] = [step, state, settings]
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(repeats):
        for kind, program in programs.items():
            step, state, settings = program
            start = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch, settings))
            times[kind].append(time.perf_counter() - start)
            program[1] = state
    return times


def table(reports: dict[str, RunReport], times: dict[str, list[float]], batch_size: int) -> str:
    """The closing table, as Markdown."""
    lines = [
        "| model | parameters | validation accuracy | test accuracy | macro-F1 | ms per step | proteins/s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, report in reports.items():
        scores = report["test"]["classification"]
        milliseconds = 1e3 * float(np.median(times[kind]))
        lines.append(
            f"| {kind} | {report['parameters']['total']:,} | "
            f"{report['validation']['classification']['accuracy']:.3f} | {scores['accuracy']:.3f} | "
            f"{scores['macro_f1']:.3f} | {milliseconds:.0f} | {1e3 * batch_size / milliseconds:.1f} |"
        )
    majority = [reports["gvp"][split]["classification"]["majority_share"] for split in ("validation", "test")]
    lines.append(f"| always the most frequent class | 0 | {majority[0]:.3f} | {majority[1]:.3f} | | | |")
    return "\n".join(lines)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--directory", type=Path, default=Path("runs/demo"))
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--repeats", type=int, default=7, help="interleaved timed steps per model")
    args = flags.parse_args()
    start = time.perf_counter()
    args.directory.mkdir(parents=True, exist_ok=True)
    use_compilation_cache()

    reports: dict[str, RunReport] = {}
    for kind in KINDS:
        print(f"\n== {kind} ==")
        reports[kind] = train(demo_config(kind, args.directory, args.seed))
    print("\n== timing: training steps of both models, taking turns ==")
    times = interleaved_step_times(args.directory, args.seed, args.repeats)
    ratios = np.array(times["partoken"]) / np.array(times["gvp"])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    plot_curves(
        {kind: read_records(args.directory / kind / "metrics.jsonl") for kind in KINDS},
        args.directory / "learning_curves.png",
    )

    summary = table(reports, times, demo_config("gvp", args.directory, args.seed).data.batch_size)
    closing = (
        f"ParToken / GVP, full training step, {args.repeats} interleaved pairs: {middle:.2f} "
        f"(quartiles {low:.2f} to {high:.2f}; published, on a GPU: 4.0)."
    )
    data = reports["gvp"]["data"]
    results = {
        "schema": "partoken.demo/1",
        "command": "make demo",
        "environment": {**environment(), "cores": os.cpu_count()},
        "seconds": time.perf_counter() - start,
        "step_seconds": times,
        "ratios": {"partoken_over_gvp.train_step": {"median": middle, "quartiles": [low, high]}},
        "reports": reports,
    }
    (args.directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report = [
        "# Demo: GVP and ParToken on real proteins",
        "",
        f"Task {data['task']}, {sum(data['class_counts']['train'])} training, "
        f"{sum(data['class_counts']['val'])} validation and {sum(data['class_counts']['test'])} test chains; "
        f"seed {args.seed}, 3 epochs, batches of {data['batch_size']}. "
        f"{results['seconds']:.0f} s in all on {os.cpu_count()} cores, compilation included.",
        "",
        summary,
        "",
        closing,
        "",
        "![learning curves](learning_curves.png)",
        "",
    ]
    (args.directory / "report.md").write_text("\n".join(report))
    print(f"\n{summary}\n\n{closing}")
    print(f"{results['seconds']:.0f} s in all; see {args.directory}/report.md and learning_curves.png")


if __name__ == "__main__":
    main()
