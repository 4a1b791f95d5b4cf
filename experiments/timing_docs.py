"""Fills the results of docs/TIMING.md from the committed results of `python -m experiments.timing_analysis`.

python -m experiments.timing_docs            rewrites docs/TIMING.md
python -m experiments.timing_docs --check    exits 1 if it does not say what the results say
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from experiments.readme import filled
from partoken_jax.timing import markdown
from partoken_jax.timing.report import MODEL_NAMES, PUBLISHED_CLUSTERS, PUBLISHED_GAP, PUBLISHED_HOPS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results" / "timing"
PRECISION = ROOT / "experiments" / "results" / "precision"
START_UP = ROOT / "experiments" / "results" / "start_up.json"
DOCUMENT = ROOT / "docs" / "TIMING.md"


def results() -> str:
    """The generated block: the published statements, then the report of every result file."""
    files = sorted(RESULTS.glob("*.json"))
    if not files:
        raise SystemExit(
            "error: experiments/results/timing holds no results; run experiments.timing_analysis"
        )
    found = [json.loads(path.read_text()) for path in files]
    parts = [_published(found)]
    for path, result in zip(files, found, strict=True):
        # A report's headings become one level deeper, under the name of its file.
        text = re.sub(r"^#", "##", markdown(result), flags=re.MULTILINE)
        parts.append(text.replace("## Timing", f"### `{path.name}`", 1).replace("\n### ", "\n#### "))
        for picture in (path.with_name(f"{path.stem}_{what}.png") for what in ("components", "sweeps")):
            if picture.is_file():
                parts.append(f"![{picture.stem}](../{picture.relative_to(ROOT)})\n")
    return "\n".join(parts)


def precision() -> str:
    """The tables of every result of experiments.precision."""
    parts = []
    for path in sorted(PRECISION.glob("*.json")):
        result = json.loads(path.read_text())
        emulated = ", TensorFloat32 emulated" if result["tensorfloat32_emulated"] else ""
        parts += [
            f"{result['environment']['device']}{emulated}; `{result['environment']['command']}`: batches of "
            f"{result['batch_size']}, {result['steps']} steps.",
            "",
            "| model | precision | logits | gradients | predicted class | residues' clusters | tokens "
            "| mean loss of the last 20 steps |",
            "|---|---|---:|---:|---:|---:|---:|---:|",
        ]
        for kind, rows in result["models"].items():
            for name, row in rows.items():
                errors, differing = row["relative_errors"], row["differing"]
                cells = [f"{errors[key]:.1e}" for key in ("logits", "gradients")]
                cells += [
                    f"{differing[key]:.1%}" if key in differing else ""
                    for key in ("classes", "residues' clusters", "codes")
                ]
                loss = f"{row['last_losses_mean']:.4f}"
                parts.append(f"| {MODEL_NAMES[kind]} | {name} | {' | '.join(cells)} | {loss} |")
        parts.append("")
    return "\n".join(parts).rstrip() or "Not measured yet: `python -m experiments.precision`."


def start_up() -> str:
    """The table of experiments.start_up."""
    result = json.loads(START_UP.read_text())
    names = {
        "import": "`import partoken_jax`",
        "first_step_cold": "first training step, nothing compiled yet",
        "first_step_warm": "first training step, compiled programs on disk",
    }
    lines = ["| process from start to | median | quartiles |", "|---|---:|---:|"]
    for key, name in names.items():
        row = result["rows"][key]
        low, high = row["quartiles_s"]
        lines.append(f"| {name} | {row['median_s']:.1f} s | {low:.1f} to {high:.1f} |")
    size = f"{result['batch_size']} × {result['residues']} residues"
    environment = result["environment"]
    where = f"{environment['device']}; `{environment['command']}`"
    return "\n".join([*lines, "", f"ParToken, {size}, {where}."])


def _published(results: list[dict[str, Any]]) -> str:
    """Which statements of the published analysis hold here."""
    lines = [
        "### The published statements",
        "",
        "| published | measured here | where |",
        "|---|---|---|",
    ]
    rows: list[tuple[str, str, str]] = []
    for result in results:
        first = result["measurements"][0]
        size = (
            f"{first['batch_size']} × {first['residues']} residues"
            if first["residues"]
            else str(first["batch_size"])
        )
        where = f"{result['environment']['device']}, batch {size}"
        if ratio := result["ratios"].get("partoken_over_gvp.train_step"):
            low, high = ratio["quartiles"]
            published = f"ParToken is {PUBLISHED_GAP:.1f}× slower than GVP (GPU, batch 64)"
            rows.append((published, f"{ratio['median']:.2f}× ({low:.2f} to {high:.2f})", where))
        if "components" in result:
            share = _share(result, "partitioner")
            layers = sum(_share(result, name) for name in ("conv", "feed_forward", "residual_norm"))
            if "partoken" in result["breakdown"]:
                rows.append(("GVP layers take 94.4% of ParToken", f"{layers:.1%}", where))
                rows.append(("the partitioner takes 1%", f"{share:.1%}", where))
        ratios = result.get("sweeps", {}).get("clusters", {}).get("ratios", {})
        for point, published in (
            ("25 clusters, 1 hop", f"25 clusters cost {PUBLISHED_CLUSTERS:.2f}× as much as 5 (one hop)"),
            ("5 clusters, 3 hops", f"three hops cost {PUBLISHED_HOPS:.2f}× as much as one (5 clusters)"),
        ):
            if row := ratios.get(f"ParToken, {point} / ParToken, 5 clusters, 1 hop"):
                low, high = row["quartiles"]
                rows.append((published, f"{row['median']:.2f}× ({low:.2f} to {high:.2f})", where))
    order = list(dict.fromkeys(published for published, _, _ in rows))
    lines += [f"| {' | '.join(row)} |" for row in sorted(rows, key=lambda row: order.index(row[0]))]
    lines += [
        "",
        'The published "4.0× = 1.38× parameters × 2.9× architecture" and its own profile cannot both '
        "hold: if the GVP layers are 94.4% of ParToken, it cannot cost 4 times the GVP layers. The original "
        "reads the device from the host 48,816 times in one forward pass at batch 64 (docs/REFERENCE.md, "
        "fault 14); here a step reads nothing.",
        "",
    ]
    return "\n".join(lines)


def _share(result: dict[str, Any], component: str) -> float:
    return sum(
        row["share"]
        for row in result["components"]
        if row["model"] == "partoken" and row["name"] == component
    )


BLOCKS = {"precision": precision, "start_up": start_up, "results": results}


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--check", action="store_true")
    args = flags.parse_args()
    old = DOCUMENT.read_text()
    new = filled(old, BLOCKS)
    if args.check:
        return int(new != old)
    DOCUMENT.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
