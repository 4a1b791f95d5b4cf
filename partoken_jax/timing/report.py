"""Timing results as Markdown, in the order of the published timing analysis."""

from collections.abc import Sequence
from typing import Any

from partoken_jax.timing.recommendations import recommendations_markdown

PUBLISHED_GAP = 4.0
"""ParToken / GVP at batch 64 on a GPU (0.88 against 3.46 batches/s), published timing analysis."""
PUBLISHED_CLUSTERS = 2.15 / 0.91
"""Published run time of 25 over 5 clusters, at one hop (docs/REFERENCE.md section 7)."""
PUBLISHED_HOPS = 1.73 / 0.91
"""Published run time of three hops over one, with 5 clusters."""

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
        f"{len(result['shapes'])} batch shapes ({', '.join(map(str, result['shapes']))} rows), training step "
        f"compiled {result['recompilations']} times.",
        "",
    ]
    for name, sweep in result.get("sweeps", {}).items():
        lines.append(sweep_markdown(name, sweep))
    lines.append(recommendations_markdown(result))
    return "\n".join(lines)


def _gap(result: dict[str, Any]) -> list[str]:
    if not result["ratios"]:
        return []
    lines = [
        "## Performance gap",
        "",
        "| ParToken / GVP | ratio | quartiles | pairs |",
        "|---|---:|---:|---:|",
    ]
    for name, row in result["ratios"].items():
        low, high = row["quartiles"]
        label = _PASS_NAMES[name.split(".")[1]]
        lines.append(f"| {label} | {row['median']:.3f} | {low:.3f} to {high:.3f} | {row['pairs']} |")
    lines += ["", f"Interleaved runs. Published, training on a GPU at batch 64: {PUBLISHED_GAP:.1f}.", ""]
    if "gap" in result:
        inside = time_by_component(result, "partoken") if "components" in result else {}
        if "classifier" in inside:
            inside["classifier"] -= time_by_component(result, "gvp").get("classifier", 0.0)
        lines += [
            "What each part adds to a training step: models that grow part by part from the baseline, steps "
            "interleaved; beside it, the time that a profile of the full step attributes to the part (to the "
            "classifier: what it takes more than the baseline's). Where the quartiles hold 0, the difference "
            "is lost in the machine's noise and the profile is the better guide.",
            "",
            "| part | ms added | quartiles | share of the baseline | ms in the profile |",
            "|---|---:|---:|---:|---:|",
        ]
        for row in result["gap"]:
            low, high = row["quartiles_ms"]
            profiled = f"{inside[row['name']]:.2f}" if row["name"] in inside else ""
            lines.append(
                f"| {row['name']} | {row['ms']:.2f} | {low:.2f} to {high:.2f} | {row['share_of_gvp']:.1%} | "
                f"{profiled} |"
            )
        total = sum(row["ms"] for row in result["gap"])
        share = sum(row["share_of_gvp"] for row in result["gap"])
        lines += [f"| all | {total:.2f} | | {share:.1%} | |", ""]
    return lines


