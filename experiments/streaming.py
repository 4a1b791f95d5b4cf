"""What it costs to train from a prepared set of any size: start-up, memory, waiting for input.

    python -m experiments.streaming [--chains 2000 20000 200000] [--out experiments/results/streaming]

Synthetic sets of chains of 60 residues on average are written to a temporary folder, which needs 1 GB. For
every set a fresh process opens it, loads a small ParToken that an earlier one has compiled, and trains for
some steps.
"""

import argparse
import itertools
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.proteins import LabelColumn, Protein, write_prepared
from partoken_jax.proteins.neighbours import neighbour_table
from partoken_jax.tables import markdown_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results" / "streaming"
CLASSES, NEIGHBOURS = 7, 8
DISTINCT = 2000
"""Chains that are made; a larger set holds each several times, so that all sets have the same lengths."""
BATCH, STEPS, EPOCHS = 64, 40, 150
ALLOCATOR = {"MALLOC_ARENA_MAX": "1"}
"""One heap. Which of several heaps glibc takes when a program is loaded is chance, and moves the peak by
200 MB whatever the size of the set."""


def train_here(path: str, start: float) -> None:
    """Starts training from a prepared set and prints what it took, as JSON. The process began at `start`."""
    import jax

    from partoken_jax.config import DataConfig, ModelConfig, PartitionerConfig, StageConfig, TrainConfig
    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.data import load_run_data
    from partoken_jax.training.epochs import train_epoch
    from partoken_jax.training.prefetch import prefetch
    from partoken_jax.training.schedules import epoch_settings
    from partoken_jax.training.state import initial_state
    from partoken_jax.training.step import make_train_step

    use_compilation_cache()
    config = TrainConfig(
        model=ModelConfig(
            num_classes=CLASSES,
            node_hidden=(32, 8),
            edge_hidden=(16, 1),
            num_layers=2,
            partitioner=PartitionerConfig(hidden=16, max_clusters=3),
        ),
        data=DataConfig(
            path=path,
            task="made-up",
            split_scheme="random",
            neighbours=NEIGHBOURS,
            batch_size=BATCH,
            max_shapes=1,
        ),
        stage0=StageConfig(epochs=EPOCHS),
        stage1=StageConfig(epochs=0),
    )
    reading = time.time()
    data = load_run_data(config)
    read = time.time()
    graphdef, state = initial_state(config)
    step = make_train_step(graphdef, bypass_codebook=True)
    loader = data.loaders["train"]
    settings = epoch_settings(config, 0, 0, STEPS + 1, has_codebook=True)
    batches = prefetch(itertools.chain(loader.epoch(0), loader.epoch(1)))  # small sets have short epochs
    state, metrics = step(state, next(batches), settings[0])
    jax.block_until_ready(metrics)
    first = time.time()
    trained = train_epoch(
        step,
        state,
        itertools.islice(batches, STEPS),
        settings[1:],
        num_proteins=STEPS * BATCH,
        description="steps",
        quiet=True,
    )
    found = {
        "import_s": reading - start,
        "data_s": read - reading,
        "first_step_s": first - start,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "step_ms": 1e3 * trained.step_seconds,
        "input_wait_share": trained.so_far["input_seconds"] / trained.so_far["seconds"],
        "node_counts": list(data.plan.node_counts),
    }
    print(json.dumps(found))


def made_up_chain(rng: np.random.Generator) -> Protein:
    """A random walk of CA atoms 3.8 Å apart, N, C and O about them."""
    num_residues = int(np.clip(rng.gamma(6.0, 10.0), 20, 400))
    steps = rng.normal(size=(num_residues, 3))
    ca = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=1, keepdims=True), axis=0)
    backbone = ca[:, None] + rng.normal(size=(num_residues, 4, 3)) * np.array([1, 0, 1, 1.5])[:, None]
    letters = "".join(rng.choice(list("ARNDCQEGHILKMFPSTWYV"), num_residues))
    return Protein("chain", letters, backbone.astype(np.float32))


def write_set(out: Path, count: int) -> None:
    """A prepared set of so many chains; 1 of 20 is for validation and 1 of 20 for test."""
    rng = np.random.default_rng(0)
    chains = [made_up_chain(rng) for _ in range(min(count, DISTINCT))]
    tables = [neighbour_table(chain.backbone[:, 1], chain.complete, NEIGHBOURS) for chain in chains]

    def named() -> Iterator[Protein]:
        for i in range(count):
            yield replace(chains[i % len(chains)], name=f"chain_{i}")

    number = np.arange(count)
    write_prepared(
        out,
        named(),
        labels={"made-up": LabelColumn(tuple(f"class {i}" for i in range(CLASSES)), number % CLASSES)},
        splits={"random": np.select([number % 20 == 18, number % 20 == 19], [1, 2], 0)},
        neighbours=NEIGHBOURS,
        tables=(tables[i % len(tables)] for i in range(count)),
    )


