"""What was measured of training steps, as tables and sentences for the documents."""

import textwrap
from typing import Any

from experiments import figures
from experiments.compare.report import MODELS, PASSES, ratio_to_fast
from experiments.result_files import all_results, read
from partoken_jax.tables import markdown_table
from partoken_jax.timing.report import components_table

PUBLISHED_GAP = 4.0
"""ParToken / GVP at batch 64 on a GPU, as published (docs/REFERENCE.md, section 7)."""
GVP_RATE, PARTOKEN_RATE = 3.46, 0.88
"""The published batches per second behind it."""
REPRESENTATIVE = 16
"""Proteins per step of the runs whose tables the documents show."""


def step_medians() -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds per training step against PyTorch: model → variant → proteins per step."""
    return figures.medians(list(all_results("comparison").values()))


def measured() -> str:
    """The table of the first screen: the authors' code and ours on this machine."""
    times = step_medians()
    lines = {
        "PyTorch GVP": times["gvp"]["torch_vectorised"],
        "ParToken, the authors' code": times["partoken"]["original"],
        "our GVP": times["gvp"]["jax_fast"],
        "our ParToken": times["partoken"]["jax_fast"],
    }
    sizes = sorted(lines["our ParToken"], key=int)
    rows: list[tuple[object, ...]] = []
    for name, line in lines.items():
        rows.append((name, *(f"{line[size]:,.0f} ms" for size in sizes)))
        if "ParToken" in name:
            below = lines["our GVP" if name.startswith("our") else "PyTorch GVP"]
            rows.append(("— over the GVP above", *(f"{line[size] / below[size]:.2f}" for size in sizes)))
    ratios = {
        str(row["batch_size"]): ratio
        for result in all_results("comparison").values()
        for row in result["measurements"]
        if row["variant"] == "original" and row["pass"] == "train_step"
        if (ratio := ratio_to_fast(result, row))
    }
    cells = (f"**{ratios[s]['median']:.2f}** ({_range(ratios[s]['quartiles'])})" for s in sizes)
    rows.append(("**our ParToken / the authors' ParToken**", *cells))
    compared = [result["environment"] for result in all_results("comparison").values()]
    environment = compared[0]
    commands = " and ".join(f"`{e['command'].split(' --json')[0]}`" for e in compared)
    pairs = [ratio["pairs"] for ratio in ratios.values()]
    ours = [
        result["ratios"]["partoken_over_gvp.train_step"]["median"]
        for result in all_results("timing").values()
        if result["measurements"][0]["residues"]
    ]
    caption = (
        f"Proteins × residues per step; medians on a {environment['torch_device'].upper()} with "
        f"{environment['cores']} shared cores, jax {environment['jax']} and torch "
        f"{environment['torch'].split('+')[0]} ({commands}). Since then our steps have become shorter beside "
        f"PyTorch's (docs/COMPARISON.md). The last line is the median, with quartiles, of {min(pairs)} to "
        f"{max(pairs)} pairs that took turns, the other ratios are quotients of medians, which the machine's "
        "varying speed makes less sure. Where our two models took turns, ParToken took "
        f"{min(ours):.2f} to {max(ours):.2f} times as long (docs/TIMING.md)."
    )
    table = markdown_table(("training step", *(f"{size} × 300" for size in sizes)), rows)
    return f"{table}\n\n{wrapped(caption)}"


def gpu() -> str:
    """What was measured on a GPU, and what explains the published ratio."""
    result = read("gpu", "h100_batch64.json")
    environment = result["environment"]
    steps = {row["model"]: row["median_ms"] for row in result["measurements"] if row["pass"] == "train_step"}
    ratio = result["ratios"]["partoken_over_gvp.train_step"]
    times = step_medians()
    authors, theirs = times["partoken"]["original"], times["gvp"]["torch_vectorised"]
    ratios = [authors[size] / theirs[size] for size in authors]
    extra, reads = 1 / PARTOKEN_RATE - 1 / GVP_RATE, host_reads()
    device = environment["device"].removesuffix(" (gpu)")
    return wrapped(
        f"**On a GPU our ParToken took {ratio['median']:.2f} times as long as our GVP** "
        f"({_range(ratio['quartiles'])}, {ratio['pairs']} pairs of training steps on 64 real chains, taking "
        f"turns): {steps['partoken']:.0f} against {steps['gvp']:.0f} ms on an {device}, in "
        f"{environment['precision']}, with jax {environment['jax']} (`{environment['command']}`). Since then "
        "the step was made smaller (docs/COMPILED.md), which no GPU has run. The published ratio, also on a "
        f"GPU, is {PUBLISHED_GAP:.1f}: another experiment, with another program on another card. On our CPU "
        f"the authors' own ParToken takes only {min(ratios):.1f} to {max(ratios):.1f} times as long as the "
        "PyTorch GVP. Loops on the host that wait for the device could explain that: their training step of "
        f"64 proteins of 300 residues reads the device {reads:,} times (counted, "
        f"`comparison/cpu_64x300.json`), and the published one takes {extra:.2f} s more than GVP's, "
        f"{1e6 * extra / reads:.0f} µs for each read. Our step reads nothing. The authors' code "
        "we have not run on a GPU."
    )


