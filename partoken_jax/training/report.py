"""What a finished run leaves behind: report.json and report.md."""

import json
import platform
from collections.abc import Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import jax
import numpy as np

from partoken_jax.files import write_whole
from partoken_jax.tables import markdown_table
from partoken_jax.training.curves import plot_curves
from partoken_jax.training.epochs import Evaluation
from partoken_jax.training.metrics import (
    Classification,
    Clustering,
    f1_interval,
    hits,
    macro_f1_interval,
    wilson,
)
from partoken_jax.training.records import EpochRecord
from partoken_jax.training.recovery import Recovery
from partoken_jax.version import __version__


class DataReport(TypedDict):
    source: str
    task: str
    class_names: list[str]
    class_counts: dict[str, list[int]]
    """Proteins per class of each split; all 0 in pretraining, whose proteins have no label."""
    unlabelled: dict[str, int]
    """Proteins of each split without a label."""
    cropped: dict[str, list[str]]
    """Proteins cut to `max_length`, by name."""
    left_out: int
    """Chains of the task that are left out (`ProteinDataset.left_out`)."""
    batch_size: int
    node_counts: list[int]
    """Padded residues per batch, one compilation each."""
    padding_share: float
    """Padding residues / all rows, over all batches of the run."""


class RunReport(TypedDict):
    """report.json"""

    run_dir: str
    command: str | None
    """The command line that finished the run; None for a call from Python."""
    date: str
    """When that command started: UTC, as ISO 8601 writes it."""
    config: dict
    parameters: dict[str, int]
    """Trainable numbers per component, and "total"."""
    data: DataReport
    best_epoch: int
    """Highest validation accuracy, then macro-F1, then the earliest; among the epochs of stage 1 where
    there is a codebook, because the checkpoints of stage 0 have none."""
    validation: Evaluation
    """Of the best checkpoint."""
    test: Evaluation
    """Of the best checkpoint."""
    seconds: float
    """Training and validation of all epochs."""
    step_ms: float
    """Median over epochs of the median step, without compilation (`timing`)."""
    proteins_per_second: float
    """Median over the same epochs."""
    environment: dict[str, str]


def environment() -> dict[str, str]:
    """Versions and device, for reports."""
    packages = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    device = jax.devices()[0]
    return {
        "partoken_jax": __version__,
        "python": platform.python_version(),
        **packages,
        "device": f"{device.device_kind} ({device.platform})",
    }


def timing(records: Sequence[EpochRecord]) -> dict[str, float]:
    """`seconds`, `step_ms` and `proteins_per_second` of a run.

    The last two are medians over the epochs with a step without compilation; where there is none, over all
    epochs, and compilation is in them.
    """
    timed = [r for r in records if _was_timed(r)] or records
    return {
        "seconds": float(sum(r["seconds"] + r["validation_seconds"] for r in records)),
        "step_ms": float(np.median([r["step_ms"] for r in timed])),
        "proteins_per_second": float(np.median([r["proteins_per_second"] for r in timed])),
    }


def _was_timed(record: EpochRecord) -> bool:
    """Whether the epoch's step time is one without compilation. Records of before do not say so, and count as
    timed."""
    return record.get("steps_timed", 1) > 0


def speed(report: RunReport, records: Sequence[EpochRecord]) -> str:
    """Time of a step and proteins per second in words, and whether compilation is in them."""
    included = "" if any(map(_was_timed, records)) else ", compilation included because no step was without"
    rate = f"{report['proteins_per_second']:.1f} proteins/s{included}"
    return f"{report['step_ms']:.0f} ms per step (median), {rate}"


def write_report(run_dir: Path, report: RunReport, records: Sequence[EpochRecord]) -> None:
    """Writes report.json, report.md and curves.png."""
    plot_curves({report["config"]["model"]["kind"]: records}, run_dir / "curves.png")
    write_whole(run_dir / "report.json", json.dumps(report, indent=2) + "\n")
    write_whole(run_dir / "report.md", report_markdown(report, records))


