"""What saving and streaming cost a training step: blocks of steps of the same run, taking turns.

    python -m experiments.saving_cost [--rounds 9] [--json experiments/results/saving_cost.json]

Three ways to run the same steps of the published ParToken: from arrays in memory without a checkpoint; the
same with one checkpoint saved in the background in every block, far more often than a run saves; and without
a checkpoint from a prepared set on the disk.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.flags import Flags, run_script
from partoken_jax.config import CheckpointConfig, DataConfig, TrainConfig, to_dict
from partoken_jax.prepare import prepare
from partoken_jax.proteins.dataset import EMBEDDED
from partoken_jax.tables import markdown_table
from partoken_jax.training.checkpoints import CheckpointMeta, CheckpointWriter
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.data import RunData, load_run_data
from partoken_jax.training.epochs import SoFar, train_epoch
from partoken_jax.training.prefetch import prefetch
from partoken_jax.training.report import environment
from partoken_jax.training.schedules import epoch_settings
from partoken_jax.training.state import TrainState, initial_state
from partoken_jax.training.step import make_train_step

RESULT = Path(__file__).parent / "results" / "saving_cost.json"
BATCH, STEPS = 4, 8
NAMES = {
    "memory": "arrays in memory, no checkpoint",
    "saving": f"the same, one checkpoint every {STEPS} steps",
    "streaming": "prepared set on the disk, no checkpoint",
}


def measure(rounds: int, directory: Path) -> dict[str, list[float]]:
    """Seconds per step of every block, by way."""
    embedded = DataConfig(task="cath-class", batch_size=BATCH, max_shapes=1, max_train=STEPS * BATCH)
    prepare([str(EMBEDDED)], directory / "set")
    config = TrainConfig(data=embedded)
    sources = {name: load_run_data(config) for name in ("memory", "saving")}
    prepared = TrainConfig(data=DataConfig(**{**to_dict(embedded), "path": str(directory / "set")}))
    sources["streaming"] = load_run_data(prepared)
    graphdef, state = initial_state(config)
    step = make_train_step(graphdef, bypass_codebook=False)
    settings = epoch_settings(config, 1, 0, STEPS, has_codebook=True)
    keep = CheckpointConfig()
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    with CheckpointWriter(directory / "run", keep_best=keep.keep_best, keep_every=None) as writer:
        done = 0

        def save(state: TrainState, known: Callable[[], SoFar]) -> None:
            nonlocal done
            done += 1
            if done % STEPS == STEPS // 2:
                writer.save("last", state, _meta(config, sources["memory"], known()))

        for turn in range(rounds + 1):
            for name in NAMES if turn % 2 else reversed(NAMES):
                trained = train_epoch(
                    step,
                    state,
                    prefetch(sources[name].loaders["train"].epoch(0)),
                    settings,
                    num_proteins=STEPS * BATCH,
                    description=name,
                    quiet=True,
                    after_step=save if name == "saving" else None,
                )
                state = trained.state
                if turn:  # the first round compiles
                    times[name].append(trained.so_far["seconds"] / STEPS)
    return times


def _meta(config: TrainConfig, data: RunData, so_far: SoFar) -> CheckpointMeta:
    return CheckpointMeta(
        config=to_dict(config), class_names=list(data.class_names), fingerprint=data.fingerprint, epoch=0,
        so_far=so_far, stage=1, bypass_codebook=False, temperature=1.0, num_parameters=0, validation={},
        best=None,
    )  # fmt: skip


def ratios(times: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Of every other way to "memory", block by block of one round."""
    found = {}
    for name in NAMES:
        if name != "memory":
            pairs = np.array(times[name]) / np.array(times["memory"])
            low, middle, high = np.quantile(pairs, [0.25, 0.5, 0.75])
            found[name] = {"median": middle, "quartiles": [low, high], "pairs": len(pairs)}
    return found


def table(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    rows = []
    for name, words in NAMES.items():
        milliseconds = 1e3 * float(np.median(result["seconds_per_step"][name]))
        row: tuple[object, ...] = (words, f"{milliseconds:.0f} ms")
        if name in result["ratios"]:
            ratio = result["ratios"][name]
            row += (f"{ratio['median']:.2f}", "{:.2f} to {:.2f}".format(*ratio["quartiles"]))
        rows.append(row)
    header = ("training step of ParToken", "median", "over the first", "quartiles")
    step = float(np.median(result["seconds_per_step"]["memory"]))
    each = STEPS * step * (result["ratios"]["saving"]["median"] - 1)
    share = each / (60 * CheckpointConfig().every)
    return (
        f"{markdown_table(header, rows)}\n\n`{result['command']}` on {result['environment']['device']}: "
        f"batches of {BATCH}, {result['rounds']} rounds of blocks of {STEPS} steps. One checkpoint takes "
        f"{each:.2f} s from the steps beside it; one every {CheckpointConfig().every:g} minutes is "
        f"{share:.2%}."
    )


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--rounds", type=int, default=9, help="Blocks of every way, taking turns.")
    flags.add_argument("--json", type=Path, default=RESULT, help="File for the result.")
    args = flags.parse_args()
    use_compilation_cache()
    with tempfile.TemporaryDirectory() as directory:
        times = measure(args.rounds, Path(directory))
    result = {
        "schema": "partoken.saving_cost/1",
        "command": " ".join(["python -m experiments.saving_cost", *sys.argv[1:]]),
        "environment": {**environment(), "cores": os.cpu_count()},
        "rounds": args.rounds,
        "seconds_per_step": times,
        "ratios": ratios(times),
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result), flush=True)


if __name__ == "__main__":
    run_script(main)
