"""Clusters before and during the first steps: started by random weights, or from data.

    python -m experiments.cluster_start [--json experiments/results/learn/cluster_start.json]

First the published configuration with many seeds, untrained, on validation chains of 100 to 200 residues; the
start from data reads training chains alone. Then a small model that trains for some steps from either start.
"""

import dataclasses
import json
import sys
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from experiments.flags import Flags, count, output, run_script
from partoken_jax.config import DataConfig, ModelConfig, PartitionerConfig, StageConfig, TrainConfig
from partoken_jax.progress import say
from partoken_jax.tables import markdown_table
from partoken_jax.training.cluster_start import start_clusters, start_program, starts_from_data
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.data import RunData, load_data, prepare
from partoken_jax.training.epochs import predict
from partoken_jax.training.report import environment
from partoken_jax.training.schedules import epoch_settings
from partoken_jax.training.state import initial_state
from partoken_jax.training.step import make_eval_step, make_train_step

RESULT = Path(__file__).parent / "results" / "learn" / "cluster_start.json"
Start = Literal["random", "data"]
STARTS: tuple[Start, ...] = get_args(Start)
UNTRAINED = TrainConfig(
    data=DataConfig(task="cath-architecture", batch_size=12, max_shapes=1, max_train=48, max_eval=24)
)
TRAINED = TrainConfig(
    model=ModelConfig(node_hidden=(32, 8), edge_hidden=(16, 1), num_layers=2),
    data=DataConfig(
        task="cath-architecture", neighbours=16, batch_size=8, max_shapes=1, max_train=160, max_eval=16
    ),
    stage0=StageConfig(epochs=20, learning_rate=1e-3, warmup_epochs=1),
)
BLOCK = 20
"""Steps over which the coverage of training is averaged, and between two looks at validation."""


def data_of(config: TrainConfig, shortest: int, longest: int) -> RunData:
    """The chains of so many residues, as a run would read them."""
    chosen = {
        split: whole.take(np.flatnonzero((whole.lengths >= shortest) & (whole.lengths <= longest)))
        for split, whole in load_data(config.data).items()
    }
    return prepare(config, chosen)


def with_start(config: TrainConfig, data: RunData, seed: int, start: Start) -> TrainConfig:
    """The settings of one run."""
    partitioner = PartitionerConfig(start=start)
    model = dataclasses.replace(config.model, partitioner=partitioner, num_classes=len(data.class_names))
    return dataclasses.replace(config, seed=seed, model=model)


def started(config: TrainConfig, data: RunData):
    """Structure and state before the first step."""
    graphdef, state = initial_state(config)
    if starts_from_data(config):
        state, _ = start_clusters(config, start_program(graphdef), state, data.loaders["train"].epoch(0))
    return graphdef, state


def clusters_of(step, state, data: RunData) -> dict[str, float]:
    """What the model makes of the validation chains in inference."""
    found = predict(step, state.params, state.codebook, data.loaders["val"].evaluation(), temperature=1.0)
    sizes = found.cluster_sizes
    there = sizes[sizes > 0]
    return {
        "coverage": float(there.sum() / found.num_residues),
        "mean_size": float(there.mean()),
        "clusters_per_protein": float(len(there) / len(sizes)),
        "lone_seeds": float((there == 1).mean()),
    }


def untrained(seeds: int) -> list[dict[str, Any]]:
    """A row per seed: the clusters of both starts."""
    data = data_of(UNTRAINED, 100, 200)
    rows = []
    for seed in range(seeds):
        row: dict[str, Any] = {"seed": seed}
        for start in STARTS:
            config = with_start(UNTRAINED, data, seed, start)
            graphdef, state = started(config, data)
            row[start] = clusters_of(make_eval_step(graphdef, bypass_codebook=True), state, data)
        say(f"seed {seed}: coverage {row['random']['coverage']:.2f} → {row['data']['coverage']:.2f}")
        rows.append(row)
    return rows