def _measurements(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## Measurements",
        "",
        "| model | pass | median | quartiles | runs | proteins/s | padding | lower | compile | GFLOP | GB "
        "| peak memory |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row["quartiles_ms"]
        compiled = (
            f"{row['lower_s']:.1f} s | {row['compile_s']:.1f} s | {row['flops'] / 1e9:.1f} | "
            f"{row['bytes'] / 1e9:.2f} | {row['temp_bytes'] / 1e6:.0f} MB"
            if row["compile_s"] is not None
            else " | | | | "
        )
        lines.append(
            f"| {MODEL_NAMES[row['model']]} | {_PASS_NAMES[row['pass']]} | {row['median_ms']:.1f} ms | "
            f"{low:.1f} to {high:.1f} | {row['runs']} | {row['proteins_per_s']:.1f} | "
            f"{row['padding_share']:.1%} | {compiled} |"
        )
    waits = [row for row in rows if row["pass"] == "epoch"]
    for row in waits:
        lines += [
            "",
            f"{MODEL_NAMES[row['model']]} epoch: {row['batches']} batches, {row['proteins']} proteins; "
            f"{row['input_wait_share']:.2%} of the time waiting for input.",
        ]
    return [*lines, ""]


def _parameters(parameters: dict[str, dict[str, int]]) -> list[str]:
    names = list(dict.fromkeys(name for table in parameters.values() for name in table if name != "total"))
    lines = [
        "## Parameters",
        "",
        "| component | " + " | ".join(MODEL_NAMES[kind] for kind in parameters) + " |",
        "|---|" + "---:|" * len(parameters),
    ]
    for name in [*names, "total"]:
        counts = (f"{table[name]:,}" if name in table else "" for table in parameters.values())
        lines.append(f"| {name} | {' | '.join(counts)} |")
    return [*lines, ""]


def _components(result: dict[str, Any]) -> list[str]:
    lines = [
        "## Components of the training step",
        "",
        "From a profile of the compiled step itself: every executed operation belongs to the innermost named "
        "scope that it came from. The time of a fused operation that spans components is divided in "
        "proportion to the operations that each one's instructions in it perform.",
    ]
    for kind, breakdown in result["breakdown"].items():
        rows = [row for row in result["components"] if row["model"] == kind]
        totals = time_by_component(result, kind)
        lines += [
            "",
            f"### {MODEL_NAMES[kind]}, {breakdown['step_ms']:.1f} ms per profiled step",
            "",
            "| component | forward | backward | update | share of step | GFLOP | GB |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for name, spent in sorted(totals.items(), key=lambda item: -item[1]):
            mine = {row["direction"]: row for row in rows if row["name"] == name}
            cells = (
                f"{mine[d]['ms']:.2f} ms" if d in mine else "" for d in ("forward", "backward", "update")
            )
            flops, bytes_ = (sum(row[key] for row in mine.values()) for key in ("flops", "bytes"))
            lines.append(
                f"| {name} | {' | '.join(cells)} | {spent / breakdown['step_ms']:.1%} | {flops / 1e9:.2f} | "
                f"{bytes_ / 1e9:.2f} |"
            )
        lines += [
            f"| not attributed | | | | {breakdown['unattributed_share']:.1%} | | |",
            "",
            f"{breakdown['mixed_share']:.1%} of the step is in fused operations that span components:",
            "",
        ]
        for mixed in breakdown["mixed"][:4]:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in mixed["shares"].items())
            lines.append(f"- `{mixed['name']}`, {mixed['ms']:.2f} ms: {shares}")
    return [*lines, ""]


def _roofline(result: dict[str, Any]) -> list[str]:
    ceilings = result["ceilings"]
    lines = [
        "## Roofline",
        "",
        f"Measured ceilings: {ceilings['flops_per_s'] / 1e9:,.0f} GFLOP/s (a {ceilings['matrix']} × "
        f"{ceilings['matrix']} matrix product), {ceilings['bytes_per_s'] / 1e9:,.1f} GB/s (a copy of "
        f"{ceilings['array_bytes'] / 1e6:,.0f} MB).",
        "",
        "| model | least GFLOP | at the ceiling | least GB | at the ceiling | step / bound |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for kind, roof in result["roofline"].items():
        least = roof["minimum"]
        lines.append(
            f"| {MODEL_NAMES[kind]} | {least['flops'] / 1e9:.1f} | {roof['compute_ms']:.1f} ms | "
            f"{least['bytes'] / 1e9:.3f} | {roof['memory_ms']:.1f} ms | {roof['step_over_bound']:.2f} |"
        )
    return [*lines, ""]


def time_by_component(result: dict[str, Any], kind: str) -> dict[str, float]:
    """Milliseconds of every component of a model, both directions and the update together."""
    totals: dict[str, float] = {}
    for row in result["components"]:
        if row["model"] == kind:
            totals[row["name"]] = totals.get(row["name"], 0.0) + row["ms"]
    return totals


def sweep_markdown(name: str, sweep: dict[str, Any]) -> str:
    """The table of one sweep, with its ratios."""
    lines = [
        f"## Sweep: {name}",
        "",
        "| training step | median | quartiles | runs | ms per protein | padding | peak memory |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sweep["rows"]:
        if row["median_ms"] is None:
            lines.append(f"| {row['label']} | {row['status']} | | | | {row['padding_share']:.1%} | |")
            continue
        low, high = row["quartiles_ms"]
        lines.append(
            f"| {row['label']} | {row['median_ms']:.1f} ms | {low:.1f} to {high:.1f} | {row['runs']} | "
            f"{1e3 / row['proteins_per_s']:.2f} | {row['padding_share']:.1%} | "
            f"{row['temp_bytes'] / 1e6:.0f} MB |"
        )
    if sweep["ratios"]:
        lines += ["", "| interleaved | ratio | quartiles |", "|---|---:|---:|"]
        for pair, ratio in sweep["ratios"].items():
            low, high = ratio["quartiles"]
            lines.append(f"| {pair} | {ratio['median']:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join([*lines, ""])
