"""What is quoted of the long runs, in one file.

    python -m experiments.learn_summary --runs runs/learn \\
        --baselines experiments/results/learn/baselines.json --json experiments/results/learn/summary.json

`tasks`: task → model ("gvp", "partoken", "forest") → means over seeds of the best checkpoint by validation,
with every seed's numbers. Accuracy and macro-F1 are of the `n` test proteins, with 95% intervals over their
`groups` of relatives. How clusters and codes are used is measured on validation (`*_share`, `coverage`), in
the scored epoch and in the last one (`*_last`). CATH classes are also read off runs on CATH architectures
("gvp-architectures", "partoken-architectures"), whose test proteins are those of the frequent architectures.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.finished_runs import (
    TASKS,
    USE,
    FinishedRun,
    mean_or_none,
    read_runs,
    task_of_forest,
    use_of_clusters,
)
from experiments.flags import Flags, output, run_script
from experiments.learn import COMPARED
from experiments.paired import intervals, number_of_groups
from partoken_jax.progress import say
from partoken_jax.tables import markdown_table
from partoken_jax.training.metrics import classification
from partoken_jax.training.predictions import StoredPredictions

MODELS = ("gvp", "partoken", "forest")
VARIANTS = {
    "gvp": ("gvp-recommended", "gvp-transferred"),
    "partoken": ("partoken-recommended", "partoken-transferred"),
}
"""Which variant stands for a model on a task: the first of these that has finished."""
READ_OFF = {
    "gvp-recommended": ("gvp-architectures", "gvp, read off its architectures"),
    "partoken-recommended": ("partoken-architectures", "partoken, read off its architectures"),
}
"""Variant on CATH architectures → the model on CATH class that is read off it, and what a table calls it."""
NAMES = {
    **{name: COMPARED[name] for _, *others in VARIANTS.values() for name in others},
    **dict(READ_OFF.values()),
}
"""What a table calls variants that are not the usual ones."""


def read_off(run: FinishedRun) -> FinishedRun:
    """A run on architectures as one on classes: a class is as probable as its architectures together."""
    of_architecture = np.array([name.partition(".")[0] for name in run.predictions.class_names])
    names, place = np.unique(of_architecture, return_inverse=True)
    probabilities = run.predictions.probabilities @ np.eye(len(names))[place]
    labels = np.where(run.predictions.labels < 0, -1, place[run.predictions.labels])
    predicted = probabilities.argmax(axis=1)
    scores = classification(labels, predicted, tuple(map(str, names)))
    report: Any = {**run.report, "test": {**run.report["test"], "classification": scores}}
    stored = StoredPredictions(run.predictions.names, labels, predicted, probabilities, names)
    return run._replace(
        task="cath-class", variant=READ_OFF[run.variant][0], report=report, predictions=stored
    )


def of_runs(runs: list[FinishedRun]) -> dict[str, Any]:
    """One model on one task: its runs with different seeds."""
    n = runs[0].test["proteins"]
    per_seed: list[dict[str, Any]] = [
        {
            "seed": run.seed,
            "accuracy": run.test["accuracy"],
            "macro_f1": run.test["macro_f1"],
            "best_epoch": run.report["best_epoch"],
            "epochs": len(run.records),
            "seconds": run.seconds,
            **use_of_clusters(run),
        }
        for run in runs
    ]
    accuracy_interval, macro_f1_interval = intervals([run.predictions for run in runs], runs[0].scheme)
    return {
        "variant": runs[0].variant,
        "accuracy": float(np.mean([row["accuracy"] for row in per_seed])),
        "accuracy_interval": accuracy_interval,
        "macro_f1": float(np.mean([row["macro_f1"] for row in per_seed])),
        "macro_f1_interval": macro_f1_interval,
        "n": n,
        "groups": number_of_groups(runs[0].predictions, runs[0].scheme),
        "seeds": len(runs),
        **{name: mean_or_none([row[name] for row in per_seed]) for name in USE},
        "parameters": runs[0].parameters,
        "seconds": float(np.mean([row["seconds"] for row in per_seed])),
        "per_seed": per_seed,
    }


def of_forest(row: dict[str, Any]) -> dict[str, Any]:
    """The forest's row of `experiments.baselines`, in the same fields."""
    scores = ("accuracy", "accuracy_interval", "macro_f1", "macro_f1_interval")
    same = (*scores, "n", "groups", "seeds")
    return {
        "variant": f"forest, {row['features']}",
        **{name: row[name] for name in same},
        "per_seed": [{name: seed[name] for name in ("accuracy", "macro_f1")} for seed in row["per_seed"]],
        **dict.fromkeys(USE),
    }


def first_finished(runs: Sequence[FinishedRun], task: str, variants: Sequence[str]) -> list[FinishedRun]:
    """The runs on a task of the first variant that has any; none where no variant has."""
    of_variants = ([run for run in runs if (run.task, run.variant) == (task, name)] for name in variants)
    return next(filter(None, of_variants), [])


def summary(runs: list[FinishedRun], baselines: list[dict[str, Any]]) -> dict[str, Any]:
    """Task → model → its numbers; what was not run is not there. The forest sees the backbone alone."""
    on_architectures = [run for run in runs if run.task == "cath-architecture" and run.variant in READ_OFF]
    runs = runs + [read_off(run) for run in on_architectures]
    variants = {**VARIANTS, **{name: (name,) for name, _ in READ_OFF.values()}}
    tasks: dict[str, Any] = {}
    for task in TASKS:
        models = {}
        for model, names in variants.items():
            if finished := first_finished(runs, task, names):
                models[model] = of_runs(finished)
        for row in baselines:
            if (task_of_forest(row), row["features"]) == (task, "backbone"):
                models["forest"] = of_forest(row)
        if models:
            tasks[task] = models
    return tasks


def table(tasks: dict[str, Any]) -> str:
    """The same as a Markdown table."""
    rows: list[tuple[object, ...]] = []
    for task, models in tasks.items():
        for model, mine in models.items():
            shares = ["" if mine[name] is None else f"{mine[name]:.1%}" for name in USE[:3]]
            scores = [
                f"{mine[name]:.3f} ({mine[f'{name}_interval'][0]:.3f} to {mine[f'{name}_interval'][1]:.3f})"
                for name in ("accuracy", "macro_f1")
            ]
            name = NAMES.get(mine["variant"], model)
            rows.append((task, name, mine["n"], mine["seeds"], *scores, *shares))
    header = ("task", "model", "n", "seeds", "accuracy", "macro-F1", "codes used", "perplexity", "coverage")
    return markdown_table(header, rows)


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--runs", type=Path, required=True, help="Folder of runs: TASK/VARIANT/seedN.")
    flags.add_argument("--baselines", type=Path, required=True, help="JSON of experiments.baselines.")
    flags.add_argument("--json", type=output, required=True, help="Where the results go.")
    args = flags.parse_args()
    runs, unfinished = read_runs(args.runs)
    for place in unfinished:
        say(f"{args.runs / place}: not finished, left out")
    tasks = summary(runs, json.loads(args.baselines.read_text())["rows"])
    command = " ".join(["python -m experiments.learn_summary", *sys.argv[1:]])
    args.json.write_text(json.dumps({"command": command, "tasks": tasks}, indent=1) + "\n")
    say(table(tasks))


if __name__ == "__main__":
    run_script(main)
