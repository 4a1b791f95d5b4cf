"""How good are the models where no chain of a protein's superfamily was in the training split of their task?

    python -m experiments.unseen_families --runs experiments/results/learn/runs \\
        --baselines experiments/results/learn/baselines.json \\
        --json experiments/results/learn/unseen_families.json

The usual split keeps similar sequences apart, but not distant relatives. Here the test proteins of finished
runs are counted apart: those whose CATH superfamily is in the training split of their task, those where it is
not, and those of which it is not known. Nothing is trained. Intervals draw groups as a whole that sequences
and superfamilies connect (experiments/relatives.py). Two limits are counted, too: superfamilies that the
encoder of a run had met before, with another task, and test chains of the split by superfamily that sequences
connect with training.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.does_it_pay_report import emphasised, listed
from experiments.finished_runs import FinishedRun, read_runs
from experiments.flags import Flags, output, run_script
from experiments.learn_summary import VARIANTS, first_finished
from experiments.paired import as_json, difference, intervals, number_of_groups, protein_errors
from experiments.relatives import DATA, groups, superfamilies
from experiments.timing_tables import wrapped
from partoken_jax.progress import say
from partoken_jax.proteins import DataError, load_splits
from partoken_jax.tables import markdown_table
from partoken_jax.training.metrics import classification
from partoken_jax.training.predictions import StoredPredictions

TASKS = ("cath-architecture", "cath-class", "ec-class")
GROUPS = {"all": "all", "seen": "in training", "unseen": "not in training", "unknown": "not known"}
"""Of a test protein's superfamily → what a table calls it."""
CONSTANT = "constant"
"""Answers the class that is most frequent in training, whatever the protein."""
PAIRS = (("partoken", "gvp"), ("partoken", "forest"), ("gvp", "forest"), ("partoken", CONSTANT))
NAMES = {"gvp": "GVP", "partoken": "ParToken", "forest": "forest", CONSTANT: "most frequent class"}
SCHEME = "superfamily"

Predicted = Mapping[str, Mapping[int, StoredPredictions]]
"""Model → seed → what it says of the test split."""


def where_seen(names: Sequence[str], training: Sequence[str], path: Path = DATA) -> np.ndarray:
    """str [P]: whether the superfamily of every protein in `names` is that of a chain in `training`."""
    family, there = superfamilies(names, path), superfamilies(training, path)
    return np.select([family < 0, np.isin(family, there)], ["unknown", "seen"], "unseen")


def met_before(runs: Sequence[FinishedRun], names: Sequence[str]) -> dict[str, Any] | None:
    """The other task of the run or model that the weights started from, and how many of the proteins in
    `names` have a superfamily of its training split; None where there was none. What that one had started
    from is not followed."""
    start = Path(runs[0].report["config"]["init_from"] or "").parts[-3:]
    task = next((part for part in start if part in TASKS and part != runs[0].task), None)
    if task is None:
        return None
    training = load_splits(DATA, task=task, splits=("train",))["train"]
    return {"task": task, "met": int((where_seen(names, training.names) == "seen").sum())}


def connected(task: str) -> dict[str, int]:
    """How many test chains of the split by superfamily are in one group by sequence with one for training."""
    splits = load_splits(DATA, task=task, splits=("train", "test"), split_scheme="superfamily")
    size = len(splits["test"])
    group = groups([*splits["test"].names, *splits["train"].names])
    return {"n": size, "connected": int(np.isin(group[:size], group[size:]).sum())}


def one_group(predicted: Predicted, chosen: np.ndarray) -> dict[str, Any]:
    """Scores of the `chosen` proteins, bool [P], by all seeds of every model, and the differences between
    models over the seeds that both have."""
    side = {
        model: {seed: _only(stored, chosen) for seed, stored in mine.items()}
        for model, mine in predicted.items()
    }
    scores = {model: {seed: _scores(stored) for seed, stored in mine.items()} for model, mine in side.items()}
    differences = {}
    for first, second in PAIRS:
        if first not in side or second not in side:
            continue
        seeds = sorted(side[first].keys() & side[second].keys())
        mine, theirs = ([side[model][seed] for seed in seeds] for model in (first, second))
        errors = protein_errors(mine, theirs, SCHEME)
        differences[f"{first} - {second}"] = {
            name: as_json(
                difference([scores[first][seed][name] - scores[second][seed][name] for seed in seeds], error)
            )
            for name, error in zip(("accuracy", "macro_f1"), errors, strict=True)
        }
    one = next(iter(next(iter(side.values())).values()))
    return {
        "n": len(one.labels),
        "groups": number_of_groups(one, SCHEME),
        "models": {
            model: {
                "accuracy": float(np.mean([score["accuracy"] for score in scores[model].values()])),
                "accuracy_interval": intervals(list(mine.values()), SCHEME)[0],
                "per_seed": [score["accuracy"] for score in scores[model].values()],
            }
            for model, mine in side.items()
        },
        "differences": differences,
    }


def _only(stored: StoredPredictions, chosen: np.ndarray) -> StoredPredictions:
    names, labels, predicted = (array[chosen] for array in stored[:3])
    return StoredPredictions(names, labels, predicted, np.zeros((0, 0), np.float32), stored.class_names)


def _scores(stored: StoredPredictions) -> Any:
    return classification(stored.labels, stored.predicted, tuple(stored.class_names.tolist()))