def accuracy_with_interval(scores: Classification) -> str:
    """Accuracy with what it was counted from and its 95% interval: "0.896 (86 of 96; 0.819 to 0.942)"."""
    low, high = wilson(hits(scores), scores["proteins"])
    return f"{scores['accuracy']:.3f} ({hits(scores)} of {scores['proteins']}; {low:.3f} to {high:.3f})"


def classification_table(scores: Classification) -> str:
    """Accuracy and F1 over all classes and per class, as a Markdown table under a sentence.

    Every number comes with its 95% interval: accuracy, precision and recall as shares of counted proteins
    (`wilson`), a class's F1 by `f1_interval` and macro-F1 by `macro_f1_interval`.
    """
    low, high = wilson(hits(scores), scores["proteins"])
    macro_low, macro_high = macro_f1_interval(scores)
    unlabelled = scores.get("unlabelled", 0)  # results of before had no such count
    left_out = f" {unlabelled} without a label are not scored." if unlabelled else ""
    rows: list[tuple[object, ...]] = []
    for i, c in enumerate(scores["classes"]):
        correct, count, predicted = scores["confusion"][i][i], c["count"], c["predicted"]
        either = count + predicted > 0
        rows.append(
            (
                c["name"],
                count,
                predicted,
                _with_interval(c["precision"], wilson(correct, predicted) if predicted else None),
                _with_interval(c["recall"], wilson(correct, count) if count else None),
                _with_interval(c["f1"], f1_interval(correct, count, predicted) if either else None),
            )
        )
    header = ("class", "proteins", "predicted", "precision", "recall", "F1")
    return "\n".join(
        [
            f"{scores['proteins']} proteins: accuracy {scores['accuracy']:.3f} "
            f"({hits(scores)} of {scores['proteins']}; 95% interval {low:.3f} to {high:.3f}), "
            f"macro-F1 {scores['macro_f1']:.3f} (95% interval {macro_low:.3f} to {macro_high:.3f}). "
            f"Always the most frequent class: accuracy {scores['majority_share']:.3f}."
            f"{left_out} The table has 95% intervals in brackets.",
            "",
            markdown_table(header, rows),
        ]
    )


def scores_table(scores: Evaluation) -> str:
    """What there is to say of a split beside its clusters: `classification_table`, or in pretraining
    `recovery_table`."""
    found = scores.get("recovery")
    return classification_table(scores["classification"]) if found is None else recovery_table(found)


def recovery_with_interval(found: Recovery) -> str:
    """ "recovery 0.312 (0.304 to 0.320) perplexity 8.10 (7.95 to 8.26)"."""
    return (
        f"recovery {found['recovery']:.3f} ({found['recovery_low']:.3f} to {found['recovery_high']:.3f}) "
        f"perplexity {found['perplexity']:.2f} ({found['perplexity_low']:.2f} to "
        f"{found['perplexity_high']:.2f})"
    )


def recovery_table(found: list[Recovery]) -> str:
    """Recovery and perplexity for each way of hiding types, and recovery per type, as a Markdown table under
    its sentences."""
    lines = [
        f"{'All' if ways['hidden'] == 1 else format(ways['hidden'], '.0%')} of the types hidden, "
        f"{ways['residues']:,} residues of {ways['proteins']} proteins: {recovery_with_interval(ways)}; "
        f"median of proteins {ways['median_recovery']:.3f}. Always the most frequent type: recovery "
        f"{ways['majority_share']:.3f}."
        for ways in found
    ]
    rows = [
        (
            t["name"],
            t["residues"],
            _with_interval(t["recovery"], (t["low"], t["high"]) if t["residues"] else None),
        )
        for t in found[0]["types"]
    ]
    table = markdown_table(("type", "residues", "recovery"), rows)
    return "\n".join([*lines, "95% intervals, from a bootstrap over proteins, are in brackets.", "", table])


