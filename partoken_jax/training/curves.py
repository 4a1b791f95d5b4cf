"""The learning curves of runs, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from partoken_jax.training.records import EpochRecord

DECADES = 100
"""A loss whose largest value is this many times its smallest is drawn on a logarithmic axis."""
MARKED = 20
"""Runs of at most this many epochs have a mark at each: a single epoch would draw no line."""


def plot_curves(runs: Mapping[str, Sequence[EpochRecord]], path: Path) -> None:
    """Learning curves of one or more runs, by name, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure = draw_curves(runs)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_curves(runs: Mapping[str, Sequence[EpochRecord]]) -> Any:
    """The figure: losses and validation scores, and under them clusters and codes if a run has them."""
    import matplotlib.pyplot as plt

    clustered = any(records[-1]["validation"]["clustering"] is not None for records in runs.values())
    rows = 2 if clustered else 1
    figure, grid = plt.subplots(rows, 2, figsize=(10, 4.2 * rows), squeeze=False, layout="constrained")
    _scores(grid[0], runs)
    if clustered:
        _clusters(grid[1], runs)
    for axes in grid.flat:
        for records in runs.values():
            first = next((r["epoch"] for r in records if r["stage"] == 1), None)
            if first is not None and first > 1:
                axes.axvline(first - 0.5, color="grey", lw=0.8, ls=":")  # stage 1 begins
        _fit(axes, max(records[-1]["epoch"] for records in runs.values()))
    return figure


def _scores(row: Any, runs: Mapping[str, Sequence[EpochRecord]]) -> None:
    loss, accuracy = row
    losses: list[float] = []
    for number, (name, records) in enumerate(runs.items()):
        style, second = _styles(records, number)
        epochs = [r["epoch"] for r in records]
        train = [r["train"]["cross_entropy"] for r in records]
        validation = [r["validation"]["cross_entropy"] for r in records]
        scores = [r["validation"]["classification"] for r in records]
        losses += train + validation
        loss.plot(epochs, train, label=f"{name}, train", **second)
        loss.plot(epochs, validation, label=f"{name}, validation", **style)
        accuracy.plot(epochs, [s["accuracy"] for s in scores], label=f"{name}, accuracy", **style)
        accuracy.plot(epochs, [s["macro_f1"] for s in scores], label=f"{name}, macro-F1", **second)
    majority = next(iter(runs.values()))[-1]["validation"]["classification"]["majority_share"]
    accuracy.axhline(majority, color="grey", lw=0.8, label="most frequent class")
    if min(losses) > 0 and max(losses) >= DECADES * min(losses):
        loss.set_yscale("log")
    loss.set_ylabel("cross entropy")
    accuracy.set_ylabel("validation")
    accuracy.set_ylim(0, 1.02)


def _clusters(row: Any, runs: Mapping[str, Sequence[EpochRecord]]) -> None:
    codes, residues = row
    highest = 1
    for number, (name, records) in enumerate(runs.items()):
        found = [(r["epoch"], c) for r in records if (c := r["validation"]["clustering"]) is not None]
        if not found:
            continue
        style, second = _styles(records, number)
        coverage = [c["coverage"] for _, c in found]
        residues.plot([e for e, _ in found], coverage, label=f"{name}, in a cluster", **style)
        found = [(e, c) for e, c in found if c["codes_used"]]  # stage 0 has no codes
        if found:
            epochs, used = [e for e, _ in found], [c["codes_used"] for _, c in found]
            codes.plot(epochs, used, label=f"{name}, codes used", **style)
            codes.plot(epochs, [c["perplexity"] for _, c in found], label=f"{name}, perplexity", **second)
            highest = max(highest, *used)
    if not codes.lines:
        codes.text(0.5, 0.5, "no codes in use yet", transform=codes.transAxes, ha="center")
    codes.set_ylabel("codebook (validation)")
    codes.set_ylim(0, 1.05 * highest)
    residues.set_ylabel("share of residues (validation)")
    residues.set_ylim(0, 1.02)


def _styles(records: Sequence[EpochRecord], number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """How the first and the second curve of a run are drawn: in one colour, the second one broken."""
    marks = {"marker": "o", "markersize": 5} if len(records) <= MARKED else {}
    first = {"color": f"C{number}", **marks}
    return first, first | {"ls": "--"} | ({"markerfacecolor": "white"} if marks else {})


def _fit(axes: Any, last: int) -> None:
    """An axis of whole epochs, all of them on it, and a legend that covers nothing: it stands above."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    if axes.lines:
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
