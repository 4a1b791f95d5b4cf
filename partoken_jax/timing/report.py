"""Timing results as Markdown, in the order of the published timing analysis."""

from collections.abc import Sequence
from typing import Any

from partoken_jax.tables import markdown_table
from partoken_jax.timing.recommendations import recommendations_markdown

_PASS_NAMES = {
    "forward": "forward",
    "forward_backward": "forward + backward",
    "train_step": "training step",
    "epoch": "epoch",
}
MODEL_NAMES = {"gvp": "GVP", "partoken": "ParToken"}


def markdown(result: dict[str, Any]) -> str:
    """The report of one analysis (`partoken_jax.timing.analyse`)."""
    environment, data = result["environment"], result["data"]
    rows = result["measurements"]
    lines = [
        "# Timing",
        "",
        f"{environment['device']}, jax {environment['jax']}, {environment['precision']}; "
        f"batches of {rows[0]['batch_size']} proteins, {data['residues']:,} residues and "
        f"{data['edges']:,} edges in {data['nodes']:,} rows ({data['source']}).",
        "",
        f"`{environment['command']}`",
        "",
        *_gap(result),
        *_measurements(rows),
        *_parameters(result["parameters"]),
    ]
    if "components" in result:
        lines += _components(result) + _roofline(result)
    lines += [
        "## Compilation",
        "",
        f"There are {len(result['shapes'])} batch shapes ({', '.join(map(str, result['shapes']))} rows); the "
        f"training step was compiled {result['recompilations']} times.",
        "",
    ]
    for name, sweep in result.get("sweeps", {}).items():
        lines.append(sweep_markdown(name, sweep))
    lines.append(recommendations_markdown(result))
    return "\n".join(lines)


def _gap(result: dict[str, Any]) -> list[str]:
    if not result["ratios"]:
        return []
    rows = []
    for name, ratio in result["ratios"].items():
        low, high = ratio["quartiles"]
        label = _PASS_NAMES[name.split(".")[1]]
        rows.append((label, f"{ratio['median']:.3f}", f"{low:.3f} to {high:.3f}", ratio["pairs"]))
    lines = [
        "## Performance gap",
        "",
        markdown_table(("ParToken / GVP", "ratio", "quartiles", "pairs"), rows),
        "",
        "The two models took turns, run by run; a ratio is the median over the pairs of runs.",
        "",
    ]
    return lines + (_parts(result) if "gap" in result else [])


def _parts(result: dict[str, Any]) -> list[str]:
    """What each part of ParToken adds, by `ablation` and by the profile."""
    inside = time_by_component(result, "partoken") if "components" in result else {}
    if "classifier" in inside:
        inside["classifier"] -= time_by_component(result, "gvp").get("classifier", 0.0)
    rows: list[tuple[object, ...]] = []
    for row in result["gap"]:
        low, high = row["quartiles_ms"]
        profiled = f"{inside[row['name']]:.2f}" if row["name"] in inside else None
        added = f"{row['ms']:.2f}", f"{low:.2f} to {high:.2f}", f"{row['share_of_gvp']:.1%}"
        rows.append((row["name"], *added, profiled))
    header = ("part", "ms added", "quartiles", "share of the baseline", "ms in the profile")
    return [
        "What each part adds to a training step: models grow part by part from the baseline to ParToken and "
        "take turns, step by step. Each figure is the median over the pairs of neighbouring models, so the "
        "parts need not add up exactly to the whole. Where the quartiles enclose 0, the difference is lost "
        "in the noise of the machine. The last column is the time that a profile of the full step attributes "
        "to the part (for the classifier, what it takes more than the baseline's); where the noise is large, "
        "it is the better guide.",
        "",
        markdown_table(header, rows),
        "",
    ]


def _measurements(rows: Sequence[dict[str, Any]]) -> list[str]:
    table: list[tuple[object, ...]] = []
    for row in rows:
        low, high = row["quartiles_ms"]
        compiled: tuple[str, ...] = ()
        if row["compile_s"] is not None:
            compiled = (
                f"{row['lower_s']:.1f} s",
                f"{row['compile_s']:.1f} s",
                f"{row['flops'] / 1e9:.1f}",
                f"{row['bytes'] / 1e9:.2f}",
                f"{row['temp_bytes'] / 1e6:.0f} MB",
            )
        table.append(
            (
                MODEL_NAMES[row["model"]],
                _PASS_NAMES[row["pass"]],
                f"{row['median_ms']:.1f} ms",
                f"{low:.1f} to {high:.1f}",
                row["runs"],
                f"{row['proteins_per_s']:.1f}",
                f"{row['padding_share']:.1%}",
                *compiled,
            )
        )
    measured = ("model", "pass", "median", "quartiles", "runs", "proteins/s", "padding")
    header = (*measured, "lower", "compile", "GFLOP", "GB", "peak memory")
    lines = ["## Measurements", "", markdown_table(header, table, "ll" + "r" * 10)]
    for row in rows:
        if row["pass"] == "epoch":
            lines += [
                "",
                f"An epoch of {MODEL_NAMES[row['model']]} has {row['batches']} batches with "
                f"{row['proteins']} proteins; {row['input_wait_share']:.2%} of its time is spent waiting for "
                f"input.",
            ]
    return [*lines, ""]


