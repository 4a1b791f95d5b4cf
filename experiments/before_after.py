"""Has a change made training slower? Steps of two checkouts of this repository, taking turns on this machine.

    git worktree add ../before COMMIT
    python -m experiments.before_after --before ../before --json experiments/results/before_after.json

Each checkout runs in a process of its own, compiles the training steps of both models and then runs one step
whenever it is told to, so that a slow moment of the machine meets both. Ratios are taken pair by pair; which
of the two goes first alternates.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.compare.process import ALLOCATOR, python_path
from experiments.flags import Flags, count, output, run_script
from partoken_jax.tables import markdown_table
from partoken_jax.timing.measure import ratio, summary

ROOT = Path(__file__).parents[1]
MODELS = ("gvp", "partoken")

# Only names that every commit since the first timing has, or had.
WORKER = """
import json, os, sys, time
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import jax
try:
    from partoken_jax.timing_config import TimingConfig
except ImportError:
    from partoken_jax.config import TimingConfig
from partoken_jax.timing.batches import timing_data
from partoken_jax.timing.programs import build_program, train_config

calls = {}
for kind, size, residues in json.loads(sys.argv[1]):
    config = TimingConfig(batch_size=size, residues=residues)
    data = timing_data(config)
    program = build_program(train_config(config, data, kind), data.batch, "train_step")
    jax.block_until_ready(program.call())
    calls[kind, size] = program
told = {f"{kind} {size}": p.compiled.temp_bytes for (kind, size), p in calls.items()}
print(json.dumps(told), file=answers, flush=True)
for line in sys.stdin:
    kind, size = json.loads(line)
    start = time.perf_counter()
    jax.block_until_ready(calls[kind, size].call())
    print(time.perf_counter() - start, file=answers, flush=True)
"""


class Checkout:
    """A process that runs the steps of one checkout."""

    def __init__(self, root: Path, cases: list[tuple[str, int, int]]):
        environment = {**os.environ, **ALLOCATOR, "PYTHONPATH": python_path(str(root))}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(cases)],
            cwd=root, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.temp_bytes: dict[str, int] = json.loads(self._answer())
        """Temporary memory that XLA planned, by model and batch size."""

    def step(self, kind: str, size: int) -> float:
        """Seconds of one training step."""
        assert self.process.stdin is not None
        print(json.dumps([kind, size]), file=self.process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("error: a checkout could not run its steps; its message stands above")
        return line


def commit(root: Path) -> str:
    """Short name of the commit of a checkout, with a note where files were changed since."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty=, changed"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def compare(before: Path, sizes: list[int], residues: int, repeats: int) -> list[dict[str, Any]]:
    """A row for every model and batch size: times of both checkouts and their ratio, after over before."""
    cases = [(kind, size, residues) for size, kind in itertools.product(sizes, MODELS)]
    checkouts = {"before": Checkout(before, cases), "after": Checkout(ROOT, cases)}
    seconds: dict[tuple[str, int, str], list[float]] = {}
    with tqdm(total=repeats * len(cases), unit=" pairs", disable=None, leave=False) as bar:
        for turn in range(repeats):
            for kind, size, _ in cases:
                for name in ("before", "after") if turn % 2 else ("after", "before"):
                    seconds.setdefault((kind, size, name), []).append(checkouts[name].step(kind, size))
                bar.update()
    rows = []
    for kind, size, _ in cases:
        times = {name: summary(seconds[kind, size, name]) for name in checkouts}
        rows.append(
            {
                "model": kind,
                "batch_size": size,
                "residues": residues,
                **{f"{name}_ms": 1e3 * timing.median for name, timing in times.items()},
                "after_over_before": ratio(times["after"], times["before"]),
                **{f"{name}_temp_bytes": c.temp_bytes[f"{kind} {size}"] for name, c in checkouts.items()},
            }
        )
    return rows


def table(result: dict[str, Any]) -> str:
    """Every row's times and ratio."""
    rows = []
    for row in result["rows"]:
        found = row["after_over_before"]
        rows.append(
            (
                f"{row['model']}, {row['batch_size']} × {row['residues']}",
                f"{row['before_ms']:,.0f} ms",
                f"{row['after_ms']:,.0f} ms",
                f"{found['median']:.2f}",
                "{:.2f}–{:.2f}".format(*found["quartiles"]),
                found["pairs"],
            )
        )
    header = ("training step", f"`{result['before']}`", f"`{result['after']}`", "ratio", "quartiles", "pairs")
    where = f"{result['environment']['device']}, jax {result['environment']['jax']}"
    return f"{markdown_table(header, rows, 'lrrrrr')}\n\n`{result['command']}` ({where})."


def main() -> int:
    flags = Flags(prog="python -m experiments.before_after", description=__doc__)
    flags.formatter_class = argparse.RawDescriptionHelpFormatter
    flags.add_argument("--before", type=Path, required=True, help="A checkout of the commit to compare with.")
    flags.add_argument("--batch-sizes", type=count, nargs="+", default=[4, 16], help="Proteins per step.")
    flags.add_argument("--residues", type=count, default=300, help="Length of the synthetic proteins.")
    flags.add_argument("--repeats", type=count, default=15, help="Pairs of steps for every row.")
    flags.add_argument("--json", type=output, help="File for the results.")
    args = flags.parse_args()
    if not (args.before / "partoken_jax").is_dir():
        print(
            f"error: {args.before} is no checkout of partoken_jax; make one with git worktree",
            file=sys.stderr,
        )
        return 2
    rows = compare(args.before.resolve(), args.batch_sizes, args.residues, args.repeats)
    from partoken_jax.training.report import environment  # jax, after the timing

    sizes = " ".join(map(str, args.batch_sizes))
    result = {
        "schema": "partoken.before_after/1",
        "environment": environment(),
        "command": f"python -m experiments.before_after --before CHECKOUT --batch-sizes {sizes} "
        f"--residues {args.residues} --repeats {args.repeats} --json {args.json}",
        "before": commit(args.before),
        "after": commit(ROOT),
        "rows": rows,
    }
    for row in rows:
        found = row["after_over_before"]
        low, high = found["quartiles"]
        print(
            f"{row['model']:9} {row['batch_size']:3} x {row['residues']}: {row['before_ms']:.0f} ms before, "
            f"{row['after_ms']:.0f} ms after; ratio {found['median']:.3f} ({low:.3f} to {high:.3f})",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_script(main)
