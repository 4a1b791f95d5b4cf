"""Does ParToken's representation justify its cost? The published timing analysis ends on this question.

    python -m experiments.does_it_pay --runs runs/learn --json experiments/results/learn/does_it_pay.json

reads the runs that `experiments.learn` makes and writes, beside the JSON, the tables and the verdict
(.md) and a figure (.png). Scores are compared over the same seeds and the same test proteins, after equally
many epochs, and after as much training time as the cheapest variant took. The words of the verdict follow
from the intervals, whichever way they fall.
"""

import json
import sys
from pathlib import Path
from typing import Any

from experiments.contrast import contrast
from experiments.does_it_pay_figure import draw
from experiments.does_it_pay_report import report, verdict
from experiments.finished_runs import (
    FinishedRun,
    best_within,
    mean_or_none,
    read_runs,
    step_times,
    task_of_forest,
    use_of_clusters,
)
from experiments.flags import Flags, output, run_script
from experiments.learn import COMPARED
from experiments.paired import intervals, number_of_groups, power_before
from partoken_jax.progress import say
from partoken_jax.proteins import DataError

CONTRASTS = (
    ("partoken-recommended", "gvp-recommended"),
    ("partoken-recommended", "partoken-whole"),
    ("partoken-recommended", "partoken-random"),
    ("partoken-scratch", "gvp-wide"),
    ("partoken-types", "gvp-types"),
    ("partoken-transferred", "gvp-transferred"),
    ("partoken-published", "gvp-published"),
    ("partoken-recommended", "partoken-scratch"),
    ("gvp-recommended", "gvp-scratch"),
    ("gvp-narrow", "gvp-scratch"),
    ("partoken-recommended", "partoken-published"),
    ("partoken-scratch", "partoken-published"),
    ("partoken-recommended", "partoken-published-pretrained"),
    ("gvp-recommended", "gvp-published-pretrained"),
    ("partoken-published-pretrained", "gvp-published-pretrained"),
    ("partoken-published-pretrained", "partoken-published"),
    ("gvp-published-pretrained", "gvp-published"),
    ("partoken-reseeded", "partoken-recommended"),
)
"""What is compared: the first minus the second."""


def analyse(runs: list[FinishedRun]) -> dict[str, Any]:
    """Task → its power, variants, contrasts and the training time of its cheapest variant. Raises DataError
    for variants that are not known, or runs of a task with different test proteins."""
    unknown = sorted({run.variant for run in runs} - COMPARED.keys())
    if unknown:
        raise DataError(f"unknown variants {', '.join(unknown)}; known are {', '.join(COMPARED)}")
    return {task: _task([run for run in runs if run.task == task]) for task in _in_order(runs)}


def _in_order(runs: list[FinishedRun]) -> list[str]:
    return list(dict.fromkeys(run.task for run in runs))


def _task(runs: list[FinishedRun]) -> dict[str, Any]:
    sizes = sorted({run.test["proteins"] for run in runs})
    if len(sizes) > 1:
        raise DataError(
            f"{runs[0].task}: runs have {' and '.join(map(str, sizes))} test proteins; compare runs of the "
            "same data alone"
        )
    by_variant = {name: [run for run in runs if run.variant == name] for name in COMPARED}
    by_variant = {name: mine for name, mine in by_variant.items() if mine}
    budget = min(max(run.seconds for run in mine) for mine in by_variant.values())
    contrasts = [
        found
        for first, second in CONTRASTS
        if (found := contrast(by_variant.get(first, []), by_variant.get(second, []), budget)) is not None
    ]
    # Those that two variants share; where nothing is compared, those that there are.
    shared = [len(found["seeds"]) for found in contrasts]
    seeds = max(shared or [len(mine) for mine in by_variant.values()])
    number = number_of_groups(runs[0].predictions, runs[0].scheme)
    return {
        "n": sizes[0],
        "groups": number,
        "seeds": seeds,
        "majority_share": runs[0].test["majority_share"],
        "power": power_before(number, seeds),
        "budget_seconds": budget,
        "variants": {name: _variant(mine, budget) for name, mine in by_variant.items()},
        "contrasts": contrasts,
    }


def _variant(runs: list[FinishedRun], budget: float) -> dict[str, Any]:
    """Means over the seeds of a variant, and every seed's numbers."""
    per_seed = [
        {
            "seed": run.seed,
            "accuracy": run.test["accuracy"],
            "macro_f1": run.test["macro_f1"],
            "validation_accuracy": run.report["validation"]["classification"]["accuracy"],
            "validation_accuracy_within_budget": best_within(run.records, budget),
            "validation_macro_f1_within_budget": best_within(run.records, budget, "macro_f1"),
            "best_epoch": run.report["best_epoch"],
            "seconds": run.seconds,
            **use_of_clusters(run),
        }
        for run in runs
    ]
    means = {
        name: mean_or_none(row[name] for row in per_seed)
        for name in per_seed[0]
        if name not in ("seed", "best_epoch")
    }
    return {
        **means,
        "accuracy_interval": intervals([run.predictions for run in runs], runs[0].scheme)[0],
        "codebook_size": runs[0].codebook_size,
        "parameters": runs[0].parameters,
        "epochs": sorted({len(run.records) for run in runs}),
        "devices": sorted({run.report["environment"]["device"] for run in runs}),
        "per_seed": per_seed,
    }


def forest_rows(path: Path | None) -> dict[str, dict[str, Any]]:
    """Task → what the random forest reaches on the backbone alone (experiments/baselines.py); empty without a
    file of them."""
    if path is None:
        return {}
    rows = json.loads(path.read_text())["rows"]
    chosen = [row for row in rows if row["features"] == "backbone"]
    return {
        task_of_forest(row): {name: row[name] for name in ("n", "accuracy", "macro_f1")} for row in chosen
    }


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--runs", type=Path, required=True, help="Folder of runs: TASK/VARIANT/seedN.")
    flags.add_argument("--json", type=output, required=True, help="Where the results go.")
    flags.add_argument("--baselines", type=Path, help="JSON of experiments.baselines, to show beside.")
    args = flags.parse_args()
    runs, unfinished = read_runs(args.runs)
    for place in unfinished:
        say(f"{args.runs / place}: not finished, left out")
    tasks = analyse(runs)
    words = verdict(tasks)
    results = {
        "schema": "partoken.does_it_pay/1",
        "command": " ".join(["python -m experiments.does_it_pay", *sys.argv[1:]]),
        "unfinished": unfinished,
        "tasks": tasks,
        "step_times": {
            task: {"command": found["command"], "device": found["environment"]["device"]}
            for task in tasks
            if (found := step_times(args.runs / task)) is not None
        },
        "forest": forest_rows(args.baselines),
        "verdict": words,
    }
    args.json.write_text(json.dumps(results, indent=1) + "\n")
    draw(results, args.json.with_suffix(".png"))
    args.json.with_suffix(".md").write_text(report(results, args.json.with_suffix(".png").name))
    say(words)


if __name__ == "__main__":
    run_script(main)
