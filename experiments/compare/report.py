"""The comparison as Markdown and as a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.compare.protocol import REFERENCE
from partoken_jax.tables import markdown_table

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
        "# Against PyTorch",
        "",
        f"torch {environment['torch']} on {environment['torch_device']}, jax {environment['jax']} on "
        f"{environment['device']}; {environment['cores']} CPU cores.",
        "",
        f"`{environment['command']}`",
        "",
    ]
    for name, title in PASSES.items():
        rows = [row for row in result["measurements"] if row["pass"] == name]
        lines += [f"## {title.capitalize()}", "", measured_table(result, rows), ""]
    if result["equality"]:
        lines += [
            "## Checked before timing",
            "",
            "Relative errors (L2 norm) against JAX fast, with the same weights and proteins: of inference, "
            "as timed, and of loss, logits and gradients in training with the same noise and no dropout.",
            "",
            _equality_table(result["equality"]),
            "",
        ]
    return "\n".join(lines)


def measured_table(result: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The given rows of `measurements`, each with the time of JAX fast over its own."""
    times = ("median", "quartiles", "JAX fast / this", "quartiles")
    header = ("model", "proteins", "variant", *times, "peak memory", "compile", "host reads")
    return markdown_table(header, [_measured(result, row) for row in rows], "lll" + "r" * 7)


def _measured(result: dict[str, Any], row: dict[str, Any]) -> tuple[object, ...]:
    size = f"{row['batch_size']} × {row['residues'] or 'real'}"
    start = (MODELS[row["model"]], size, NAMES[row["variant"]])
    if row["median_ms"] is None:
        return (*start, row["status"])
    low, high = row["quartiles_ms"]
    ratio = ratio_to_fast(result, row)
    return (
        *start,
        f"{row['median_ms']:.0f} ms",
        f"{low:.0f} to {high:.0f}",
        f"{ratio['median']:.2f}" if ratio else None,
        "{:.2f} to {:.2f}".format(*ratio["quartiles"]) if ratio else None,
        f"{row['peak_bytes'] / 1e6:,.0f} MB",
        None if row["compile_s"] is None else f"{row['compile_s']:.1f} s",
        None if row["host_reads"] is None else f"{row['host_reads']:,}",
    )


def ratio_to_fast(result: dict[str, Any], row: dict[str, Any]) -> dict[str, Any] | None:
    """Time of JAX fast over that of a row of `measurements`; None for JAX fast itself."""
    batch = f"{row['batch_size']}x{row['residues'] or 'real'}"
    return result["ratios"].get(f"{REFERENCE}_over_{row['variant']}.{row['model']}.{row['pass']}.{batch}")


def overview(results: Sequence[dict[str, Any]]) -> str:
    """Training steps of JAX fast over those of every other variant, from several results."""
    lines: dict[tuple[int, str], dict[str, str]] = {}
    for result in results:
        steps = [row for row in result["measurements"] if row["pass"] == "train_step"]
        fast = {(r["batch_size"], r["model"]): r["peak_bytes"] for r in steps if r["variant"] == REFERENCE}
        for row in steps:
            key = row["batch_size"], row["model"]
            line = lines.setdefault(key, {})
            if row["median_ms"] is None:
                line[row["variant"]] = row["status"]
            elif ratio := ratio_to_fast(result, row):
                line[row["variant"]] = "{:.2f} ({:.2f}–{:.2f})".format(ratio["median"], *ratio["quartiles"])
                if row["variant"] == "torch_vectorised":
                    line["memory"] = f"{fast[key] / row['peak_bytes']:.2f}"
    names = {name: text for name, text in NAMES.items() if any(name in line for line in lines.values())}
    names["memory"] = "peak memory, of vectorised"
    rows = [
        (MODELS[kind], f"{size} × 300", *(line.get(name) for name in names))
        for (size, kind), line in sorted(lines.items())
    ]
    return markdown_table(("JAX fast /", "proteins", *names.values()), rows, "ll" + "r" * len(names))


def _equality_table(found: Sequence[dict[str, Any]]) -> str:
    names = ("inference", "loss", "logits", "gradients", "worst_gradient")
    rows = []
    for row in found:
        cells = [f"{row[f'{name}_error']:.1e}" for name in names if f"{name}_error" in row]
        cells += [f"{row['clusters_differing']:.2%}"] if "clusters_differing" in row else []
        cells = cells or [f"gradients missing: {', '.join(row['missing_gradients'])}"]
        rows.append((MODELS[row["model"]], row["batch_size"], NAMES[row["variant"]], *cells))
    header = ("model", "batch", "variant", "inference", "loss", "logits", "gradients", "worst parameter")
    return markdown_table((*header, "in another cluster"), rows, "lrl" + "r" * 6)


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
