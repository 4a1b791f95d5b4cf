"""Does it pay to read a protein cluster by cluster? Four ways to read the same residue features, many seeds.

    python -m experiments.same_features --encoder backbone --task cath-architecture --seeds 5 \\
        --json experiments/results/learn/same_features.json

An encoder that does not learn gives every residue its features once (`experiments.frozen_encoder`). On them
are trained, with the same recipe, seeds and proteins: the pooling and classifier of GVP; ParToken's
partition, codebook, attention and classifier; the same with random clusters of the expected size; and with
one cluster, the whole protein. What differs between their scores is what reading in clusters buys, with no
noise from how well an encoder happened to be trained. What it cannot tell is whether an encoder that learns
together with its clusters becomes a better one; `experiments.does_it_pay` compares whole runs.

The JSON is written after every run, and a run that is in it is not done again. Encoders: "backbone" was
pretrained on structure alone and favours nobody, "types" likewise but sees residue types; "architecture" is
that of a GVP trained on CATH architectures, which has read means, "superfamily" that of one trained on CATH
superfamilies, which sees types; "partoken" is that of the model in the package, trained with clusters; any
other name is a run directory.
"""

import copy
import dataclasses
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.does_it_pay_report import SIGNIFICANCE, SIGNIFICANCE_MEANS, listed, signed, significant
from experiments.finished_runs import mean_or_none
from experiments.flags import Flags, count, output, run_script
from experiments.frozen_encoder import encoded, headed, train_on_features
from experiments.learn import PRETRAINING, TASKS, job
from experiments.paired import (
    as_json,
    difference,
    intervals,
    protein_errors,
    smallest_difference,
)
from experiments.relatives import groups
from experiments.timing_tables import wrapped
from partoken_jax.config import StageConfig, TrainConfig
from partoken_jax.files import locked_by_other, write_whole
from partoken_jax.parameters import parameter_table
from partoken_jax.pretrained import load_model
from partoken_jax.progress import say
from partoken_jax.proteins import DataError
from partoken_jax.tables import markdown_table
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.data import RunData, load_run_data
from partoken_jax.training.predictions import StoredPredictions
from partoken_jax.training.report import environment
from partoken_jax.training.trained import TrainedModel, trained_run

READERS = {
    "gvp-recommended": "mean over residues (GVP's)",
    "partoken-recommended": "clusters (ParToken's)",
    "partoken-random": "random clusters of the expected size",
    "partoken-whole": "ParToken's head on the whole protein",
}
CONTRASTS = (
    ("partoken-recommended", "gvp-recommended"),
    ("partoken-recommended", "partoken-random"),
    ("partoken-recommended", "partoken-whole"),
)
"""The first minus the second."""
CONTROLS = {"partoken-random": "with random clusters", "partoken-whole": "with the whole protein as one"}
"""What tells whether clusters are the reason for a gain."""
MAIN = ("backbone", "types")
"""Encoders that go without saying, where a task occurs with no other."""
RUNS = Path(__file__).parent / "results" / "learn" / "runs"
ENCODERS = {
    **{name: RUNS / "pretraining" / name for name in PRETRAINING},
    "architecture": RUNS / "cath-architecture" / "gvp-recommended" / "seed1",
    "superfamily": Path("runs/learn/cath-superfamily/gvp-types/seed0"),  # 40 minutes; not kept
}
STAGE0 = StageConfig(epochs=8, learning_rate=2e-3, warmup_epochs=1)
STAGE1_EPOCHS = 4
"""Everything else is the recommended recipe: heads alone bear, and need, a higher rate."""
MOST_PROTEINS = 4_000
"""For training, drawn once: what a CPU does in a quarter of an hour a run."""


def configured(task: str, reader: str, seed: int) -> TrainConfig:
    """The settings of a run: those of `experiments.learn` but for rate and epochs."""
    config = job(Path("runs/same_features"), task, reader, seed, "float32").config
    epochs = STAGE0.epochs + STAGE1_EPOCHS
    return dataclasses.replace(
        config,
        stage0=STAGE0,
        data=dataclasses.replace(config.data, max_train=MOST_PROTEINS),
        stage1=dataclasses.replace(config.stage1, epochs=STAGE1_EPOCHS),
        temperature=dataclasses.replace(config.temperature, decay=0.1 ** (1 / (epochs - 1))),
    )


