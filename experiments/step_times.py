"""How long a training step of every compared variant takes: the same machine, the same batch, taking turns.

    python -m experiments.step_times --task short-chains --precision float32 --root runs/learn

Runs that share a busy machine say little of what they cost. With the file that this writes,
ROOT/TASK/step_times.json, `experiments.does_it_pay` counts the steps of a run by times that were measured
together, while nothing else ran. Weights are random: a step takes as long with any.
"""

import json
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments.flags import Flags, count, run_script
from experiments.learn import COMPARED, RECIPES, TASKS, job
from partoken_jax.config import TrainConfig
from partoken_jax.files import write_whole
from partoken_jax.model_config import Precision
from partoken_jax.progress import progress, say
from partoken_jax.tables import markdown_table
from partoken_jax.timing.measure import interleave, ratio
from partoken_jax.timing.programs import train_step_program
from partoken_jax.training.data import load_run_data
from partoken_jax.training.report import environment
from partoken_jax.training.run import bypass_codebook, settings_of
from partoken_jax.training.state import initial_state

FILE = "step_times.json"
BASE = "gvp-recommended"
"""What the others are compared with, in stage 1."""


def first_epoch(config: TrainConfig, stage: int) -> int:
    """The first epoch of a stage, counted from 0 over both."""
    return 0 if stage == 0 else config.stage0.epochs


def program(config: TrainConfig, stage: int) -> str:
    """All that decides how long a step of a stage takes: variants that differ in their learning rate or their
    start have one program, and a stage without a codebook the same as the other."""
    losses = (config.label_smoothing, config.class_balance, config.weight_decay, config.clip_norm)
    bypass = bypass_codebook(config, first_epoch(config, stage))
    return repr((config.model, config.data, losses, config.freeze_encoder, bypass))


def compiled_step(config: TrainConfig, stage: int) -> Callable[[], Any]:
    """Runs the training step of a stage once, on the first batch of the run's first epoch."""
    epoch = first_epoch(config, stage)
    data = load_run_data(config)
    batch = jax.device_put(next(iter(data.loaders["train"].epoch(0))))
    graphdef, state = initial_state(config)
    settings = settings_of(config, data, epoch)[0]
    bypass = bypass_codebook(config, epoch)
    options = {"bypass_codebook": bypass, "freeze_encoder": config.freeze_encoder}
    return train_step_program(graphdef, state, batch, settings, **options).call


def measure(
    root: Path, task: str, recipes: list[str], precision: Precision, repeats: int
) -> list[dict[str, Any]]:
    """A row for every variant and stage; those with the same program have the same times."""
    calls: dict[str, Callable[[], Any]] = {}
    programs: dict[tuple[str, int], str] = {}
    for recipe in recipes:
        config = job(root, task, recipe, 0, precision).config
        for stage in (0, 1):
            programs[recipe, stage] = name = program(config, stage)
            if name not in calls:
                say(f"compiling stage {stage} of {recipe}")
                calls[name] = compiled_step(config, stage)
    with progress(repeats * len(calls), "timing", unit="steps") as advance:
        found = interleave(calls, repeats=repeats, progress=lambda: advance(1))
    base = found[programs[BASE, 1]]
    return [
        {
            "variant": recipe,
            "stage": stage,
            "ms": 1e3 * found[name].median,
            "quartiles_ms": [1e3 * q for q in found[name].quartiles],
            "over_gvp": ratio(found[name], base),
        }
        for (recipe, stage), name in programs.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Every row."""
    cells = [
        (
            COMPARED[row["variant"]],
            row["stage"],
            f"{row['ms']:,.0f} ms",
            f"{row['over_gvp']['median']:.2f}",
            "{:.2f} to {:.2f}".format(*row["over_gvp"]["quartiles"]),
        )
        for row in rows
    ]
    return markdown_table(("training step", "stage", "median", f"over {COMPARED[BASE]}", "quartiles"), cells)


def main() -> None:
    flags = Flags(prog="python -m experiments.step_times", description=__doc__.splitlines()[0])
    flags.add_argument("--root", type=Path, default=Path("runs/learn"), help="Where the runs are.")
    flags.add_argument("--task", choices=TASKS, required=True)
    flags.add_argument("--recipes", nargs="+", choices=[r for r in RECIPES if r in COMPARED], default=[BASE])
    flags.add_argument("--precision", choices=typing.get_args(Precision), default="float32")
    flags.add_argument("--repeats", type=count, default=9, help="Steps of each.")
    args = flags.parse_args()
    recipes = list(dict.fromkeys([BASE, *args.recipes]))
    rows = measure(args.root.resolve(), args.task, recipes, args.precision, args.repeats)
    result = {
        "schema": "partoken.step_times/1",
        "command": " ".join(["python -m experiments.step_times", *sys.argv[1:]]),
        "environment": environment(),
        "repeats": args.repeats,
        "rows": rows,
    }
    path = args.root / args.task / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(result, indent=1) + "\n")
    say(table(rows))


if __name__ == "__main__":
    run_script(main)
