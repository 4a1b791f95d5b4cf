"""What a finished run leaves behind: report.json, report.md and the learning curves."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

import jax
import numpy as np

from partoken_jax.tables import markdown_table
from partoken_jax.training.epochs import Evaluation
from partoken_jax.training.metrics import Classification, Clustering, hits, wilson
from partoken_jax.training.records import EpochRecord


class DataReport(TypedDict):
    source: str
    task: str
    class_names: list[str]
    class_counts: dict[str, list[int]]
    """Proteins per class of each split."""
    unlabelled: dict[str, int]
    """Proteins of each split without a label."""
    cropped: dict[str, list[str]]
    """Proteins cut to `max_length`, by name."""
    left_out: int
    """Chains of the task that are in no split of the scheme."""
    batch_size: int
    node_counts: list[int]
    """Padded residues per batch, one compilation each."""
    padding_share: float
    """Padding residues / all rows, over all batches of the run."""


class RunReport(TypedDict):
    """report.json"""

    run_dir: str
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
    """Median over epochs of the median step."""
    proteins_per_second: float
    """Median over epochs."""
    environment: dict[str, str]


def environment() -> dict[str, str]:
    """Versions and device, for reports."""
    packages = {name: version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **packages,
        "device": f"{device.device_kind} ({device.platform})",
    }


def timing(records: Sequence[EpochRecord]) -> dict[str, float]:
    """`seconds`, `step_ms` and `proteins_per_second` of a run."""
    return {
        "seconds": float(sum(r["seconds"] + r["validation_seconds"] for r in records)),
        "step_ms": float(np.median([r["step_ms"] for r in records])),
        "proteins_per_second": float(np.median([r["proteins_per_second"] for r in records])),
    }


def write_report(run_dir: Path, report: RunReport, records: Sequence[EpochRecord]) -> None:
    """Writes report.json, report.md and curves.png."""
    plot_curves({report["config"]["model"]["kind"]: records}, run_dir / "curves.png")
    (run_dir / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (run_dir / "report.md").write_text(report_markdown(report, records))


def accuracy_with_interval(scores: Classification) -> str:
    """Accuracy with what it was counted from and its 95% interval: "0.896 (86 of 96; 0.819 to 0.942)"."""
    low, high = wilson(hits(scores), scores["proteins"])
    return f"{scores['accuracy']:.3f} ({hits(scores)} of {scores['proteins']}; {low:.3f} to {high:.3f})"


def classification_table(scores: Classification) -> str:
    """Accuracy and F1 over all classes and per class, as a Markdown table under a sentence.

    Accuracy and recalls are shares of counted proteins and come with their 95% intervals (`wilson`).
    """
    low, high = wilson(hits(scores), scores["proteins"])
    unlabelled = scores.get("unlabelled", 0)  # results of before had no such count
    left_out = f" {unlabelled} without a label are not scored." if unlabelled else ""
    rows: list[tuple[object, ...]] = []
    for i, c in enumerate(scores["classes"]):
        interval = wilson(scores["confusion"][i][i], c["count"]) if c["count"] else None
        rows.append(
            (
                c["name"],
                c["count"],
                c["predicted"],
                f"{c['precision']:.3f}",
                f"{c['recall']:.3f}",
                None if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
                f"{c['f1']:.3f}",
            )
        )
    header = ("class", "proteins", "predicted", "precision", "recall", "95% interval", "F1")
    return "\n".join(
        [
            f"{scores['proteins']} proteins: accuracy {scores['accuracy']:.3f} "
            f"({hits(scores)} of {scores['proteins']}; 95% interval {low:.3f} to {high:.3f}), "
            f"macro-F1 {scores['macro_f1']:.3f}. "
            f"Always the most frequent class: accuracy {scores['majority_share']:.3f}."
            f"{left_out}",
            "",
            markdown_table(header, rows),
        ]
    )


def clustering_summary(clusters: Clustering) -> str:
    """Clusters and codes in one line."""
    sizes = clusters["cluster_sizes"]
    return (
        f"{clusters['clusters_per_protein']:.2f} clusters per protein of {sizes['mean']:.1f} residues "
        f"(median {sizes['median']:.0f}, quartiles {sizes['q25']:.0f} to {sizes['q75']:.0f}), "
        f"{clusters['coverage']:.1%} of residues in a cluster, "
        f"{clusters['codes_used']} codes used, perplexity {clusters['perplexity']:.1f}"
    )


def plot_curves(runs: Mapping[str, Sequence[EpochRecord]], path: Path) -> None:
    """Learning curves of one or more runs, by name, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with_clusters = {
        name: records for name, records in runs.items() if records[-1]["validation"]["clustering"] is not None
    }
    figure, grid = plt.subplots(
        2 if with_clusters else 1, 2, figsize=(10, 7 if with_clusters else 3.6), squeeze=False
    )
    loss, accuracy = grid[0]
    for number, (name, records) in enumerate(runs.items()):
        epochs, colour = [r["epoch"] for r in records], f"C{number}"
        loss.plot(
            epochs, [r["train"]["cross_entropy"] for r in records], colour, ls=":", label=f"{name}, train"
        )
        loss.plot(
            epochs, [r["validation"]["cross_entropy"] for r in records], colour, label=f"{name}, validation"
        )
        scores = [r["validation"]["classification"] for r in records]
        accuracy.plot(epochs, [s["accuracy"] for s in scores], colour, label=f"{name}, accuracy")
        accuracy.plot(epochs, [s["macro_f1"] for s in scores], colour, ls="--", label=f"{name}, macro-F1")
    majority = next(iter(runs.values()))[-1]["validation"]["classification"]["majority_share"]
    accuracy.axhline(majority, color="grey", lw=0.8, label="most frequent class")
    loss.set_ylabel("cross entropy")
    accuracy.set_ylabel("validation")
    for name, records in with_clusters.items():
        epochs = [r["epoch"] for r in records]
        clusters = [c for r in records if (c := r["validation"]["clustering"]) is not None]
        codes, residues = grid[1]
        codes.plot(epochs, [c["codes_used"] for c in clusters], label=f"{name}, codes used")
        codes.plot(epochs, [c["perplexity"] for c in clusters], label=f"{name}, perplexity")
        residues.plot(epochs, [c["coverage"] for c in clusters], label=f"{name}, residues in a cluster")
        residues.set_ylim(0, 1)
        codes.set_ylabel("codebook (validation)")
        residues.set_ylabel("share of residues")
    for axes in grid.flat:
        for records in runs.values():
            first = next((r["epoch"] for r in records if r["stage"] == 1), None)
            if first is not None and first > 1:
                axes.axvline(first - 0.5, color="grey", lw=0.8, ls=":")  # stage 1 begins
        axes.set_xlabel("epoch")
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def report_markdown(report: RunReport, records: Sequence[EpochRecord]) -> str:
    """The text of report.md."""
    data, model = report["data"], report["config"]["model"]
    sizes = ", ".join(f"{sum(counts)} {split}" for split, counts in data["class_counts"].items())
    cropped = sum(map(len, data["cropped"].values()))
    unlabelled = sum(data.get("unlabelled", {}).values())  # reports of before had no such count
    more = f" and {unlabelled} without a label" if unlabelled else ""
    lines = [
        f"# {model['kind']} on {data['task']}",
        "",
        f"{report['parameters']['total']:,} parameters, seed {report['config']['seed']}, "
        f"{len(records)} epochs; {sizes} proteins{more} ({cropped} cropped, "
        f"{data['left_out']} chains in no split); batches of {data['batch_size']}, "
        f"{data['padding_share']:.1%} padding.",
        "",
        f"## Test, best checkpoint (epoch {report['best_epoch']})",
        "",
        classification_table(report["test"]["classification"]),
        "",
    ]
    if (clusters := report["test"]["clustering"]) is not None:
        lines += [clustering_summary(clusters) + ".", ""]
    lines += [
        "## Time",
        "",
        f"{report['seconds']:.0f} s for training and validation, compilation included; "
        f"{report['step_ms']:.0f} ms per step (median), {report['proteins_per_second']:.1f} proteins/s.",
        "",
        ", ".join(f"{name} {value}" for name, value in report["environment"].items()) + ".",
        "",
        "![learning curves](curves.png)",
        "",
    ]
    return "\n".join(lines)