def host_reads() -> int:
    """How often a training step of the authors' ParToken reads the device from the host, at batch 64."""
    rows = read("comparison", "cpu_64x300.json")["measurements"]
    (found,) = (
        row["host_reads"]
        for row in rows
        if (row["variant"], row["model"], row["pass"]) == ("original", "partoken", "train_step")
    )
    return found


def wrapped(text: str) -> str:
    """Paragraphs and points of one line each, as lines of a document."""
    lines = [(line, "  " * line.startswith("- ")) for line in text.splitlines()]
    options: Any = {"break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.fill(line, 118, subsequent_indent=of, **options) for line, of in lines)


def ratios() -> str:
    """ParToken over GVP, and what more clusters and hops cost."""
    rows: list[tuple[object, ...]] = []

    def add(what: str, ratio: dict[str, Any], run: str) -> None:
        rows.append((what, f"{ratio['median']:.2f}", _range(ratio["quartiles"]), ratio["pairs"], f"`{run}`"))

    for name, result in all_results("timing").items():
        first, swept = result["measurements"][0], result.get("sweeps", {})
        if first["residues"]:
            proteins = f"{first['batch_size']} proteins of {first['residues']} residues"
        else:
            proteins = f"{first['batch_size']} real chains"
        if name.startswith("batch") and name != "batches":  # the others repeat these with fewer runs
            add(f"ParToken / GVP, {proteins}", result["ratios"]["partoken_over_gvp.train_step"], name)
        for point in ("25 clusters, 1 hop", "5 clusters, 3 hops"):
            found = swept.get("clusters", {}).get("ratios", {})
            if ratio := found.get(f"ParToken, {point} / ParToken, 5 clusters, 1 hop"):
                add(f"ParToken, {point} / 5 clusters, 1 hop, {proteins}", ratio, name)
    return markdown_table(
        ("training steps, taking turns", "ratio", "quartiles", "pairs", "run"), rows, "lrrrl"
    )


def tuned() -> str:
    """What `partoken tune` found: every form at every size, and which was chosen."""
    results = {(r["batch"]["proteins"], r["batch"]["residues"]): r for r in all_results("tune").values()}
    sizes = sorted(results)
    labels: dict[str, dict[tuple[int, int], str]] = {}
    for size in sizes:
        for row in results[size]["rows"]:
            default = row["label"] == results[size]["default"]
            over, cell = row.get("over_default"), row["status"]
            if "median_ms" in row:
                cell = f"{row['median_ms']:,.0f} ms"
                if default:
                    cell += ", the default"
                elif over:
                    cell += f", {over['median']:.2f} ({_range(over['quartiles'])})"
            labels.setdefault(row["label"], {})[size] = cell
    rows = [(label, *(cells.get(size, "") for size in sizes)) for label, cells in labels.items()]
    chosen = ", ".join(f"{results[s]['chosen']} at {s[0]} × {s[1]}" for s in sizes)
    environment = results[sizes[0]]["environment"]
    commands = ", ".join(f"`{results[size]['environment']['command']}`" for size in sizes)
    counts = {r["over_default"]["pairs"] for s in sizes for r in results[s]["rows"] if r.get("over_default")}
    pairs = f"{min(counts)} to {max(counts)}"
    caption = (
        f"Forward and backward pass of GVP on {results[sizes[0]]['device']}, jax {environment['jax']}: "
        f"median, and the ratio to what was the default then, with quartiles, of {pairs} pairs of "
        f"interleaved steps; forms without a ratio were so slow that they ran once or twice. "
        f"Kept: {chosen}. {commands}."
    )
    header = ("form", *(f"{proteins} × {residues}" for proteins, residues in sizes))
    return f"{markdown_table(header, rows)}\n\n{wrapped(caption)}"


def representative() -> str:
    """Measurements and components of the representative timing run."""
    name = f"batch{REPRESENTATIVE}"
    result = read("timing", f"{name}.json")
    data, environment = result["data"], result["environment"]
    steps = [row for row in result["measurements"] if row["pass"] in ("forward", "train_step")]
    rows = [
        (
            MODELS[row["model"]],
            PASSES[row["pass"]],
            f"{row['median_ms']:.0f} ms",
            f"{row['quartiles_ms'][0]:.0f} to {row['quartiles_ms'][1]:.0f}",
            f"{row['proteins_per_s']:.1f}",
            f"{row['compile_s']:.1f} s",
            f"{row['temp_bytes'] / 1e6:.0f} MB",
        )
        for row in steps
    ]
    header = ("model", "pass", "median", "quartiles", "proteins/s", "compile", "peak memory")
    roof = result["roofline"]["partoken"]
    return "\n".join(
        [
            f"{environment['device']}, jax {environment['jax']}, {environment['precision']}; batches of "
            f"{steps[0]['batch_size']} real chains with {data['residues']:,} residues in all.",
            "",
            markdown_table(header, rows, "llrrrrr"),
            "",
            "ParToken's training step, by component, as far as one takes 1% of it:",
            "",
            components_table(result, "partoken", least=0.01),
            "",
            f"The step takes {roof['step_over_bound']:.1f} times as long as the least that its arithmetic "
            f"and its memory traffic need at the ceilings that were measured on the same machine.",
        ]
    )


def _range(quartiles: list[float]) -> str:
    return "{:.2f}–{:.2f}".format(*quartiles)
