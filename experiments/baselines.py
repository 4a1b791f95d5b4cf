"""A random forest on hand-made features of the backbone: what the models have to beat.

    python -m experiments.baselines --data experiments/data/pdb_chains.npz \\
        --json experiments/results/learn/baselines.json

For every task and split scheme, from the backbone alone and with the amino-acid composition, over several
seeds of the forest; a table is written beside the JSON. It learns from the training split alone, and nothing
is chosen by test scores. Needs scikit-learn (`pip install -e '.[baselines]'`).
"""

import itertools
import json
import platform
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from experiments.backbone_features import backbone_features, composition
from experiments.flags import Flags, count, output, run_script
from experiments.paired import intervals, number_of_groups
from partoken_jax.config import ConfigError
from partoken_jax.files import write_whole
from partoken_jax.progress import progress, say
from partoken_jax.proteins import ProteinDataset, load_splits
from partoken_jax.tables import markdown_table
from partoken_jax.training.metrics import classification, f1_interval
from partoken_jax.training.predictions import StoredPredictions

TASKS = ("ec-class", "cath-class", "cath-architecture")
SCHEMES = ("identity", "superfamily")
TREES = 200
SPLITS = ("train", "test")


class Features:
    """Features by protein, computed once: tasks and schemes share most proteins."""

    def __init__(self) -> None:
        self._known: dict[str, np.ndarray] = {}

    def of(self, dataset: ProteinDataset, *, with_composition: bool, quiet: bool = False) -> np.ndarray:
        """float32 [P, F]: the backbone's features, and after them the composition (20) if asked for."""
        rows = []
        with progress(len(dataset), f"features, {dataset.split}", quiet=quiet) as update:
            for i, name in enumerate(dataset.names):
                if name not in self._known:
                    protein = dataset[i]
                    self._known[name] = np.concatenate([backbone_features(protein), composition(protein)])
                rows.append(self._known[name])
                update(1)
        features = np.stack(rows)
        return features if with_composition else features[:, :-20]


def forest(seed: int, trees: int = TREES) -> Any:
    """The forest: scikit-learn's defaults, but for more trees, and classes that count alike.

    Raises ConfigError without scikit-learn.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError:
        raise ConfigError(
            "the random forest needs scikit-learn, which is not installed; "
            "pip install -e '.[baselines]' installs it"
        ) from None
    return RandomForestClassifier(trees, class_weight="balanced_subsample", random_state=seed, n_jobs=-1)


def predictions(
    datasets: dict[str, ProteinDataset], x: dict[str, np.ndarray], seed: int, trees: int
) -> StoredPredictions:
    """What a forest that learnt the training split says of the test split. `x`: features [P, F] of both."""
    model, test = forest(seed, trees).fit(x["train"], datasets["train"].labels), datasets["test"]
    names, none = np.array(test.names), np.zeros((0, 0), np.float32)
    return StoredPredictions(names, test.labels, model.predict(x["test"]), none, np.array(test.class_names))


def row(task: str, scheme: str, with_composition: bool, of_seeds: list[StoredPredictions]) -> dict[str, Any]:
    """One line of the results: means over seeds, with intervals over groups of relatives among the test
    proteins, every seed's numbers, and the first seed's scores per class."""
    found = [classification(p.labels, p.predicted, tuple(p.class_names.tolist())) for p in of_seeds]
    first = found[0]
    accuracies, macros = ([scores[name] for scores in found] for name in ("accuracy", "macro_f1"))  # type: ignore[literal-required]
    accuracy_interval, macro_f1_interval = intervals(of_seeds, scheme)
    return {
        "task": task,
        "split_scheme": scheme,
        "features": "backbone and composition" if with_composition else "backbone",
        "n": first["proteins"],
        "groups": number_of_groups(of_seeds[0], scheme),
        "accuracy": float(np.mean(accuracies)),
        "accuracy_interval": accuracy_interval,
        "macro_f1": float(np.mean(macros)),
        "macro_f1_interval": macro_f1_interval,
        "majority_share": first["majority_share"],
        "seeds": len(found),
        "per_seed": [
            {"accuracy": a, "macro_f1": m, "predicted": p.predicted.tolist()}
            for a, m, p in zip(accuracies, macros, of_seeds, strict=True)
        ],
        "classes": [
            {**c, "f1_interval": f1_interval(first["confusion"][i][i], c["count"], c["predicted"])}
            for i, c in enumerate(first["classes"])
            if c["count"] + c["predicted"]
        ],
        "confusion": first["confusion"],
    }


def measure(path: Path | None, seeds: int, trees: int, *, quiet: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of the results, as they come. Raises ConfigError without scikit-learn, DataError for wrong
    data."""
    forest(0)  # what is missing is said before all the features are made
    features = Features()
    for with_composition, scheme, task in itertools.product((False, True), SCHEMES, TASKS):
        datasets = load_splits(path, task=task, split_scheme=scheme, splits=SPLITS)
        x = {
            split: features.of(dataset, with_composition=with_composition, quiet=quiet)
            for split, dataset in datasets.items()
        }
        of_seeds = [predictions(datasets, x, seed, trees) for seed in range(seeds)]
        yield row(task, scheme, with_composition, of_seeds)


