"""Timing results as plots (PNG)."""

from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.timing.report import MODEL_NAMES, time_by_component

_AXES = {"batch": ("batch_size", "proteins per step"), "length": ("residues", "residues per protein")}
"""Sweeps over a number: the field of a row that varies, and its name."""


def plot_sweeps(result: dict[str, Any], path: Path) -> None:
    """A panel for every sweep of a result: lines over a number, bars over a choice."""
    plt = _pyplot()
    sweeps = result["sweeps"]
    columns = min(3, len(sweeps))
    lines = -(-len(sweeps) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(5.5 * columns, 4.0 * lines), squeeze=False)
    for axes in panels.flat[len(sweeps) :]:
        axes.set_visible(False)
    for axes, (name, sweep) in zip(panels.flat, sweeps.items(), strict=False):
        rows = [row for row in sweep["rows"] if row["median_ms"] is not None]
        axes.set_title(name)
        if name in _AXES or name == "clusters":
            _lines(axes, name, rows)
        else:
            axes.barh([row["label"] for row in rows][::-1], [row["median_ms"] for row in rows][::-1])
            axes.set_xlabel("ms per training step")
            axes.tick_params(axis="y", labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _lines(axes: Any, name: str, rows: list[dict[str, Any]]) -> None:
    """Milliseconds with quartiles: per protein over a size, per step over the number of clusters."""
    field, label = _AXES.get(name, ("max_clusters", "clusters"))
    for key in dict.fromkeys(_curve(name, row) for row in rows):
        mine = [row for row in rows if _curve(name, row) == key]
        proteins = [
            1 if name == "clusters" else row["median_ms"] * row["proteins_per_s"] / 1e3 for row in mine
        ]
        low, middle, high = np.array([_quartiles(row) for row in mine]).T / proteins
        sizes = [row[field] for row in mine]
        axes.errorbar(sizes, middle, yerr=(middle - low, high - middle), marker="o", label=key)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.set_ylabel("ms per training step" if name == "clusters" else "ms per protein")
    axes.legend(fontsize=8)
    if name in _AXES:
        axes.set_xscale("log")


def _quartiles(row: dict[str, Any]) -> tuple[float, float, float]:
    low, high = row["quartiles_ms"]
    return low, row["median_ms"], high


def _curve(name: str, row: dict[str, Any]) -> str:
    return f"k_hop {row['k_hop']}" if name == "clusters" else MODEL_NAMES[row["model"]]


def plot_components(result: dict[str, Any], path: Path) -> None:
    """Stacked bars: forward, backward and update of every component, one panel per model, as a PNG."""
    plt = _pyplot()
    kinds = list(result["breakdown"])
    figure, panels = plt.subplots(1, len(kinds), figsize=(5.5 * len(kinds), 4.5), squeeze=False)
    for axes, kind in zip(panels[0], kinds, strict=True):
        totals = time_by_component(result, kind)
        names = sorted(totals, key=lambda name: totals[name])
        left = [0.0] * len(names)
        for direction in ("forward", "backward", "update"):
            spent = {
                row["name"]: row["ms"]
                for row in result["components"]
                if row["model"] == kind and row["direction"] == direction
            }
            widths = [spent.get(name, 0.0) for name in names]
            axes.barh(names, widths, left=left, label=direction)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.set_xlabel("ms per training step")
        axes.set_title(MODEL_NAMES[kind])
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
