"""Writes the details of an evaluation: tables as .csv, the confusion matrix as a picture, and a summary."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from partoken_jax.files import write_whole
from partoken_jax.interpret.details import CodeUse, Details, TypicalCluster
from partoken_jax.interpret.enrichment import Enrichment
from partoken_jax.tables import markdown_table
from partoken_jax.training.calibration import expected_calibration_error
from partoken_jax.training.metrics import Distribution

LIMIT = 0.05
"""Of q, below which a code is said to go with a class."""
SHOWN = 20
"""Rows of a table in the summary; the .csv files have all."""


def write_details(folder: Path, found: Details) -> list[Path]:
    """Writes the files into a folder, which is made where there is none, and returns their paths.

    Raises OSError where they cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    confusion = [(name, *row) for name, row in zip(found.class_names, found.confusion.tolist(), strict=True)]
    tables: dict[str, str] = {
        "confusion.csv": _csv(("true class", *found.class_names), confusion),
        "reliability.csv": _csv(tuple(found.reliability[0]), [tuple(b.values()) for b in found.reliability]),
        "codes.csv": _csv(CodeUse._fields, found.codes),
        "enrichment.csv": _csv(Enrichment._fields, found.enrichment),
        "typical_clusters.csv": _csv(TypicalCluster._fields, found.typical),
        "details.md": details_markdown(found),
    }
    for name, text in tables.items():
        write_whole(folder / name, text)
    draw_confusion(found, folder / "confusion.png")
    return [folder / name for name in (*tables, "confusion.png")]


def details_markdown(found: Details) -> str:
    """The summary."""
    spread = [
        (
            name,
            values["count"],
            *(f"{values[key]:.2f}" for key in ("mean", "min", "q25", "median", "q75", "max")),
        )
        for name, values in _distributions(found).items()
    ]
    bins = [
        (
            f"{b['low']:.1f} to {b['high']:.1f}",
            b["count"],
            f"{b['correct'] / b['count']:.3f}",
            f"{b['confidence']:.3f}",
        )
        for b in found.reliability
        if b["count"]
    ]
    codes = [
        (
            row.token,
            row.clusters,
            f"{row.share:.1%}",
            row.proteins,
            f"{row.mean_size:.1f}",
            f"{row.mean_importance:.3f}",
        )
        for row in found.codes[:SHOWN]
    ]
    told = [row for row in found.enrichment if row.q < LIMIT]
    pairs = [
        (row.token, row.label, f"{row.both} of {row.of_token}", f"{row.ratio:.1f}", f"{row.q:.1g}")
        for row in told[:SHOWN]
    ]
    return "\n".join(
        [
            "# Details",
            "",
            "![confusion matrix](confusion.png)",
            "",
            "## Clusters",
            "",
            markdown_table(("", "count", "mean", "min", "25%", "median", "75%", "max"), spread),
            "",
            "## Calibration",
            "",
            f"Expected calibration error {expected_calibration_error(found.reliability):.3f}.",
            "",
            markdown_table(("confidence", "proteins", "right", "mean confidence"), bins),
            "",
            "## Codes",
            "",
            f"{len(found.codes)} codes are in use"
            + (f"; the {SHOWN} most frequent ones:" if len(found.codes) > SHOWN else "."),
            "",
            markdown_table(
                ("code", "clusters", "share", "proteins", "residues", "importance"), codes, "rrrrrr"
            ),
            "",
            "## Codes and classes",
            "",
            f"{len(told)} of {len(found.enrichment)} pairs of a code and a class go together more often than "
            f"by chance (Fisher's exact test, q < {LIMIT} after Benjamini and Hochberg). Clusters count as "
            "independent, and those of one protein are not quite.",
            "",
            markdown_table(("code", "class", "clusters", "times as often", "q"), pairs, "rlrrr"),
            "",
        ]
    )  # fmt: skip


def draw_confusion(found: Details, path: Path) -> None:
    """The confusion matrix as a PNG: colours are shares of the true class, numbers are proteins."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    number = len(found.class_names)
    side = 2.5 + 0.35 * number
    figure, axes = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    shares = found.confusion / found.confusion.sum(axis=1, keepdims=True).clip(1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(number):
        for column in range(number):
            if count := int(found.confusion[row, column]):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(number), found.class_names, rotation=90)
    axes.set_yticks(range(number), found.class_names)
    axes.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _distributions(found: Details) -> dict[str, Distribution]:
    return {
        "residues per cluster": found.sizes,
        "clusters per protein": found.clusters,
        "share of residues in a cluster": found.coverage,
    }


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