def forest(
    rows: Sequence[dict[str, Any]], task: str, test: StoredPredictions
) -> dict[int, StoredPredictions]:
    """Seed → what the forest on the backbone alone says of the test split of a run. Raises DataError without
    a forest, or for one on other proteins."""
    of = (task, "identity", "backbone")
    row = next((row for row in rows if (row["task"], row["split_scheme"], row["features"]) == of), None)
    if row is None:
        raise DataError(f"there is no forest of {task} on the backbone; make baselines.json again")
    found = {}
    for seed, mine in enumerate(row["per_seed"]):
        predicted = np.array(mine.get("predicted", ()))
        if len(predicted) != len(test.labels) or np.mean(predicted == test.labels) != mine["accuracy"]:
            raise DataError(
                f"the forest of {task} is of other proteins than the runs; make baselines.json again"
            )
        found[seed] = test._replace(predicted=predicted)
    return found


def measure(runs: Sequence[FinishedRun], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Task → group → its numbers; `rows` are those of `experiments.baselines`. Raises DataError for runs on
    other data than pdb_chains.npz."""
    tasks: dict[str, Any] = {}
    for task in TASKS:
        finished = {
            model: mine for model, names in VARIANTS.items() if (mine := first_finished(runs, task, names))
        }
        if not finished:
            continue
        datasets = load_splits(DATA, task=task, splits=("train", "test"))
        names = list(datasets["test"].names)
        for run in (run for mine in finished.values() for run in mine):
            if run.predictions.names.tolist() != names:
                raise DataError(
                    f"{run.task}/{run.variant}/seed{run.seed}: its test proteins are not those of "
                    f"{DATA.name}; only runs on that file can be counted"
                )
        predicted = {m: {run.seed: run.predictions for run in mine} for m, mine in finished.items()}
        test = next(iter(finished.values()))[0].predictions
        predicted["forest"] = forest(rows, task, test)
        most = np.full_like(test.predicted, datasets["train"].class_counts().argmax())
        predicted[CONSTANT] = dict.fromkeys(predicted["forest"], test._replace(predicted=most))
        training = list(datasets["train"].names)
        where = where_seen(names, training)
        unseen = [name for name, of in zip(names, where, strict=True) if of == "unseen"]
        tasks[task] = {
            "variants": {model: mine[0].variant for model, mine in finished.items()},
            "seeds": {model: len(mine) for model, mine in predicted.items() if model != CONSTANT},
            "training": {"n": len(training), "known": int((superfamilies(training) >= 0).sum())},
            "met_before": {model: met_before(mine, unseen) for model, mine in finished.items()},
            "superfamily_split": connected(task),
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
            rows.append((task, GROUPS[name], group["n"], group["groups"], *scores))
    header = ("task", "superfamily", "n", "groups", *NAMES.values())
    return markdown_table(header, rows)


def _score(of_model: dict[str, Any]) -> str:
    low, high = of_model["accuracy_interval"]
    return f"{of_model['accuracy']:.3f} ({low:.3f} to {high:.3f})"


def differences(tasks: Mapping[str, Any]) -> str:
    """A row for every two models, over all test proteins and over those of superfamilies that are new."""
    rows = []
    for task, found in tasks.items():
        for pair in found["groups"]["all"]["differences"]:
            whole, new = (found["groups"][name]["differences"][pair] for name in ("all", "unseen"))
            said = map(emphasised, (whole["accuracy"], whole["macro_f1"], new["accuracy"]))
            rows.append((task, " − ".join(NAMES[model] for model in pair.split(" - ")), *said))
    header = ("task", "difference", "accuracy, all", "macro-F1, all", f"accuracy, {GROUPS['unseen']}")
    return markdown_table(header, rows)


def text(tasks: Mapping[str, Any]) -> str:
    """Both tables, and what the encoders had met before, for a document."""
    return "\n\n".join([table(tasks), differences(tasks), *encoders(tasks)])


def encoders(tasks: Mapping[str, Any]) -> list[str]:
    """What the encoders of models had met before, a line for every task and number."""
    lines = []
    for task, found in tasks.items():
        models: dict[tuple[str, int], list[str]] = {}
        for model, before in found["met_before"].items():
            if before is not None:
                models.setdefault((before["task"], before["met"]), []).append(NAMES[model])
        for (learned, met), names in models.items():
            encoder = "Each encoder" if len(names) > 1 else "The encoder"
            lines.append(
                wrapped(
                    f"{encoder} of {listed(names)} on {task} had learned {learned} before, where it met the "
                    f"superfamily of {met:,} of the {found['groups']['unseen']['n']:,} proteins."
                )
            )
    return lines


def by_sequence(tasks: Mapping[str, Any]) -> str:
    """What sequences connect in the split by superfamily, for a document."""
    split = [
        f"{found['superfamily_split']['connected']:,} of {found['superfamily_split']['n']:,} on {task}"
        for task, found in tasks.items()
    ]
    return wrapped(
        f"Sequences are not always apart there: of the test proteins, {listed(split)} are linked, at times "
        "through others, by more than 30% identity to a chain for training."
    )


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--runs", type=Path, required=True, help="Folder of runs: TASK/VARIANT/seedN.")
    flags.add_argument("--baselines", type=Path, required=True, help="JSON of experiments.baselines.")
    flags.add_argument("--json", type=output, required=True, help="Where the results go.")
    args = flags.parse_args()
    runs, _ = read_runs(args.runs, TASKS)
    tasks = measure(runs, json.loads(args.baselines.read_text())["rows"])
    command = " ".join(["python -m experiments.unseen_families", *sys.argv[1:]])
    args.json.write_text(json.dumps({"command": command, "tasks": tasks}, indent=1) + "\n")
    say(text(tasks))


if __name__ == "__main__":
    run_script(main)
