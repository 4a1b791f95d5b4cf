"""The comparison as Markdown and as a plot."""

from pathlib import Path
from typing import Any

NAMES = {
    "torch_loops": "PyTorch, partitioner by loops as published",
    "torch_vectorised": "PyTorch, vectorised",
    "torch_compile": "PyTorch, torch.compile",
    "jax_plain": "JAX, plain",
    "jax_fast": "JAX, fast",
    "original": "the authors' code",
}
MODELS = {"gvp": "GVP", "partoken": "ParToken"}
PASSES = {"forward": "inference", "train_step": "training step"}


def markdown(result: dict[str, Any]) -> str:
    """The report of one comparison (`experiments.compare.comparison.compare_frameworks`)."""
    environment = result["environment"]
    lines = [
        f"torch {environment['torch']} on {environment['torch_device']}, jax {environment['jax']} on "
        f"{environment['device']}; {environment['cores']} CPU cores.",
        "",
        f"`{environment['command']}`",
        "",
    ]
    for name in PASSES:
        rows = [row for row in result["measurements"] if row["pass"] == name]
        lines += [
            f"#### {PASSES[name].capitalize()}",
            "",
            "| model | proteins | variant | median | quartiles | JAX fast / this | quartiles | peak memory "
            "| compile | host reads |",
            "|---|---|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        lines += [_line(result, row) for row in rows]
        lines.append("")
    if result["equality"]:
        lines += [
            "#### Checked before timing",
            "",
            "Relative errors (L2 norm) against JAX fast, same weights and proteins: of inference, as timed, "
            "and of loss, logits and gradients in training with the same noise and no dropout.",
            "",
            "| model | batch | variant | inference | loss | logits | gradients | worst parameter "
            "| in another cluster |",
            "|---|---:|---|---:|---:|---:|---:|---:|---:|",
        ]
        for row in result["equality"]:
            names = ("inference", "loss", "logits", "gradients", "worst_gradient")
            errors = [f"{name}_error" for name in names]
            cells = [f"{row[key]:.1e}" for key in errors if key in row]
            cells += [f"{row['clusters_differing']:.2%}"] if "clusters_differing" in row else []
            told = (
                " | ".join(cells)
                if cells
                else f"gradients missing: {', '.join(row['missing_gradients'])} | | | | |"
            )
            lines.append(
                f"| {MODELS[row['model']]} | {row['batch_size']} | {NAMES[row['variant']]} | {told} |"
            )
        lines.append("")
    return "\n".join(lines)


def _line(result: dict[str, Any], row: dict[str, Any]) -> str:
    size = f"{row['batch_size']} × {row['residues'] or 'real'}"
    start = f"| {MODELS[row['model']]} | {size} | {NAMES[row['variant']]} |"
    if row["median_ms"] is None:
        return f"{start} {row['status']} | | | | | | |"
    low, high = row["quartiles_ms"]
    key = f"jax_fast_over_{row['variant']}.{row['model']}.{row['pass']}."
    key += f"{row['batch_size']}x{row['residues'] or 'real'}"
    ratio = result["ratios"].get(key)
    ratios = (
        f"{ratio['median']:.2f} | {ratio['quartiles'][0]:.2f} to {ratio['quartiles'][1]:.2f}"
        if ratio
        else " | "
    )
    compiled = "" if row["compile_s"] is None else f"{row['compile_s']:.1f} s"
    reads = "" if row["host_reads"] is None else f"{row['host_reads']:,}"
    return (
        f"{start} {row['median_ms']:.0f} ms | {low:.0f} to {high:.0f} | {ratios} | "
        f"{row['peak_bytes'] / 1e6:,.0f} MB | {compiled} | {reads} |"
    )


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars of the training step, a panel for each model and batch size, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = [row for row in result["measurements"] if row["pass"] == "train_step"]
    models = [kind for kind in MODELS if any(row["model"] == kind for row in steps)]
    sizes = sorted({row["batch_size"] for row in steps})
    figure, panels = plt.subplots(
        len(models), len(sizes), figsize=(5.0 * len(sizes), 2.6 * len(models)), squeeze=False
    )
    for line, kind in zip(panels, models, strict=True):
        for axes, size in zip(line, sizes, strict=True):
            rows = [row for row in steps if (row["model"], row["batch_size"]) == (kind, size)]
            for place, row in enumerate(rows[::-1]):
                if row["median_ms"] is None:
                    axes.text(0, place, f" {row['status']}", va="center", fontsize=8)
                    continue
                low, high = row["quartiles_ms"]
                middle = row["median_ms"]
                ours = row["framework"] == "jax"
                axes.barh(
                    place,
                    middle,
                    xerr=[[middle - low], [high - middle]],
                    color="tab:blue" if ours else "tab:orange",
                )
            axes.set_yticks(range(len(rows)), [NAMES[row["variant"]].split(" as ")[0] for row in rows[::-1]])
            axes.tick_params(axis="y", labelsize=8)
            axes.set_title(f"{MODELS[kind]}, batch {size}", fontsize=10)
            axes.set_xlabel("ms per training step")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
