"""The figures of the documents, drawn from committed results."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.compare.report import MODELS, NAMES
from partoken_jax.timing.report import time_by_component

SMALL = 0.015
"""Components with a smaller share of both models' steps are drawn together."""


def digest(data: Any) -> str:
    """Of what a figure shows; it is kept inside the PNG, so that a figure of other data is noticed."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def digest_of(picture: Path) -> str | None:
    """What `digest` was of the data of a picture; None if there is no picture, or it is not one of these."""
    from PIL import Image

    if not picture.is_file():
        return None
    with Image.open(picture) as image:
        return image.info.get("Source")


def timing_data(run: dict[str, Any], comparisons: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the figure of docs/TIMING.md shows."""
    components = {kind: time_by_component(run, kind) for kind in MODELS}
    steps = {kind: run["breakdown"][kind]["step_ms"] for kind in MODELS}
    return {"components": components, "steps": steps, "medians": medians(comparisons), "least": SMALL}


def medians(comparisons: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds per training step: model → variant → proteins per step."""
    found: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in MODELS}
    for result in comparisons:
        for row in result["measurements"]:
            if row["pass"] == "train_step" and row["median_ms"] is not None:
                sizes = found[row["model"]].setdefault(row["variant"], {})
                sizes[str(row["batch_size"])] = row["median_ms"]
    return found


def draw_timing(data: dict[str, Any], path: Path) -> None:
    """Where the time of a training step goes, and what ParToken adds to GVP on this machine."""
    figure, (left, right) = pyplot().subplots(1, 2, figsize=(11, 3.6), width_ratios=(2, 1))
    steps, components = data["steps"], data["components"]
    shares = {kind: {n: ms / steps[kind] for n, ms in components[kind].items()} for kind in MODELS}
    order = sorted(shares["partoken"], key=lambda name: -shares["partoken"][name])
    shown = [n for n in order if max(shares[kind].get(n, 0.0) for kind in MODELS) >= data["least"]]
    start = {kind: 0.0 for kind in MODELS}
    for number, name in enumerate([*shown, "all others"]):
        for place, kind in enumerate(MODELS):
            mine = components[kind]
            width = mine.get(name, 0.0) if name != "all others" else steps[kind] - start[kind]
            label = name if place == 0 else None
            left.barh(place, width, left=start[kind], color=f"C{number}", label=label)
            start[kind] += width
    left.set_yticks(range(len(MODELS)), list(MODELS.values()))
    left.invert_yaxis()
    left.set_xlabel("ms per training step, from a profile")
    left.set_title("Where the time of a step goes", fontsize=10)
    left.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    times = data["medians"]
    pairs = {"the authors' ParToken / PyTorch GVP": ("original", "torch_vectorised")}
    pairs["our ParToken / our GVP"] = ("jax_fast", "jax_fast")
    for label, (above, below) in pairs.items():
        sizes = [s for s in times["partoken"].get(above, {}) if s in times["gvp"].get(below, {})]
        ratios = [times["partoken"][above][s] / times["gvp"][below][s] for s in sizes]
        right.plot([f"{s} × 300" for s in sizes], ratios, "o-", label=label)
    right.axhline(1, color="grey", linewidth=0.8)
    right.set_ylim(0, None)
    right.set_xlabel("proteins × residues per step")
    right.set_title("Training step, ParToken / GVP, on this CPU", fontsize=10)
    right.legend(fontsize=8, loc="lower left")
    save(figure, data, path)


def draw_comparison(data: dict[str, Any], path: Path) -> None:
    """Milliseconds per protein of a training step, for every variant of both models."""
    figure, panels = pyplot().subplots(1, len(MODELS), figsize=(11, 3.8), sharey=True)
    for axes, (kind, title) in zip(panels, MODELS.items(), strict=True):
        variants = [name for name in NAMES if name in data[kind]]
        sizes = sorted({size for variant in variants for size in data[kind][variant]}, key=int)
        for number, variant in enumerate(variants):
            mine = data[kind][variant]
            places = [i + (number - len(variants) / 2 + 0.5) * 0.13 for i, s in enumerate(sizes) if s in mine]
            heights = [mine[size] / int(size) for size in sizes if size in mine]
            colour = f"C{list(NAMES).index(variant)}"
            axes.bar(places, heights, width=0.12, color=colour, label=NAMES[variant])
        axes.set_xticks(range(len(sizes)), [f"{size} × 300" for size in sizes])
        axes.set_xlabel("proteins × residues per step")
        axes.set_title(title, fontsize=10)
    panels[0].set_ylabel("ms per protein, training step")
    panels[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    save(figure, data, path)


def save(figure: Any, data: Any, path: Path) -> None:
    """Writes a figure, with the digest of what it shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Source": digest(data)})
    pyplot().close(figure)


def pyplot() -> Any:
    """Matplotlib's interface, without a display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