def report(results: dict[str, Any]) -> str:
    """The text of the Markdown file."""
    lines = [
        "# Random forest on hand-made features",
        "",
        f"`{results['command']}`: {results['trees']} trees, classes weighted alike, scikit-learn "
        f"{results['environment']['scikit-learn']}; means over {results['rows'][0]['seeds']} seeds of the "
        "forest. In brackets the 95% intervals over the groups of relatives among the n test proteins "
        "(bootstrap); those of a class take every protein for itself. Most frequent: the accuracy of always "
        "answering the most frequent class of the test split.",
        "",
        markdown_table(
            (
                "task",
                "split",
                "features",
                "n",
                "groups",
                "accuracy",
                "macro-F1",
                "seeds from",
                "to",
                "most frequent",
            ),
            [
                (
                    r["task"],
                    r["split_scheme"],
                    r["features"],
                    r["n"],
                    r["groups"],
                    _with_interval(r["accuracy"], r["accuracy_interval"]),
                    _with_interval(r["macro_f1"], r["macro_f1_interval"]),
                    *(f"{edge(s['accuracy'] for s in r['per_seed']):.3f}" for edge in (min, max)),
                    f"{r['majority_share']:.3f}",
                )
                for r in results["rows"]
            ],
        ),
    ]
    for r in results["rows"]:
        if r["split_scheme"] != SCHEMES[0] or r["features"] != "backbone":
            continue
        classes = [
            (
                c["name"],
                c["count"],
                c["predicted"],
                f"{c['precision']:.3f}",
                f"{c['recall']:.3f}",
                _with_interval(c["f1"], c["f1_interval"]),
            )
            for c in r["classes"]
        ]
        header = ("class", "proteins", "predicted", "precision", "recall", "F1")
        lines += [
            "",
            f"## {r['task']}, {r['split_scheme']}, backbone, seed 0",
            "",
            markdown_table(header, classes),
        ]
    return "\n".join(lines) + "\n"


def environment() -> dict[str, str]:
    """Versions of what computes."""
    return {"python": platform.python_version(), **{p: version(p) for p in ("numpy", "scikit-learn")}}


def _with_interval(number: float, interval: tuple[float, float]) -> str:
    return f"{number:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, help="File of proteins; without it, those of the package.")
    flags.add_argument(
        "--json", type=output, required=True, help="Where the results go; the table beside it."
    )
    flags.add_argument("--seeds", type=count, default=3, help="Number of forests: seeds 0, 1, ...")
    flags.add_argument("--trees", type=count, default=TREES, help="Trees of a forest.")
    args = flags.parse_args()
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for found in measure(args.data, args.seeds, args.trees):
        rows.append(found)
        say(
            f"{found['task']}, {found['split_scheme']}, {found['features']}: "
            f"accuracy {found['accuracy']:.3f}, macro-F1 {found['macro_f1']:.3f} (n = {found['n']})"
        )
        results = {
            "schema": "partoken.baselines/1",
            "command": " ".join(["python -m experiments.baselines", *sys.argv[1:]]),
            "environment": environment(),
            "trees": args.trees,
            "seconds": time.perf_counter() - start,
            "rows": rows,
        }
        # After every row: a run that is stopped has done something.
        write_whole(args.json, json.dumps(results) + "\n")  # most of it are predictions
        write_whole(args.json.with_suffix(".md"), report(results))
    say(f"{time.perf_counter() - start:.0f} s in all; see {args.json} and {args.json.with_suffix('.md')}")


if __name__ == "__main__":
    run_script(main)