def encoder_of(name: str) -> TrainedModel:
    """The model whose encoder is read."""
    if name == "partoken":
        return load_model("cath-architecture")
    return trained_run(ENCODERS.get(name, name))


def reshuffled(data: RunData, seed: int) -> RunData:
    """The same proteins in the order of another seed."""
    plan = dataclasses.replace(data.plan, seed=seed)
    loaders = {}
    for split, loader in data.loaders.items():
        loaders[split] = copy.copy(loader)
        loaders[split].plan = plan
    return dataclasses.replace(data, plan=plan, loaders=loaders)


def one_run(task: str, reader: str, seed: int, data: RunData, features: Any) -> dict[str, Any]:
    """A row of the results."""
    start = time.perf_counter()
    config = configured(task, reader, seed)
    found = train_on_features(config, reshuffled(data, seed), features)
    clusters = found.test["clustering"]
    return {
        "task": task,
        "reader": reader,
        "seed": seed,
        "accuracy": found.test["classification"]["accuracy"],
        "macro_f1": found.test["classification"]["macro_f1"],
        "validation_accuracy": found.validation["classification"]["accuracy"],
        "best_epoch": found.epoch,
        "coverage": None if clusters is None else clusters["coverage"],
        "seconds": time.perf_counter() - start,
        "predicted": found.predictions.logits.argmax(axis=1).tolist(),
    }


def analysed(rows: list[dict[str, Any]], data: dict[str, Any]) -> dict[str, Any]:
    """Scores of every reader, and the contrasts, of the rows of one encoder and task."""
    readers = {name: [row for row in rows if row["reader"] == name] for name in READERS}
    return {
        "n": len(data["labels"]),
        "groups": len(np.unique(groups(data["names"]))),
        "training_proteins": data["training_proteins"],
        "readers": {
            name: {
                "seeds": [row["seed"] for row in mine],
                "parameters": data["parameters"][name],
                "coverage": mean_or_none(row["coverage"] for row in mine),
                **{score: float(np.mean([row[score] for row in mine])) for score in ("accuracy", "macro_f1")},
                "interval": intervals([_stored(row, data) for row in mine])[0],
            }
            for name, mine in readers.items()
            if mine
        },
        "contrasts": [
            _contrast(readers[a], readers[b], data) for a, b in CONTRASTS if readers[a] and readers[b]
        ],
    }


def _contrast(first: list[dict], second: list[dict], data: dict[str, Any]) -> dict[str, Any]:
    mine, theirs = ({row["seed"]: row for row in rows} for rows in (first, second))
    seeds = sorted(mine.keys() & theirs.keys())
    sides = [[_stored(side[seed], data) for seed in seeds] for side in (mine, theirs)]
    errors = protein_errors(sides[0], sides[1])
    found: dict[str, Any] = {"first": first[0]["reader"], "second": second[0]["reader"], "seeds": seeds}
    for score, error in zip(("accuracy", "macro_f1"), errors, strict=True):
        found[score] = as_json(difference([mine[seed][score] - theirs[seed][score] for seed in seeds], error))
    deviation = float(np.std(found["accuracy"]["per_seed"], ddof=1)) if len(seeds) > 1 else 0.0
    found["smallest_difference"] = smallest_difference(errors[0], len(seeds), deviation)
    return found


def _stored(row: dict[str, Any], data: dict[str, Any]) -> StoredPredictions:
    names, empty = np.array(data["names"]), np.zeros((0, 0), np.float32)
    labels, classes = np.asarray(data["labels"]), np.asarray(data["class_names"])
    return StoredPredictions(names, labels, np.asarray(row["predicted"]), empty, classes)


