"""How good are the models on superfamilies of which they have seen no labelled chain?

    python -m experiments.unseen_families --runs experiments/results/learn/runs \\
        --data experiments/data/pdb_chains.npz --json experiments/results/learn/unseen_families.json

The usual split keeps similar sequences apart, but not distant relatives. Here the test proteins of finished
runs are counted apart: those whose CATH superfamily is in the training split of their task, those where it is
not, and those of which it is not known. Only the random forest is trained (`pip install -e '.[baselines]'`).
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.baselines import SPLITS, TREES, Features, predictions
from experiments.does_it_pay_report import signed
from experiments.finished_runs import FinishedRun, read_runs
from experiments.flags import Flags, output, run_script
from experiments.learn_summary import VARIANTS, first_finished
from experiments.paired import as_json, difference, intervals, number_of_groups, protein_errors
from experiments.relatives import groups
from partoken_jax.progress import say
from partoken_jax.proteins import DataError, load_splits
from partoken_jax.tables import markdown_table
from partoken_jax.training.predictions import StoredPredictions

TASKS = ("cath-architecture", "ec-class")
GROUPS = {"all": "all", "seen": "in training", "unseen": "not in training", "unknown": "not known"}
"""Of a test protein's superfamily → what a table calls it."""
FOREST_SEEDS = 3
PAIRS = (("partoken", "gvp"), ("partoken", "forest"), ("gvp", "forest"))
NAMES = {"gvp": "GVP", "partoken": "ParToken", "forest": "forest"}


def where_seen(names: Sequence[str], training: Sequence[str], path: Path) -> np.ndarray:
    """str [P]: whether the superfamily of every protein in `names` is that of a chain in `training`."""
    family, there = groups(names, "superfamily", path), groups(training, "superfamily", path)
    return np.select([family < 0, np.isin(family, there)], ["unknown", "seen"], "unseen")


def one_group(predicted: Mapping[str, Sequence[StoredPredictions]], chosen: np.ndarray) -> dict[str, Any]:
    """Scores of the `chosen` proteins, bool [P], by all seeds of every model, and the differences between
    models; superfamilies are drawn as a whole."""
    side = {model: [_only(stored, chosen) for stored in mine] for model, mine in predicted.items()}
    right = {model: [float(np.mean(s.predicted == s.labels)) for s in mine] for model, mine in side.items()}
    differences = {}
    for first, second in PAIRS:
        if first in side and second in side:
            seeds = min(len(side[first]), len(side[second]))
            error, _ = protein_errors(side[first][:seeds], side[second][:seeds], "superfamily")
            each = [a - b for a, b in zip(right[first], right[second], strict=False)]
            differences[f"{first} - {second}"] = as_json(difference(each, error))
    one = next(iter(side.values()))[0]
    return {
        "n": len(one.labels),
        "superfamilies": number_of_groups(one, "superfamily"),
        "most_frequent": float(np.bincount(one.labels).max() / len(one.labels)),
        "models": {
            model: {
                "accuracy": float(np.mean(right[model])),
                "accuracy_interval": intervals(mine, "superfamily")[0],
                "per_seed": right[model],
            }
            for model, mine in side.items()
        },
        "differences": differences,
    }


def _only(stored: StoredPredictions, chosen: np.ndarray) -> StoredPredictions:
    return stored._replace(
        names=stored.names[chosen], labels=stored.labels[chosen], predicted=stored.predicted[chosen]
    )


def measure(runs: Sequence[FinishedRun], path: Path) -> dict[str, Any]:
    """Task → group → its numbers. Raises DataError for runs on other data."""
    tasks: dict[str, Any] = {}
    for task in TASKS:
        finished = {
            model: mine for model, names in VARIANTS.items() if (mine := first_finished(runs, task, names))
        }
        if not finished:
            continue
        datasets = load_splits(path, task=task, splits=SPLITS)
        names = list(datasets["test"].names)
        for run in (run for mine in finished.values() for run in mine):
            if run.predictions.names.tolist() != names:
                raise DataError(
                    f"{run.task}/{run.variant}/seed{run.seed}: its test proteins are not those of {path}; "
                    "give the file with which it was trained"
                )
        features = Features()
        x = {split: features.of(datasets[split], with_composition=False) for split in SPLITS}
        predicted = {model: [run.predictions for run in mine] for model, mine in finished.items()}
        predicted["forest"] = [predictions(datasets, x, seed) for seed in range(FOREST_SEEDS)]
        where = where_seen(names, datasets["train"].names, path)
        tasks[task] = {
            "variants": {model: mine[0].variant for model, mine in finished.items()},
            "seeds": {model: len(mine) for model, mine in predicted.items()},
            "groups": {
                name: one_group(predicted, chosen)
                for name in GROUPS
                if (chosen := (where == name) | (name == "all")).any()
            },
        }
    return tasks


def table(tasks: Mapping[str, Any]) -> str:
    """The accuracies as a Markdown table."""
    rows = []
    for task, found in tasks.items():
        for name, group in found["groups"].items():
            scores = [
                "" if model not in group["models"] else _score(group["models"][model]) for model in NAMES
            ]
            most = f"{group['most_frequent']:.3f}"
            rows.append((task, GROUPS[name], group["n"], group["superfamilies"], most, *scores))
    header = ("task", "superfamily", "n", "superfamilies", "most frequent class", *NAMES.values())
    return markdown_table(header, rows)


def _score(of_model: dict[str, Any]) -> str:
    low, high = of_model["accuracy_interval"]
    return f"{of_model['accuracy']:.3f} ({low:.3f} to {high:.3f})"


def differences(tasks: Mapping[str, Any]) -> str:
    """A row for every two models, over all test proteins and over those of superfamilies that are new."""
    rows = []
    for task, found in tasks.items():
        for pair in found["groups"]["all"]["differences"]:
            said = []
            for name in ("all", "unseen"):
                of = found["groups"][name]["differences"][pair]
                said += [signed(of), "yes" if of["told"] else "no"]
            rows.append((task, " − ".join(NAMES[model] for model in pair.split(" - ")), *said))
    return markdown_table(("task", "difference", "all", "told", GROUPS["unseen"], "told"), rows)


def text(tasks: Mapping[str, Any]) -> str:
    """Both tables, for a document."""
    return f"{table(tasks)}\n\n{differences(tasks)}"


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--runs", type=Path, required=True, help="Folder of runs: TASK/VARIANT/seedN.")
    flags.add_argument("--data", type=Path, required=True, help="The .npz file that they learned from.")
    flags.add_argument("--json", type=output, required=True, help="Where the results go.")
    args = flags.parse_args()
    runs, _ = read_runs(args.runs, TASKS)
    command = " ".join(["python -m experiments.unseen_families", *sys.argv[1:]])
    tasks = measure(runs, args.data)
    results = {"command": command, "trees": TREES, "tasks": tasks}
    args.json.write_text(json.dumps(results, indent=1) + "\n")
    say(text(tasks))


if __name__ == "__main__":
    run_script(main)
