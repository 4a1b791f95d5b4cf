"""Everything worth knowing about a GPU, in one command of at most nine minutes.

    python -m experiments.gpu_suite --out DIR [--quick] [--minutes 9]

Runs part after part, each in a process of its own, so that one that fails or runs out of memory costs nothing
else. Every part leaves DIR/PART.json; a part whose file is there is not run again, so the same command goes
on where it stopped when the time was not enough for all. DIR/suite.json says what ran, for how long, and what
did not. `--quick` tries the suite with a small model on small proteins.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from experiments.flags import Flags, run_script
from partoken_jax.config import ModelConfig
from partoken_jax.timing_config import TimingConfig, TuneConfig

ROOT = Path(__file__).parents[1]
CHAINS = ROOT / "experiments" / "data" / "pdb_chains.npz"
VECTORS = ROOT / "tests" / "golden"
QUICK_VECTOR = "case6_attention_fusion.npz"
Part = Callable[[bool, str], dict]
"""What a part measures, for a quick trial or for real; the command that it records comes second."""
KEEP_BACK = 5.0
"""Seconds of the time given that are left for writing the summary."""


def settings(batch_size: int, quick: bool, **changes: Any) -> TimingConfig:
    """EC-task batches; in a quick trial, four short synthetic proteins and a small model."""
    if quick:
        model = ModelConfig(node_hidden=(16, 4), edge_hidden=(8, 1), num_layers=1)
        small = {"batch_size": 4, "residues": 40, "neighbours": 8, "repeats": 2, "epoch_batches": 2}
        return TimingConfig(model=model, **{**changes, **small})
    return TimingConfig(batch_size=batch_size, path=str(CHAINS), **changes)


def timing(batch_size: int, **changes: Any) -> Part:
    """Measurements at one batch size."""

    def part(quick: bool, command: str) -> dict:
        from partoken_jax.timing import analyse

        return analyse(settings(batch_size, quick, **changes), command=command)

    return part


def sweep(name: str) -> Part:
    """One sweep at batch 64."""

    def part(quick: bool, command: str) -> dict:
        from partoken_jax.timing import run_sweep, sweeps

        if quick:
            small = {"BATCH_SIZES": (2, 4), "CLUSTERS": (5, 2), "HOPS": (1,)}
            vars(sweeps).update(small)
        return {"environment": _environment(command), **run_sweep(name, settings(64, quick))}

    return part


def tuning(quick: bool, command: str) -> dict:
    """Every form of the training step at batch 64: whether it is right on this device, and how fast. What is
    found is not kept: that is for `partoken tune`."""
    from partoken_jax.timing.tune import tune

    of_trial = settings(64, quick)
    config = TuneConfig(batch_size=64)
    if quick:
        names = ("batch_size", "residues", "neighbours", "repeats", "model")
        config = TuneConfig(**{name: getattr(of_trial, name) for name in names})
    return tune(config, command=command).result


def fused(quick: bool, command: str) -> dict:
    """The experimental kernels of a conv layer: whether they are right on this device, and how fast."""
    from experiments.fused_on_gpu import compare

    return {"environment": _environment(command), **compare(1 if quick else 64, 2 if quick else 20)}


def precision_accuracy(quick: bool, command: str) -> dict:
    """Errors and training at every precision."""
    from experiments.precision import compare

    return {"environment": _environment(command), **compare(settings(16, quick), 2 if quick else 100)}


def parity(quick: bool, command: str) -> dict:
    """The golden vectors; in a quick trial one of them, because most of their time is compilation."""
    from experiments.parity.__main__ import run
    from experiments.parity.compare import Report

    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        if quick:
            shutil.copy(VECTORS / QUICK_VECTOR, folder)
        if not run(Path(folder) if quick else VECTORS, report):
            raise SystemExit(f"error: {VECTORS} holds no vectors")
    return report.result(_environment(command))


def pytorch(quick: bool, command: str) -> dict:
    """Both models against PyTorch."""
    from experiments.compare.comparison import compare_frameworks
    from experiments.compare.settings import Batches, CompareConfig, Measurement, Subjects

    variants = ("torch_loops", "torch_vectorised", "jax_fast")
    batches = Batches((2,), residues=30, neighbours=8) if quick else Batches((64,))
    config = CompareConfig(
        Subjects(variants=variants, small=quick), batches, Measurement(repeats=2 if quick else 10)
    )
    return compare_frameworks(config, command=command)


def _environment(command: str) -> dict[str, str]:
    from partoken_jax.training.report import environment

    return {**environment(), "command": command}


PARTS: dict[str, Part] = {
    "timing64": timing(64, passes=("forward", "forward_backward", "train_step"), gap=False),
    "tune64": tuning,
    "fused64": fused,
    "pytorch": pytorch,
    "backward": sweep("backward"),
    "precision": sweep("precision"),
    "epoch64": timing(64, passes=("epoch",)),
    "parity": parity,
    "timing128": timing(128, passes=("train_step",), gap=False),
    "gap64": timing(64, passes=("train_step",)),
    "plain": sweep("plain"),
    "precision_accuracy": precision_accuracy,
    "rematerialisation": sweep("rematerialisation"),
    "batch": sweep("batch"),
    "clusters": sweep("clusters"),
    "components64": timing(64, passes=("train_step",), gap=False),
}
"""In the order of their worth."""

FLAGS = {"components64": "--xla_gpu_enable_command_buffer="}
"""XLA's flags of a part: the profiler names no kernel of a program that runs as CUDA graphs, so where the
time goes is measured without them, and how long a step takes with them."""

NEEDS = {"pytorch": ("torch", "torch_geometric")}
"""Parts that need packages which this library does not."""


def run_parts(
    out: Path,
    quick: bool,
    minutes: float,
    *,
    parts: Iterable[str] = tuple(PARTS),
    needs: Mapping[str, Sequence[str]] = NEEDS,
    run: Callable[[str, Path, bool, float], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Runs what is missing, as far as the time goes; returns what suite.json says.

    Args:
      parts: names of parts, in the order of their worth.
      needs: packages that a part needs, by its name; without them it is left out.
      run: runs one part (`run_part`).
    """
    run = run or run_part
    end = time.monotonic() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    done: dict[str, Any] = {}
    summary = {"schema": "partoken.suite/1", "quick": quick, "parts": done}
    for name in parts:
        target = out / f"{name}.json"
        left = end - time.monotonic() - KEEP_BACK
        if target.is_file() and json.loads(target.read_text())["quick"] == quick:
            done[name] = {"status": "was there"}
        elif missing := [package for package in needs.get(name, ()) if find_spec(package) is None]:
            done[name] = {"status": f"left out: {' and '.join(missing)} not installed"}
        elif left <= 0:
            done[name] = {"status": "no time left; run the same command again"}
        else:
            print(f"{name} ...", flush=True)
            done[name] = run(name, out, quick, left)
        print(f"{name}: {done[name]['status']}", flush=True)
        (out / "suite.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def run_part(name: str, out: Path, quick: bool, seconds: float) -> dict[str, Any]:
    """Runs one part in a process of its own, for at most so many seconds; returns its status."""
    command = [sys.executable, "-m", "experiments.gpu_suite", "--out", str(out), "--part", name]
    env = dict(os.environ)
    if name in FLAGS:
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {FLAGS[name]}"
    start = time.monotonic()
    log = out / f"{name}.log"
    with log.open("w") as file:
        try:
            code = subprocess.run(
                command + ["--quick"] * quick, cwd=ROOT, env=env, timeout=seconds, stdout=file, stderr=file
            ).returncode
        except subprocess.TimeoutExpired:
            return {"status": f"stopped after {seconds:.0f} s for lack of time; run the same command again"}
    taken = round(time.monotonic() - start, 1)
    if code:
        last = (log.read_text().strip().splitlines() or ["no output"])[-1]
        return {"status": f"failed: {last} ({log.name})", "seconds": taken}
    left_out = json.loads((out / f"{name}.json").read_text()).get("left_out")
    return {"status": f"left out: {left_out}" if left_out else "ok", "seconds": taken}


def main() -> int:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--out", type=Path, required=True, help="The directory for the results.")
    flags.add_argument("--quick", action="store_true", help="Try the suite out on small proteins.")
    flags.add_argument("--minutes", type=float, default=9.0, help="Minutes that all parts together may take.")
    flags.add_argument("--part", choices=PARTS, help="Run this part alone, in this process.")
    args = flags.parse_args()
    out = args.out.resolve()
    if args.part is None:
        summary = run_parts(out, args.quick, args.minutes)
        return int(any(part["status"].startswith("failed") for part in summary["parts"].values()))
    command = f"python -m experiments.gpu_suite --out {args.out} --part {args.part}" + " --quick" * args.quick
    result = {"quick": args.quick, **PARTS[args.part](args.quick, command)}
    # Whole or not at all: a file that is there counts as done.
    partial = out / f"{args.part}.json.partial"
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(out / f"{args.part}.json")
    if not result.get("holds", True):
        print(f"what {args.part} compares is not the same", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    run_script(main)