def table(results: dict[str, Any]) -> str:
    """Markdown: readers, then differences."""
    rows: list[tuple[object, ...]] = []
    differences: list[tuple[object, ...]] = []
    for place, found in results["analysis"].items():
        for name, mine in found["readers"].items():
            low, high = mine["interval"]
            accuracy = f"{mine['accuracy']:.3f} ({low:.3f} to {high:.3f})"
            what = (READERS[name], f"{mine['parameters']:,}", len(mine["seeds"]), found["n"])
            covered = "" if mine["coverage"] is None else f"{mine['coverage']:.0%}"
            rows.append((place, *what, accuracy, f"{mine['macro_f1']:.3f}", covered))
        for mine in found["contrasts"]:
            of = f"{READERS[mine['first']]} − {READERS[mine['second']]}"
            scores = (signed(mine["accuracy"]), signed(mine["macro_f1"]))
            least = mine["smallest_difference"]
            smallest = "" if least is None else f"{least:.3f}"
            differences.append((place, of, len(mine["seeds"]), *scores, smallest, significant(mine)))
    named = ("accuracy", "macro-F1", "coverage")
    first = ("encoder, task", "reads", "parameters", "seeds", "test proteins", *named)
    second = ("encoder, task", "difference", "seeds", "accuracy", "macro-F1", *SIGNIFICANCE)
    return markdown_table(first, rows) + "\n\n" + markdown_table(second, differences)


def text(results: dict[str, Any]) -> str:
    """The answer in words, then the tables, for the documents."""
    compared = 2 * sum(len(of["contrasts"]) for of in results["analysis"].values())
    chance = (
        f"By chance alone one in twenty of these {compared} comparisons, of accuracy and of macro-F1, would "
        "be significant."
    )
    return wrapped(f"{answer(results)} {chance}") + "\n\n" + table(results)


def answer(results: dict[str, Any]) -> str:
    """Where ParToken's head is better than GVP's, where it is not, and whether clusters are the reason."""
    places = _complete(results)
    if not places:
        return "No head is compared yet."
    by = {place: {c["second"]: c for c in of["contrasts"]} for place, of in places.items()}
    against_mean = {place: found["gvp-recommended"] for place, found in by.items()}
    better, worse = (
        [place for place, found in against_mean.items() if _differs(found["accuracy"], sign)]
        for sign in (1, -1)
    )
    equal = [place for place in places if place not in better + worse]
    said = [
        f"ParToken's head is {what} accurate than GVP's on {_called(of, places)}."
        for of, what in ((better, "more"), (worse, "less"))
        if of
    ]
    if equal:
        said.append(
            f"On {_called(equal, places)} the difference is not significant."
            if said
            else "ParToken's head is not significantly more or less accurate than GVP's on "
            f"{_called(equal, places)}."
        )
    for sign, what in ((1, "higher"), (-1, "lower")):
        if of := [place for place, found in against_mean.items() if _differs(found["macro_f1"], sign)]:
            said.append(
                f"The head's macro-F1 is significantly {what} on {_called(of, places, numbers=False)}."
            )
    unbeaten: dict[str, list[str]] = {}
    for place in better:
        names = [what for name, what in CONTROLS.items() if not _differs(by[place][name]["accuracy"], 1)]
        unbeaten.setdefault(listed(names), []).append(place)
    for control, of in unbeaten.items():
        where = _called(of, places, numbers=False)
        said.append(
            f"Clusters are not shown to be the reason on {where}: {control}, it is not significantly less "
            "accurate."
            if control
            else f"Clusters pay on {where}: it is more accurate with them than "
            f"{listed(list(CONTROLS.values()))}."
        )
    return " ".join(said)


def _differs(difference: dict[str, Any], sign: int) -> bool:
    """Whether it is significant, and of that sign."""
    return difference["significant"] and difference["mean"] * sign > 0


def _complete(results: dict[str, Any]) -> dict[str, Any]:
    return {place: of for place, of in results["analysis"].items() if len(of["contrasts"]) == len(CONTRASTS)}


