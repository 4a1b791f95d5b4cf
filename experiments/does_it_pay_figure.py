"""What `experiments.does_it_pay` found, as a figure."""

from pathlib import Path
from typing import Any

from experiments.learn import COMPARED


def draw(results: dict[str, Any], path: Path) -> None:
    """Test accuracy of every variant against its training time and its parameters, a row per task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = results["tasks"]
    colours = plt.get_cmap("tab20")
    styles = {
        name: (colours(number % colours.N), "s" if name.startswith("partoken") else "o")
        for number, name in enumerate(COMPARED)
    }
    figure, panels = plt.subplots(len(tasks), 2, figsize=(10, 3.4 * len(tasks)), squeeze=False, sharey="row")
    for row, (task, found) in zip(panels, tasks.items(), strict=True):
        for name, mine in found["variants"].items():
            colour, marker = styles[name]
            low, high = mine["accuracy_interval"]
            error = [[mine["accuracy"] - low], [high - mine["accuracy"]]]
            for axes, place in zip(row, (mine["seconds"], mine["parameters"] / 1e3), strict=True):
                axes.errorbar(
                    [place],
                    [mine["accuracy"]],
                    error,
                    fmt=marker,
                    color=colour,
                    capsize=3,
                    label=COMPARED[name],
                )
            times = [seed["seconds"] for seed in mine["per_seed"]]
            row[0].plot(times, [seed["accuracy"] for seed in mine["per_seed"]], ".", color=colour, alpha=0.5)
        if task in results["forest"]:
            for axes in row:
                axes.axhline(
                    results["forest"][task]["accuracy"], color="grey", linestyle="--", label="random forest"
                )
        row[0].set_ylabel("test accuracy")
        row[0].set_xlabel("training time of a run, s")
        row[1].set_xlabel("parameters, thousands")
        for axes in row:
            axes.set_xlim(0, 1.05 * axes.get_xlim()[1])  # from 0, or a difference of 1% would fill the panel
            axes.set_title(task, fontsize=9)
    entries = {
        label: handle
        for axes in panels.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), fontsize=7, loc="upper left", bbox_to_anchor=(0.92, 0.98))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout(rect=(0, 0, 0.92, 1))
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