def _with_interval(number: float, interval: tuple[float, float] | None) -> str:
    """A number with its 95% interval; empty where nothing was counted."""
    return "" if interval is None else f"{number:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def clustering_summary(clusters: Clustering) -> str:
    """Clusters and codes in one line."""
    sizes = clusters["cluster_sizes"]
    more = ""
    if clusters.get("codes_used_share"):  # results of before had no shares; without a codebook they are 0
        more = (
            f" ({clusters['codes_used_share']:.0%} and {clusters['perplexity_share']:.0%} of the codebook), "
            f"{clusters['quantisation_error']:.1%} of the variance of cluster features lost by codes"
        )
    if "effective_dimension" in clusters:
        more += f", effective dimension of cluster features {clusters['effective_dimension']:.1f}"
    return (
        f"{clusters['clusters_per_protein']:.2f} clusters per protein of {sizes['mean']:.1f} residues "
        f"(median {sizes['median']:.0f}, quartiles {sizes['q25']:.0f} to {sizes['q75']:.0f}), "
        f"{clusters['coverage']:.1%} of residues in a cluster, "
        f"{clusters['codes_used']} codes used, perplexity {clusters['perplexity']:.1f}{more}"
    )


def report_markdown(report: RunReport, records: Sequence[EpochRecord]) -> str:
    """The text of report.md."""
    data, model = report["data"], report["config"]["model"]
    sizes = ", ".join(f"{sum(counts)} {split}" for split, counts in data["class_counts"].items())
    cropped = sum(map(len, data["cropped"].values()))
    unlabelled = sum(data.get("unlabelled", {}).values())  # reports of before had no such count
    if "recovery" in report["test"]:
        sizes, unlabelled = ", ".join(f"{count} {split}" for split, count in data["unlabelled"].items()), 0
    more = f" and {unlabelled} without a label" if unlabelled else ""
    lines = [
        f"# {model['kind']} on {data['task']}",
        "",
        *_origin(report),
        f"{report['parameters']['total']:,} parameters, seed {report['config']['seed']}, "
        f"{len(records)} epochs; {sizes} proteins{more} ({cropped} cropped, "
        f"{data['left_out']} chains left out); batches of {data['batch_size']}, "
        f"{data['padding_share']:.1%} padding.",
        "",
        f"## Test, best checkpoint (epoch {report['best_epoch']})",
        "",
        scores_table(report["test"]),
        "",
    ]
    if (clusters := report["test"]["clustering"]) is not None:
        lines += [clustering_summary(clusters) + ".", ""]
    lines += [
        "## Time",
        "",
        f"{report['seconds']:.0f} s for training and validation, compilation included; "
        f"{speed(report, records)}.",
        "",
        ", ".join(f"{name} {value}" for name, value in report["environment"].items()) + ".",
        "",
        "![learning curves](curves.png)",
        "",
    ]
    return "\n".join(lines)


def _origin(report: RunReport) -> list[str]:
    """The command and its date, and an empty line."""
    if "date" not in report:  # reports of before had neither
        return []
    date = datetime.fromisoformat(report["date"])
    command = f"`{report['command']}`" if report["command"] else "A call from Python"
    return [f"{command}, started on {date:%Y-%m-%d} at {date:%H:%M} UTC.", ""]


def epoch_line(record: EpochRecord, num_epochs: int, improved: bool) -> str:
    """An epoch in a line; a star where it is the best so far."""
    scores, clusters = record["validation"]["classification"], record["validation"]["clustering"]
    line = (
        f"epoch {record['epoch']:3}/{num_epochs} stage {record['stage']}  "
        f"loss {record['train']['loss']:.3f}  validation: "
    )
    if recovery := record["validation"].get("recovery"):
        line += recovery_with_interval(recovery[0])
    else:
        line += f"accuracy {accuracy_with_interval(scores)} macro-F1 {scores['macro_f1']:.3f}"
    if clusters is not None:
        line += f" coverage {clusters['coverage']:.2f}"
        if clusters["codes_used"]:
            line += f" codes {clusters['codes_used']}"
    line += f"  {record['proteins_per_second']:.1f} proteins/s"
    if not _was_timed(record):
        line += ", compilation included"
    return line + ("  *" if improved else "")