def _called(chosen: list[str], places: dict[str, Any], *, numbers: bool = True) -> str:
    """Tasks and what was compared on them: "ec-class (encoders a and b, 769 test proteins, 2 to 3 seeds)"."""
    by_task: dict[str, list[str]] = {}
    for place in chosen:
        by_task.setdefault(place.partition(", ")[2], []).append(place)
    said = []
    for task, here in by_task.items():
        encoders = [place.partition(", ")[0] for place in here]
        several = len([place for place in places if place.partition(", ")[2] == task]) > 1
        parts = []
        if several or encoders[0] not in MAIN:
            parts.append(f"encoder{'s' if len(encoders) > 1 else ''} {listed(encoders)}")
        if numbers:
            parts.append(f"{_range(places[place]['n'] for place in here)} test proteins")
            parts.append(f"{_range(len(places[place]['contrasts'][0]['seeds']) for place in here)} seeds")
        said.append(f"{task} ({', '.join(parts)})" if parts else task)
    return listed(said)


def _range(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return " to ".join(map(str, found if len(found) < 2 else (found[0], found[-1])))


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument(
        "--encoder",
        default="backbone",
        help='"backbone", "types", "architecture", "superfamily", "partoken", or a run directory.',
    )
    flags.add_argument("--task", choices=TASKS, required=True)
    flags.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    flags.add_argument("--seeds", type=count, default=5, help="Number of seeds.")
    flags.add_argument("--json", type=output, required=True, help="Where the results go, and are gone on.")
    flags.add_argument(
        "--cache", type=Path, default=Path("runs/same_features"), help="Folder of the residue features."
    )
    args = flags.parse_args()
    beside = args.json.with_name(f".{args.json.name}.lock")
    with beside.open("a") as lock:
        if locked_by_other(lock):
            raise DataError(f"{args.json}: another process adds to it; wait for it, or name another file")
        try:
            go_on(args)
        finally:
            beside.unlink()


def go_on(args: Any) -> None:
    """Makes the runs that are not in the JSON yet."""
    use_compilation_cache()
    results: dict[str, Any] = {"schema": "partoken.same_features/1", "commands": [], "data": {}, "rows": []}
    if args.json.is_file():
        results = json.loads(args.json.read_text())
    command = " ".join(["python -m experiments.same_features", *sys.argv[1:]])
    results["commands"] = sorted({*results["commands"], command})
    results["environment"] = environment()
    place = f"{args.encoder}, {args.task}"
    data = load_run_data(configured(args.task, "gvp-recommended", 0))
    model = encoder_of(args.encoder)
    features = encoded(model, data, args.cache)
    now = described(args.task, data)
    if results["data"].setdefault(place, now) != now:
        raise DataError(f"{args.json}: has rows of {place} with other data or models; name another file")
    done = {(row["encoder"], row["task"], row["reader"], row["seed"]) for row in results["rows"]}
    for seed in range(args.seeds):
        for reader in args.readers:
            if (args.encoder, args.task, reader, seed) in done:
                continue
            row = {"encoder": args.encoder, **one_run(args.task, reader, seed, data, features)}
            results["rows"].append(row)
            say(f"{place}, seed {seed}, {READERS[reader]}: {row['accuracy']:.3f} in {row['seconds']:.0f} s")
            write(results, args.json)
    write(results, args.json)
    say(table(results))


def described(task: str, data: RunData) -> dict[str, Any]:
    """What the analysis needs of the test proteins and the readers."""
    from flax import nnx

    parameters = {}
    for reader in READERS:
        config = configured(task, reader, 0)
        model = dataclasses.replace(config.model, num_classes=len(data.class_names))
        parameters[reader] = dict(parameter_table(headed(model, rngs=nnx.Rngs(0))))["total"]
    labels = [int(label) for label in data.datasets["test"].labels]
    return {
        "names": list(data.datasets["test"].names),
        "labels": labels,
        "class_names": list(data.class_names),
        "training_proteins": len(data.datasets["train"]),
        "parameters": parameters,
    }


def write(results: dict[str, Any], path: Path) -> None:
    """The JSON with its analysis, and the tables beside it."""
    results["analysis"] = {
        place: analysed([row for row in results["rows"] if f"{row['encoder']}, {row['task']}" == place], data)
        for place, data in results["data"].items()
    }
    write_whole(path, json.dumps(results) + "\n")  # most of it are predictions
    path.with_suffix(".md").write_text(f"{table(results)}\n\n{wrapped(SIGNIFICANCE_MEANS)}\n")


if __name__ == "__main__":
    run_script(main)