def _parameters(parameters: dict[str, dict[str, int]]) -> list[str]:
    names = list(dict.fromkeys(name for table in parameters.values() for name in table if name != "total"))
    rows = [
        (name, *(f"{table[name]:,}" if name in table else None for table in parameters.values()))
        for name in [*names, "total"]
    ]
    header = ("component", *(MODEL_NAMES[kind] for kind in parameters))
    return ["## Parameters", "", markdown_table(header, rows), ""]


def _components(result: dict[str, Any]) -> list[str]:
    lines = [
        "## Components of the training step",
        "",
        "From a profile of the compiled step itself: every executed operation belongs to the innermost named "
        "scope that it came from. The time of a fused operation that spans components is divided in "
        "proportion to the operations that each one's instructions in it perform.",
    ]
    for kind, breakdown in result["breakdown"].items():
        lines += [
            "",
            f"### {MODEL_NAMES[kind]}, {breakdown['step_ms']:.1f} ms per profiled step",
            "",
            components_table(result, kind),
            "",
            f"{breakdown['mixed_share']:.1%} of the step is spent in fused operations that span components. "
            "The longest are:",
            "",
        ]
        for mixed in breakdown["mixed"][:4]:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in mixed["shares"].items())
            lines.append(f"- `{mixed['name']}`, {mixed['ms']:.2f} ms: {shares}")
    return [*lines, ""]


def components_table(result: dict[str, Any], kind: str, least: float = 0.0) -> str:
    """Time of every component of a model's training step, the longest first; components with a smaller share
    of the step than `least` are left out."""
    breakdown, rows = result["breakdown"][kind], []
    for name, spent in sorted(time_by_component(result, kind).items(), key=lambda item: -item[1]):
        share = spent / breakdown["step_ms"]
        if share < least:
            continue
        mine = {
            row["direction"]: row
            for row in result["components"]
            if row["model"] == kind and row["name"] == name
        }
        flops, bytes_ = (sum(row[key] for row in mine.values()) for key in ("flops", "bytes"))
        rows.append(
            (
                name,
                *(
                    f"{mine[d]['ms']:.2f} ms" if d in mine else None
                    for d in ("forward", "backward", "update")
                ),
                f"{share:.1%}",
                f"{flops / 1e9:.2f}",
                f"{bytes_ / 1e9:.2f}",
            )
        )
    rows.append(("not attributed", None, None, None, f"{breakdown['unattributed_share']:.1%}", None, None))
    header = ("component", "forward", "backward", "update", "share of step", "GFLOP", "GB")
    return markdown_table(header, rows)


def _roofline(result: dict[str, Any]) -> list[str]:
    ceilings = result["ceilings"]
    rows = [
        (
            MODEL_NAMES[kind],
            f"{roof['minimum']['flops'] / 1e9:.1f}",
            f"{roof['compute_ms']:.1f} ms",
            f"{roof['minimum']['bytes'] / 1e9:.3f}",
            f"{roof['memory_ms']:.1f} ms",
            f"{roof['step_over_bound']:.2f}",
        )
        for kind, roof in result["roofline"].items()
    ]
    header = ("model", "least GFLOP", "at the ceiling", "least GB", "at the ceiling", "step / bound")
    return [
        "## Roofline",
        "",
        f"Measured ceilings: {ceilings['flops_per_s'] / 1e9:,.0f} GFLOP/s (a {ceilings['matrix']} × "
        f"{ceilings['matrix']} matrix product), {ceilings['bytes_per_s'] / 1e9:,.1f} GB/s (a copy of "
        f"{ceilings['array_bytes'] / 1e6:,.0f} MB).",
        "",
        markdown_table(header, rows),
        "",
    ]


def time_by_component(result: dict[str, Any], kind: str) -> dict[str, float]:
    """Milliseconds of every component of a model, both directions and the update together."""
    totals: dict[str, float] = {}
    for row in result["components"]:
        if row["model"] == kind:
            totals[row["name"]] = totals.get(row["name"], 0.0) + row["ms"]
    return totals


def sweep_markdown(name: str, sweep: dict[str, Any]) -> str:
    """The table of one sweep, with its ratios."""
    rows: list[tuple[object, ...]] = []
    for row in sweep["rows"]:
        padding = f"{row['padding_share']:.1%}"
        if row["median_ms"] is None:
            rows.append((row["label"], row["status"], None, None, None, padding))
            continue
        low, high = row["quartiles_ms"]
        times = f"{row['median_ms']:.1f} ms", f"{low:.1f} to {high:.1f}", row["runs"]
        per_protein, memory = f"{1e3 / row['proteins_per_s']:.2f}", f"{row['temp_bytes'] / 1e6:.0f} MB"
        rows.append((row["label"], *times, per_protein, padding, memory))
    header = ("training step", "median", "quartiles", "runs", "ms per protein", "padding", "peak memory")
    lines = [f"## Sweep: {name}", "", markdown_table(header, rows)]
    if sweep["ratios"]:
        lines += ["", ratios_table(sweep["ratios"])]
    return "\n".join([*lines, ""])


def ratios_table(ratios: dict[str, dict[str, Any]], what: str = "interleaved") -> str:
    """Ratios by name, with their quartiles."""
    rows = [
        (name, f"{ratio['median']:.3f}", "{:.3f} to {:.3f}".format(*ratio["quartiles"]))
        for name, ratio in ratios.items()
    ]
    return markdown_table((what, "ratio", "quartiles"), rows)