def train_from(path: Path, cache: str) -> dict[str, Any]:
    """What a fresh process says of its start and its first steps."""
    env = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    code = f"from experiments.streaming import train_here; train_here({str(path)!r}, {time.time()})"
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**env, **ALLOCATOR, "XDG_CACHE_HOME": cache},
    )
    return json.loads(said.stdout.splitlines()[-1])


def measure(counts: list[int], repeats: int) -> list[dict[str, Any]]:
    """A row for every start; the sizes take turns, so that other work of the machine strikes all alike."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(folder) / "cache")
        for count in counts:
            write_set(Path(folder) / str(count), count)
            train_from(Path(folder) / str(count), cache)  # compiles, which says nothing about data
        for _ in range(repeats):
            for count in counts:
                path = Path(folder) / str(count)
                size = sum(file.stat().st_size for file in path.rglob("*.npy"))
                row = {"chains": count, "bytes_on_disk": size, **train_from(path, cache)}
                rows.append(row)
                print(
                    f"{count:7} chains: first step after {row['first_step_s']:.1f} s, peak "
                    f"{row['peak_bytes'] / 1e6:.0f} MB, step {row['step_ms']:.0f} ms, "
                    f"{row['input_wait_share']:.2%} of the time waiting for input"
                )
    return rows


def medians(rows: list[dict[str, Any]]) -> dict[int, dict[str, float]]:
    """Number of chains → the median of every figure."""
    names = ("data_s", "first_step_s", "peak_bytes", "step_ms", "input_wait_share")
    counts = dict.fromkeys(row["chains"] for row in rows)
    return {
        count: {
            name: float(np.median([row[name] for row in rows if row["chains"] == count])) for name in names
        }
        for count in counts
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Peak memory, start-up and waiting over the number of chains."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = medians(rows)
    panels = (
        ("peak_bytes", 1e6, "peak resident memory (MB)"),
        ("first_step_s", 1, "start to first step (s)"),
        ("input_wait_share", 0.01, "share of time waiting for input (%)"),
    )
    figure, axes = plt.subplots(1, len(panels), figsize=(11, 3.6))
    for axis, (name, unit, label) in zip(axes, panels, strict=True):
        axis.semilogx([row["chains"] for row in rows], [row[name] / unit for row in rows], ".", color="grey")
        axis.semilogx(list(found), [row[name] / unit for row in found.values()], "o-")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("chains in the set")
        axis.set_ylabel(label)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def table(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    rows = [
        (
            f"{count:,}",
            f"{found['peak_bytes'] / 1e6:.0f} MB",
            f"{found['data_s']:.2g} s",
            f"{found['first_step_s']:.2g} s",
            f"{found['input_wait_share']:.2%}",
        )
        for count, found in medians(result["rows"]).items()
    ]
    header = ("chains", "peak memory", "opening and planning", "start to first step", "waiting for input")
    environment = result["environment"]
    where = f"`{result['command']}` on {environment['device']}"
    return (
        f"{markdown_table(header, rows)}\n\n{where}: medians of {result['repeats']} starts of a small "
        f"ParToken at batch {result['batch_size']}, with chains of 60 residues on average and "
        f"{result['epochs_planned']} epochs planned, in one heap (`MALLOC_ARENA_MAX=1`). {result['note']}\n\n"
        "![memory, start-up and waiting](../figures/streaming.png)"
    )


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--chains", type=int, nargs="+", default=[2_000, 20_000, 200_000], help="Set sizes.")
    flags.add_argument("--repeats", type=int, default=3, help="Starts of every size.")
    flags.add_argument("--note", default="", help="What else there is to know about the machine.")
    flags.add_argument("--out", type=Path, default=RESULTS, help="The folder for the result.")
    args = flags.parse_args()
    rows = measure(args.chains, args.repeats)
    from partoken_jax.training.report import environment

    result = {
        "schema": "partoken.streaming/1",
        "command": shlex.join(["python", "-m", "experiments.streaming", *sys.argv[1:]]),
        "note": args.note,
        "environment": environment(),
        "chains": args.chains,
        "repeats": args.repeats,
        "allocator": ALLOCATOR,
        "batch_size": BATCH,
        "neighbours": NEIGHBOURS,
        "epochs_planned": EPOCHS,
        "rows": rows,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "streaming.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(rows, args.out / "streaming.png")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
