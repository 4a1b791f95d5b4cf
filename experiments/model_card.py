"""The card of a model that comes with the package: what it was trained on, how good it is, what it cannot do.

`measure` computes the numbers from a model, `experiments.ship` keeps them under experiments/results/models,
and `card` makes the text of docs/models/NAME.md from them.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from experiments.paired import intervals, number_of_groups
from experiments.unseen_families import where_seen
from partoken_jax.config import TrainConfig, to_dict
from partoken_jax.parameters import parameter_table
from partoken_jax.proteins import ProteinDataset, load_dataset
from partoken_jax.proteins.dataset import EMBEDDED
from partoken_jax.proteins.tasks import class_title
from partoken_jax.tables import markdown_table
from partoken_jax.training.calibration import (
    Bin,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
)
from partoken_jax.training.data import Split, limited, load_data
from partoken_jax.training.evaluate import EvaluationReport
from partoken_jax.training.metrics import hits, wilson
from partoken_jax.training.predictions import StoredPredictions
from partoken_jax.training.report import accuracy_with_interval, classification_table, clustering_summary
from partoken_jax.training.trained import TrainedModel

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "experiments" / "results" / "models"
"""What was measured of the models in the package: NAME.json."""
STABILITY = ROOT / "experiments" / "results" / "stability.json"
UNSEEN = ROOT / "experiments" / "results" / "learn" / "unseen_families.json"
EXAMPLES = 4
"""Proteins of the package whose logits are kept, so that a test can tell whether they are still the same."""
ELSEWHERE = (
    *("run_dir", "overwrite", "resume", "checkpoint", "devices", "init_from"),
    *("data.path", "data.task", "model.num_classes"),
    *("model.message_passing", "model.rematerialise", "model.sender_gradient"),  # same numbers
)
"""Settings that say nothing about how the model was trained, or that the card names in another place."""
NAMES = {"gvp": "GVP baseline", "partoken": "ParToken"}
LABELS = {
    "ec": "The labels are EC numbers from SIFTS (EMBL-EBI), which asks for attribution.",
    "cath": "The labels are those of CATH 4.3 (https://www.cathdb.info), CC BY 4.0.",
}
"""Where the labels come from, by the first word of the task."""


def logits_and_labels(report: EvaluationReport) -> tuple[np.ndarray, np.ndarray]:
    """float64 [P, C] and int [P], -1 where there is none."""
    rows: Any = report["predictions"]
    return np.array([row["logits"] for row in rows]), np.array([row["label"] for row in rows])


def measure(
    model: TrainedModel, validation: EvaluationReport, test: EvaluationReport, data: str | None
) -> dict[str, Any]:
    """The numbers of a card.

    Args:
      model: with the calibration that was fitted on validation.
      validation, test: what it says of these splits.
      data: where its data are, if not where they were in training.
    """
    config = model.config.data if data is None else dataclasses.replace(model.config.data, path=data)
    datasets = {split: limited(d, config, model.config.seed)[0] for split, d in load_data(config).items()}
    examples = load_dataset(task="cath-class", split="val").proteins[:EXAMPLES]
    return {
        "kind": model.config.model.kind,
        "parameters": dict(parameter_table(model.model))["total"],
        "config": to_dict(model.config),
        "epoch": model.epoch,
        "training": dict(model.training),
        "data": {
            "source": Path(datasets["train"].source).name,
            "fingerprint": model.fingerprint,
            "splits": {split: _split(dataset) for split, dataset in datasets.items()},
            "relatives": relatives(datasets, config.path),
        },
        "validation": validation["scores"],
        "test": test["scores"],
        "test_intervals": test_intervals(test),
        "calibration": {
            "temperature": model.calibration,
            "validation": _calibration(validation, model.calibration),
            "test": _calibration(test, model.calibration),
        },
        "examples": {p.name: p.logits.tolist() for p in model.predict(examples)},
    }


def test_intervals(test: EvaluationReport) -> dict[str, Any]:
    """How many groups of relatives the test proteins make, and the intervals over them."""
    logits, labels = logits_and_labels(test)
    rows: Any = test["predictions"]
    names = np.array([row["name"] for row in rows])
    classes = np.array([c["name"] for c in test["scores"]["classification"]["classes"]])
    none = np.zeros((0, 0), np.float32)
    stored = StoredPredictions(names, labels, logits.argmax(axis=1), none, classes)
    accuracy, macro_f1 = intervals([stored], test["split_scheme"])
    number = number_of_groups(stored, test["split_scheme"])
    return {"groups": number, "accuracy": accuracy, "macro_f1": macro_f1}


def relatives(datasets: Mapping[Split, ProteinDataset], path: str | Path | None) -> dict[str, int] | None:
    """How many test proteins have a CATH superfamily (`known`), and of how many of them it occurs among those
    for training (`in_training`); None for data without CATH codes."""
    path = Path(EMBEDDED if path is None else path)
    if path.suffix != ".npz":
        return None
    where = where_seen(datasets["test"].names, datasets["train"].names, path).tolist()
    return {"known": len(where) - where.count("unknown"), "in_training": where.count("seen")}


def _split(dataset: ProteinDataset) -> dict[str, Any]:
    lengths = dataset.lengths
    return {
        "proteins": len(dataset),
        "class_counts": dataset.class_counts().tolist(),
        "residues": [int(lengths.min()), int(np.median(lengths)), int(lengths.max())],
    }


def _calibration(report: EvaluationReport, temperature: float) -> dict[str, Any]:
    """Of the logits as they are, and divided by the temperature."""
    logits, labels = logits_and_labels(report)
    found = {}
    for name, divisor in (("before", 1.0), ("after", temperature)):
        bins = {n: reliability(softmax(logits / divisor, axis=1), labels, n) for n in (10, 15)}
        found[name] = {
            "negative_log_likelihood": negative_log_likelihood(logits, labels, divisor),
            "ece_10": expected_calibration_error(bins[10]),
            "ece_15": expected_calibration_error(bins[15]),
            "bins": bins[10],
        }
    return found


def card(name: str, result: dict[str, Any]) -> str:
    """The text of docs/models/NAME.md."""
    config, task = result["config"], result["config"]["data"]["task"]
    test = result["test"]["classification"]
    sections = {
        "Data": _data(result),
        "Training": _training(result),
        "Test scores": _test_scores(result),
        "Are its probabilities right?": _reliability(result),
        "Clusters and tokens": _clusters(result),
        "What it cannot do": [*_limits(result), *_unseen_families(result), *_measured_limits(name)],
        "Terms": [
            "The weights are under Apache-2.0, like the code. They were trained on coordinates from the "
            f"Protein Data Bank (CC0 1.0). {LABELS.get(task.partition('-')[0], '')} `NOTICE` has the sources "
            "in full; keep it with the weights.",
        ],
    }
    lines = [
        f"# {name}",
        "",
        f"{NAMES[result['kind']]} for the task {task}: {len(test['classes'])} classes, "
        f"{result['parameters']:,} parameters, {result['bytes'] / 1e6:.1f} MB in the package. Accuracy on "
        f"its test proteins: {test['accuracy']:.3f} ({hits(test)} of {test['proteins']}; 95% interval "
        f"{_range(result['test_intervals']['accuracy'])}); always answering the most frequent class, "
        f"{test['majority_share']:.3f}.",
        "",
        "```python",
        "import partoken_jax as pt",
        "",
        f'model = pt.load_model("{name}")',
        f'proteins = pt.load_dataset(task="{task}", split="test").proteins[:8]',
        "for protein in model.predict(proteins):",
        "    print(protein.name, protein.label, protein.probabilities.max(), protein.codes)",
        "```",
        "",
        f"`{result['command']}` made the file and this page; seed {config['seed']}, "
        f"one run, epoch {result['epoch']}.",
        "",
    ]
    for title, text in sections.items():
        lines += [f"## {title}", "", *text, ""]
    return "\n".join(lines)


def _data(result: dict[str, Any]) -> list[str]:
    data, scheme = result["data"], result["config"]["data"]["split_scheme"]
    rows: list[tuple[object, ...]] = []
    for i, of_class in enumerate(result["test"]["classification"]["classes"]):
        counts = (f"{s['class_counts'][i]:,}" for s in data["splits"].values())
        rows.append((class_title(of_class["name"]), *counts))
    rows.append(("all", *(f"{s['proteins']:,}" for s in data["splits"].values())))
    shortest, _, longest = zip(*(s["residues"] for s in data["splits"].values()), strict=True)
    meaning = {
        "identity": "proteins of two splits share at most 30% of their sequence",
        "superfamily": "proteins of two splits come from different CATH superfamilies",
    }.get(scheme, "as in that set")
    return [
        f"`{data['source']}` (fingerprint {data['fingerprint']}), split by the scheme {scheme}: {meaning}. "
        f"Chains have {min(shortest)} to {max(longest)} residues. The epoch and the calibration were chosen "
        "on validation; the scores below are of test proteins, which chose nothing.",
        "",
        markdown_table(("class", *data["splits"]), rows),
    ]


def _training(result: dict[str, Any]) -> list[str]:
    training = result["training"]
    published = _flat(to_dict(TrainConfig()))
    changed = {
        setting: value
        for setting, value in _flat(result["config"]).items()
        if value != published.get(setting) and not setting.startswith(ELSEWHERE)
    }
    took = ""
    if training.get("seconds"):
        took = (
            f"{training['epochs']} epochs in {training['seconds'] / 3600:.1f} hours. The run was finished on "
            f"{training['environment']['device']}, with jax {training['environment']['jax']}. "
        )
    if (precision := training.get("precision", "float32")) != "float32":
        took += f"It was trained with products in {precision}; it computes, and is scored here, in float32. "
    if result["ancestry"]:
        took += f"It started from {', which started from '.join(result['ancestry'])}. "
    validation = result["validation"]["classification"]
    return [
        f"{took}Validation accuracy of the chosen epoch: {accuracy_with_interval(validation)}. Settings that "
        "differ from the published ones:",
        "",
        markdown_table(
            ("setting", "published", "here"),
            [(f"`{s}`", published.get(s, ""), value) for s, value in changed.items()],
            "lrr",
        ),
    ]


def _test_scores(result: dict[str, Any]) -> list[str]:
    test, ends = result["test"]["classification"], result["test_intervals"]
    return [
        f"Accuracy {test['accuracy']:.3f} ({_range(ends['accuracy'])}), macro-F1 {test['macro_f1']:.3f} "
        f"({_range(ends['macro_f1'])}): 95% intervals over the {ends['groups']} groups of relatives that the "
        f"{test['proteins']} test proteins make. Intervals in the rest of this section take proteins as "
        "independent, and are too narrow.",
        "",
        classification_table(test),
    ]


def _range(ends: Sequence[float]) -> str:
    return f"{ends[0]:.3f} to {ends[1]:.3f}"


def _reliability(result: dict[str, Any]) -> list[str]:
    calibration, proteins = result["calibration"], result["test"]["classification"]["proteins"]
    before, after = calibration["test"]["before"], calibration["test"]["after"]
    rows = [
        (
            what,
            f"{found['ece_10']:.3f}",
            f"{found['ece_15']:.3f}",
            f"{found['negative_log_likelihood']:.3f}",
        )
        for what, found in (("as trained", before), ("calibrated, as `predict` gives them", after))
    ]
    confidence = sum(b["count"] * b["confidence"] for b in after["bins"]) / proteins
    right = sum(b["correct"] for b in after["bins"]) / proteins
    low, high = result["test_intervals"]["accuracy"]
    said = "On average, yes"
    if not low <= confidence <= high:
        said = f"No, they are too {'high' if confidence > high else 'low'}"
    moved = after["ece_10"] - before["ece_10"]
    return [
        f"{said}: the mean is {confidence:.3f}, and {right:.3f} are right (95% interval {low:.3f} to "
        f"{high:.3f}). Calibration on validation made the error on the "
        f"test {'larger' if moved > 0 else 'smaller'}, {after['ece_10']:.3f} instead of "
        f"{before['ece_10']:.3f}.",
        "",
        f"Logits are divided by {calibration['temperature']:.3f}, fitted on validation (temperature "
        "scaling), before they become probabilities. The expected calibration error is the mean distance of "
        f"confidence and accuracy over bins of equal width; here on the {proteins} test proteins.",
        "",
        markdown_table(
            ("probabilities", "error, 10 bins", "error, 15 bins", "negative log-likelihood"), rows, "lrrr"
        ),
        "",
        "How often it is right when it is so sure, calibrated (95% intervals, every protein for itself):",
        "",
        markdown_table(
            ("confidence", "proteins", "mean confidence", "right"),
            [_bin_row(b) for b in after["bins"] if b["count"]],
            "lrrr",
        ),
    ]


def _bin_row(found: Bin) -> tuple[object, ...]:
    low, high = wilson(found["correct"], found["count"])
    right = f"{found['correct'] / found['count']:.3f} ({low:.3f} to {high:.3f})"
    return f"{found['low']:.1f} to {found['high']:.1f}", found["count"], f"{found['confidence']:.3f}", right


def _clusters(result: dict[str, Any]) -> list[str]:
    if result["test"]["clustering"] is None:
        return ["The baseline has neither."]
    return [
        f"- {split}: {clustering_summary(result[split]['clustering'])}" for split in ("validation", "test")
    ]


def _limits(result: dict[str, Any]) -> list[str]:
    test, task = result["test"]["classification"], result["config"]["data"]["task"]
    weak = [c for c in test["classes"] if c["count"] and c["f1"] < 0.5]
    few = [c["name"] for c in test["classes"] if c["count"] < 10]
    lines = [
        "- It answers with one of its classes whatever it is given; a protein of another kind gets one too"
        + (
            ", such as one that is no enzyme."
            if task == "ec-class"
            else ". It has seen chains of one CATH domain; one of several domains gets a single answer, too."
        ),
        "- It reads the backbone alone"
        + (", and which residues there are." if result["config"]["model"]["residue_types"] else ".")
        + " A residue that lacks an atom is left out.",
        "- It has seen stretches of chains without gaps from experimental structures; how it does on "
        "predicted ones, or on domains cut from longer chains, was not measured.",
        "- Its clusters are what helped to classify. That they are sites with a function has not been shown "
        "([sites](../SITES.md)).",
    ]
    if weak:
        listed = ", ".join(f"{c['name']} ({c['f1']:.2f})" for c in weak)
        lines.append(f"- Classes with an F1 below 0.5 in the test: {listed}.")
    if few:
        lines.append(
            f"- Classes with fewer than 10 test proteins, of which little is known: {', '.join(few)}."
        )
    return lines


def _unseen_families(result: dict[str, Any]) -> list[str]:
    """How well models like it do where the CATH superfamily is not in training (unseen_families.py)."""
    found = json.loads(UNSEEN.read_text())["tasks"].get(result["config"]["data"]["task"])
    of = result["data"]["relatives"]
    if of is None or found is None or result["kind"] not in found["variants"]:
        return []
    seen, unseen = found["groups"]["seen"], found["groups"]["unseen"]
    if (seen["n"] + unseen["n"], seen["n"]) != (of["known"], of["in_training"]):
        return []  # another test split
    training = found["training"]
    few = training["known"] < training["n"]
    known = f" (it is known of {training['known']:,} of those {training['n']:,})" if few else ""
    there, new = (group["models"][result["kind"]] for group in (seen, unseen))
    low, high = new["accuracy_interval"]
    return [
        f"- On new superfamilies it is worse. Of {of['known']} test proteins whose CATH superfamily is "
        f"known, {of['in_training']} have one that also occurs among the chains for training{known}. "
        f"Accuracy there is {there['accuracy']:.3f} (mean of the {found['seeds'][result['kind']]} runs with "
        f"its recipe); on the other {unseen['n']} it is {new['accuracy']:.3f} ({low:.3f} to {high:.3f}), "
        f"where a random forest has {unseen['models']['forest']['accuracy']:.3f} and always the most "
        f"frequent class of training {unseen['models']['constant']['accuracy']:.3f}."
    ]


def _measured_limits(name: str) -> list[str]:
    """What noise does to the answers, where it was measured of this model (experiments/stability.py)."""
    stability = json.loads(STABILITY.read_text())
    if stability["model"] != name:
        return []
    kept = ", ".join(
        f"{row['same_label'][0]:.0%} with {row['sigma']} Å on "
        f"{'whole residues, each moved as one' if row['whole_residues'] else 'every atom'}"
        for row in stability["noise"]["rows"]
    )
    return [
        f"- It is not robust against errors of coordinates: under Gaussian noise, {kept}, of "
        f"{stability['noise']['proteins']} test proteins keep their class "
        f"([sites](../SITES.md)). Do not trust it on structures that are worse than good experimental ones."
    ]


def measured() -> dict[str, dict[str, Any]]:
    """What was measured of the models in the package, by name."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(MODELS.glob("*.json"))}


def cards() -> dict[Path, str]:
    """The text of every card, by its place."""
    return {ROOT / "docs" / "models" / f"{name}.md": card(name, found) for name, found in measured().items()}


def overview(cards: str) -> str:
    """The table of the models that come with the package; `cards` is the way to docs/models."""
    results = measured()
    if not results:
        return "None yet."
    rows: list[tuple[object, ...]] = []
    for name, result in results.items():
        test = result["test"]["classification"]
        ends = result["test_intervals"]
        rows.append(
            (
                f"[{name}]({cards}/{name}.md)",
                NAMES[result["kind"]],
                len(test["classes"]),
                f"{hits(test)} of {test['proteins']}",
                f"{test['accuracy']:.3f} ({_range(ends['accuracy'])})",
                f"{test['macro_f1']:.3f} ({_range(ends['macro_f1'])})",
                f"{result['calibration']['test']['after']['ece_10']:.3f}",
                f"{result['bytes'] / 1e6:.1f} MB",
            )
        )
    header = ("model", "", "classes", "right", "accuracy", "macro-F1", "calibration error", "size")
    return markdown_table(header, rows, "llrrrrrr")


def _flat(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{where}{name}.") if isinstance(value, dict) else {f"{where}{name}": value}
    return flat