def trained(seeds: int, steps: int) -> list[dict[str, Any]]:
    """A row per seed and start: the clusters during training."""
    data = data_of(TRAINED, 50, 120)
    loader, rows = data.loaders["train"], []
    for seed in range(seeds):
        for start in STARTS:
            config = with_start(TRAINED, data, seed, start)
            graphdef, state = started(config, data)
            step = make_train_step(graphdef, bypass_codebook=True)
            evaluate = make_eval_step(graphdef, bypass_codebook=True)
            shares, losses, validation = [], [], [{"step": 0, **clusters_of(evaluate, state, data)}]
            for number, (batch, settings) in enumerate(stream(config, loader, steps), start=1):
                state, metrics = step(state, batch, settings)
                shares.append(float(metrics.assigned) / float(metrics.residues))
                losses.append(float(metrics.losses.cross_entropy))
                if number % BLOCK == 0:
                    validation.append({"step": number, **clusters_of(evaluate, state, data)})
            blocks = [float(np.mean(shares[i : i + BLOCK])) for i in range(0, steps, BLOCK)]
            rows.append({
                "seed": seed, "start": start, "training_coverage": blocks, "validation": validation,
                "cross_entropy": [float(np.mean(losses[i : i + BLOCK])) for i in range(0, steps, BLOCK)],
            })  # fmt: skip
            said = " ".join(f"{found['coverage']:.2f}" for found in validation)
            say(f"seed {seed}, {start}: coverage every {BLOCK} steps {said}")
    return rows


def stream(config: TrainConfig, loader, steps: int):
    """The batches of so many steps and their settings."""
    epochs = range(-(-steps // len(loader)))
    batches = chain.from_iterable(loader.epoch(epoch) for epoch in epochs)
    settings = chain.from_iterable(
        epoch_settings(config, 0, epoch, len(loader), has_codebook=True) for epoch in epochs
    )
    return [pair for _, pair in zip(range(steps), zip(batches, settings, strict=True), strict=False)]


def spread(rows: list[dict[str, Any]], start: Start) -> dict[str, float]:
    """Coverage over the seeds: mean, and the largest distance from it as a share of it."""
    values = np.array([row[start]["coverage"] for row in rows])
    return {"mean": float(values.mean()), "furthest": float(abs(values / values.mean() - 1).max())}


def table(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    names = {
        "coverage": "coverage",
        "mean_size": "mean size",
        "clusters_per_protein": "clusters",
        "lone_seeds": "lone seeds",
    }
    header = ["seed", *(f"{words}, {start}" for words in names.values() for start in STARTS)]
    rows = [
        (row["seed"], *(f"{row[start][name]:.2f}" for name in names for start in STARTS))
        for row in result["untrained"]
    ]
    over = {start: result["coverage_over_seeds"][start] for start in STARTS}
    summary = "; ".join(
        f"{start}: mean {found['mean']:.2f}, furthest seed {found['furthest']:.0%} from it"
        for start, found in over.items()
    )
    curves = [
        (row["seed"], row["start"], *(f"{found['coverage']:.2f}" for found in row["validation"]))
        for row in result["trained"]
    ]
    at = [f"step {found['step']}" for found in result["trained"][0]["validation"]]
    return (
        f"{markdown_table(header, rows)}\n\nCoverage over the seeds: {summary}.\n\n"
        f"{markdown_table(('seed', 'start', *at), curves, 'll' + 'r' * len(at))}\n\n"
        f"Coverage of validation chains during training. `{result['command']}`"
    )


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--seeds", type=count, default=10, help="Seeds of the untrained published model.")
    flags.add_argument("--trained-seeds", type=count, default=2, help="Seeds of the small model that trains.")
    flags.add_argument("--steps", type=count, default=60, help="Steps that it trains for.")
    flags.add_argument("--json", type=output, default=RESULT, help="The file for the result.")
    args = flags.parse_args()
    use_compilation_cache()
    rows = untrained(args.seeds)
    result = {
        "schema": "partoken.cluster_start/1",
        "command": " ".join(["python -m experiments.cluster_start", *sys.argv[1:]]),
        "environment": environment(),
        "untrained": rows,
        "coverage_over_seeds": {start: spread(rows, start) for start in STARTS},
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n")  # this part takes longest, and is safe now
    result["trained"] = trained(args.trained_seeds, args.steps)
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    args.json.with_suffix(".md").write_text(table(result) + "\n")
    print(table(result), flush=True)


if __name__ == "__main__":
    run_script(main)
