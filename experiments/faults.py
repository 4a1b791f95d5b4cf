"""Kills a training run with `kill -9`, again and again, and compares what comes out with a run left in peace.

    python -m experiments.faults --kills 50 --json experiments/results/faults.json

Every run is started by the same command, `partoken train --config ... --run-dir ... --resume`, as a job
queue would. The moments of the kills are drawn at random within phases, in turns: while Python starts and
imports, while a program is compiled (without the compilation cache), during steps, while a checkpoint is
written, and around the change of stages. A run that has come to its end is compared: all numbers of
metrics.jsonl and every bit of its checkpoints.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.flags import Flags, run_script
from partoken_jax.config import (
    CheckpointConfig,
    CodebookConfig,
    DataConfig,
    ModelConfig,
    PartitionerConfig,
    StageConfig,
    TrainConfig,
    save_yaml,
)
from partoken_jax.tables import markdown_table
from partoken_jax.training.checkpoints import restore
from partoken_jax.training.records import EpochRecord, read_records
from partoken_jax.training.report import environment

PHASES = ("import", "compile", "step", "saving", "stage change")
TIMES = (
    *("seconds", "input_seconds", "validation_seconds", "step_ms", "steps_timed", "proteins_per_second"),
    "compilations",
)
"""Fields of a record that say how long something took, and not what came out."""
EVERY_MINUTES = 0.03


def small_config() -> TrainConfig:
    """A run of 7 epochs of 16 steps that takes a quarter of a minute, start-up and compilation apart."""
    return TrainConfig(
        model=ModelConfig(
            node_hidden=(32, 8),
            edge_hidden=(16, 1),
            num_layers=2,
            partitioner=PartitionerConfig(hidden=16, max_clusters=3, cluster_size_max=10),
            codebook=CodebookConfig(size=32),
        ),
        data=DataConfig(
            task="cath-class",
            neighbours=16,
            batch_size=4,
            max_shapes=1,
            max_length=120,
            too_long="crop",
            max_train=64,
            max_eval=16,
        ),
        stage0=StageConfig(epochs=3, warmup_epochs=1),
        stage1=StageConfig(epochs=4, warmup_epochs=1),
        freeze_codebook_epochs=1,
        reseed_dead_codes=True,
        checkpoint=CheckpointConfig(every=EVERY_MINUTES, keep_best=2),
    )


class Training:
    """`partoken train --resume` as a process of its own, with its lines as they come."""

    def __init__(self, settings: Path, run_dir: Path, *, cached: bool = True):
        self.run_dir = run_dir
        self.log = run_dir.with_suffix(".log")
        self.start = time.monotonic()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "partoken_jax.cli", "train", "--resume"),
                    *("--config", str(settings), "--run-dir", str(run_dir)),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": str(cached).lower()},
                start_new_session=True,
            )

    def said(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text()

    def wait_until(self, condition, seconds: float = 600.0) -> bool:
        """Whether the condition came true before the process ended."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.002)
        return False

    def end(self, number: int) -> int | None:
        """Sends a signal to the process and all that it started; its exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        return self.process.wait(60)

    def checkpoints(self, *, whole: bool) -> list[Path]:
        """The newest checkpoints, finished or under way."""
        found = (self.run_dir / "checkpoints" / "last").glob("*")
        return [p for p in found if (p / "commit_success.txt").exists() == whole]


def kill_in(training: Training, phase: str, chance: random.Random) -> bool:
    """Waits for a moment of the phase and kills. Whether there was such a moment."""
    if phase == "import":
        time.sleep(chance.uniform(0.0, 4.0))
    elif phase == "compile":
        if not training.wait_until(lambda: "parameters" in training.said()):
            return False
        time.sleep(chance.uniform(0.0, 5.0))
    elif phase == "step":
        before = {path.name for path in training.checkpoints(whole=True)}
        if not training.wait_until(lambda: {p.name for p in training.checkpoints(whole=True)} - before):
            return False
        time.sleep(chance.uniform(0.0, 3.0))
    elif phase == "saving":
        before = {path.name for path in training.checkpoints(whole=False)}
        if not training.wait_until(lambda: {p.name for p in training.checkpoints(whole=False)} - before):
            return False
        time.sleep(chance.uniform(0.0, 0.15))
    else:
        change = ("epoch   3/7", "stage 1: codebook")
        if not training.wait_until(lambda: any(line in training.said() for line in change)):
            return False
        time.sleep(chance.uniform(0.0, 1.5))
    if training.process.poll() is not None:
        return False
    return training.end(signal.SIGKILL) == -signal.SIGKILL


def numbers(run_dir: Path) -> list[dict[str, Any]]:
    """What a run computed, without how long it took."""
    records: list[EpochRecord] = read_records(run_dir / "metrics.jsonl")
    return [{name: value for name, value in r.items() if name not in TIMES} for r in records]


def differences(expected: Path, found: Path) -> list[str]:
    """In what two finished runs differ; empty if in nothing but times."""
    told = [
        f"epoch {a['epoch']}: {name}"
        for a, b in zip(numbers(expected), numbers(found), strict=False)
        for name in a
        if a[name] != b[name]
    ]
    if len(numbers(expected)) != len(numbers(found)):
        told.append(f"{len(numbers(found))} epochs instead of {len(numbers(expected))}")
    for which in ("best", "last"):
        first, second = restore(expected, which), restore(found, which)  # type: ignore[arg-type]
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(first.state), jax.tree.leaves(second.state), strict=True
        ):
            if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            if not np.array_equal(a, b):
                told.append(f"{which}: {jax.tree_util.keystr(path)}")
        if first.meta["epoch"] != second.meta["epoch"]:
            told.append(f"{which}: epoch {second.meta['epoch']} instead of {first.meta['epoch']}")
    return told


def fault_runs(directory: Path, kills: int, seed: int) -> Iterator[dict[str, Any]]:
    """Runs with kills until there were enough of them; what happened in each."""
    settings = directory / "settings.yaml"
    save_yaml(small_config(), settings)
    straight = Training(settings, directory / "straight")
    if straight.process.wait() != 0:
        raise RuntimeError(f"the run without kills failed:\n{straight.said()}")
    chance = random.Random(seed)
    done, turn = 0, 0
    while done < kills:
        run_dir = directory / f"run{done}"
        struck: list[dict[str, Any]] = []
        while True:
            phase = PHASES[turn % len(PHASES)]
            turn += 1
            training = Training(settings, run_dir, cached=phase != "compile")
            if done < kills and kill_in(training, phase, chance):
                seconds = time.monotonic() - training.start
                whole = training.checkpoints(whole=True)
                newest = max((path.stat().st_mtime for path in whole), default=None)
                lines = training.said().splitlines()
                struck.append(
                    {
                        "phase": phase,
                        "seconds_after_start": round(seconds, 2),
                        "seconds_since_checkpoint": None
                        if newest is None
                        else round(time.time() - newest, 2),
                        "last_line": lines[-1].replace(str(directory), "DIR") if lines else "",
                    }
                )
                done += 1
                print(f"{done:3} of {kills}: {phase}, after {seconds:.1f} s", flush=True)
                continue
            code = training.process.wait()
            if code != 0:
                raise RuntimeError(f"{run_dir} could not go on (exit code {code}):\n{training.said()}")
            break
        told = differences(directory / "straight", run_dir)
        print(f"run with {len(struck)} kills: {'; '.join(told) or 'the same to the bit'}", flush=True)
        yield {"kills": struck, "differences": told}


def table(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    kills = [kill for run in result["runs"] for kill in run["kills"]]
    rows = []
    for phase in PHASES:
        seconds = [kill["seconds_after_start"] for kill in kills if kill["phase"] == phase]
        rows.append((phase, len(seconds), f"{min(seconds):.1f} to {max(seconds):.1f} s" if seconds else None))
    runs, wrong = len(result["runs"]), result["runs_with_differences"]
    return (
        f"{markdown_table(('killed during', 'kills', 'after the start'), rows)}\n\n"
        f"`{result['command']}` on {result['environment']['device']}: {len(kills)} kills in {runs} runs of "
        "ParToken through both stages, each compared with a run left in peace: all losses and scores of "
        f"every epoch, every bit of the checkpoints. Runs that differ in anything: {wrong}. A checkpoint "
        f"was saved every {result['checkpoint_every_seconds']:.1f} s."
    )


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--kills", type=int, default=50, help="How often to kill.")
    flags.add_argument("--seed", type=int, default=0, help="Draws the moments.")
    flags.add_argument("--json", type=Path, help="File for the result.")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(name) / "cache")
        runs = list(fault_runs(Path(name), args.kills, args.seed))
    every = [kill for run in runs for kill in run["kills"]]
    result = {
        "schema": "partoken.faults/1",
        "command": " ".join(["python -m experiments.faults", *sys.argv[1:]]),
        "environment": {**environment(), "cores": os.cpu_count()},
        "checkpoint_every_seconds": 60 * EVERY_MINUTES,
        "kills": len(every),
        "kills_by_phase": {phase: sum(kill["phase"] == phase for kill in every) for phase in PHASES},
        "runs": runs,
        "runs_with_differences": sum(bool(run["differences"]) for run in runs),
    }
    print(
        f"{len(every)} kills in {len(runs)} runs, {result['runs_with_differences']} of them with differences"
    )
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
