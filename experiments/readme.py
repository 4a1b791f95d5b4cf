"""Fills the measured tables of README.md from the committed results, between its markers.

python -m experiments.readme            rewrites README.md
python -m experiments.readme --check    exits 1 if README.md does not say what the results say
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from experiments.compare.report import MODELS, NAMES
from partoken_jax.config import TrainConfig, load_yaml
from partoken_jax.timing.report import PUBLISHED_CLUSTERS, PUBLISHED_GAP, PUBLISHED_HOPS
from partoken_jax.training.records import read_records

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
MEMORY = "peak memory, of vectorised"


def demo() -> str:
    """The closing table of `make demo`."""
    results = _read("demo", "results.json")
    ratio = results["ratios"]["partoken_over_gvp.train_step"]
    data = results["reports"]["gvp"]["data"]
    lines = [
        "| | test accuracy | macro-F1 | training step | parameters |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind, name in (("gvp", "GVP baseline"), ("partoken", "ParToken")):
        report = results["reports"][kind]
        scores = report["test"]["classification"]
        times = sorted(results["step_seconds"][kind])
        lines.append(
            f"| {name} | {scores['accuracy']:.3f} | {scores['macro_f1']:.3f} | "
            f"{1e3 * times[len(times) // 2]:.0f} ms | {report['parameters']['total']:,} |"
        )
    low, high = ratio["quartiles"]
    majority = results["reports"]["gvp"]["test"]["classification"]["majority_share"]
    lines += [
        f"| **ParToken / GVP, training step** | | | **{ratio['median']:.2f}** ({low:.2f}–{high:.2f}); "
        "published, on a GPU: 4.0 | |",
        "",
        f"`make demo`: {sum(data['class_counts']['train'])} chains of the PDB, CATH class (most frequent "
        f"class: {majority:.3f}), 3 epochs, {results['seconds']:.0f} s in all on "
        f"{results['environment']['cores']} shared CPU cores; steps of {data['batch_size']} proteins, "
        f"interleaved, median and quartiles of {len(times)} pairs.",
    ]
    return "\n".join(lines)


def parity() -> str:
    """The worst of every recorded file, by kind of comparison."""
    report = _read("parity.json")
    worst: dict[tuple[str, str], tuple[float, float, int]] = {}
    for row in report["rows"]:
        key = (row["case"].split()[0], _kind(row))
        error, tolerance, arrays = worst.get(key, (0.0, row["tolerance"], 0))
        # Within a kind tolerances may differ: keep the row that uses most of its own.
        if row["error"] * max(tolerance, 1e-30) > error * max(row["tolerance"], 1e-30):
            error, tolerance = row["error"], row["tolerance"]
        worst[key] = (error, tolerance, arrays + row["arrays"])
    lines = ["| vectors | comparison | arrays | largest error | tolerance |", "|---|---|---:|---:|---:|"]
    for (case, kind), (error, tolerance, arrays) in worst.items():
        shown = ("exact", "exact") if tolerance == 0 else (f"{error:.1e}", f"{tolerance:.0e}")
        lines.append(f"| {case} | {kind} | {arrays} | {shown[0]} | {shown[1]} |")
    environment = report["environment"]
    lines += ["", f"jax {environment['jax']}, Python {environment['python']}, {environment['device']}."]
    return "\n".join(lines)


def _kind(row: dict) -> str:
    if row["measure"] == "differing" or row["tolerance"] == 0:
        return "decisions, exactly"
    group = row["group"]
    if "gradients" in group or "published" in group:
        return "gradients"
    return group if group in ("buffers", "losses", "final weights", "node_s", "presence") else "forward"


def enzyme() -> str:
    """The longer run on the EC task, against the baselines of the data set."""
    lines = [
        "| EC class, 7 classes | training chains | neighbours | epochs | test accuracy | macro-F1 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for kind, name in (("gvp", "GVP baseline"), ("partoken", "ParToken")):
        records = read_records(RESULTS / "ec" / kind / "metrics.jsonl")
        data = load_yaml(TrainConfig, RESULTS / "ec" / kind / "config.yaml").data
        scores = _read("ec", kind, "evaluation_test.json")["scores"]["classification"]
        lines.append(
            f"| {name} | {data.max_train:,} | {data.neighbours} | {len(records)} | "
            f"{scores['accuracy']:.3f} | {scores['macro_f1']:.3f} |"
        )
    lines += [
        f"| always the most frequent class | | | | {scores['majority_share']:.3f} | |",
        "| random forest on hand-made features (`experiments/data/README.md`) | 6,654 | | | 0.453 | 0.266 |",
    ]
    return "\n".join(lines)


def padding() -> str:
    """The padded share at batch 64 and four shapes, as one phrase."""
    rows = _read("padding.json")["rows"]
    row = next(r for r in rows if r["batch_size"] == 64 and r["shapes"] == 4)
    share = f"{row['padding_share']:.1%}"
    return f"Padded residues on the EC task at batch 64: {share} (`python -m experiments.padding`)."


def timing() -> str:
    """The headline figures of the timing analysis, and the largest components of the step at batch 16."""
    at16 = _read("timing", "batch16.json")
    lines = ["| interleaved training steps | ratio | quartiles | published |", "|---|---:|---:|---:|"]

    def add(what: str, ratio: dict, published: str = "") -> None:
        low, high = ratio["quartiles"]
        lines.append(f"| {what} | **{ratio['median']:.2f}** | {low:.2f}–{high:.2f} | {published} |")

    gap = f"{PUBLISHED_GAP:.1f} (GPU, batch 64)"
    for name, what in (
        ("batch16", "batch 16"),
        ("batch64", "batch 64"),
        ("batch4_300", "4 × 300 residues"),
        ("batch16_300", "16 × 300 residues"),
    ):
        add(
            f"ParToken / GVP, {what}",
            _read("timing", f"{name}.json")["ratios"]["partoken_over_gvp.train_step"],
            gap,
        )
    clusters = at16["sweeps"]["clusters"]["ratios"]
    first = "ParToken, 5 clusters, 1 hop"
    add("25 clusters / 5", clusters[f"ParToken, 25 clusters, 1 hop / {first}"], f"{PUBLISHED_CLUSTERS:.2f}")
    add("3 hops / 1", clusters[f"ParToken, 5 clusters, 3 hops / {first}"], f"{PUBLISHED_HOPS:.2f}")
    for size in (4, 16):
        plain = _read("timing", f"batch{size}_300.json")["sweeps"]["plain"]["ratios"]
        add(f"GVP, our fast form / our plain form, {size} × 300 residues", plain["GVP, fast / GVP, plain"])
    shares: dict[str, float] = {}
    for row in at16["components"]:
        if row["model"] == "partoken":
            shares[row["name"]] = shares.get(row["name"], 0.0) + row["share"]
    top = sorted(shares, key=lambda name: -shares[name])[:6]
    start = _read("start_up.json")["rows"]
    lines += [
        "",
        "ParToken's step: "
        + ", ".join(f"{name} {shares[name]:.1%}" for name in top)
        + f", not attributed {at16['breakdown']['partoken']['unattributed_share']:.1%}.",
        "",
        f"First step, with import and compilation: {start['first_step_cold']['median_s']:.0f} s; with "
        f"compiled programs on disk {start['first_step_warm']['median_s']:.0f} s. All on "
        f"{at16['environment']['device']}, two shared cores.",
    ]
    return "\n".join(lines)


def comparison() -> str:
    """Training steps against PyTorch, from every result of `python -m experiments.compare`."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    machines, pairs = set(), set()
    for path in sorted((RESULTS / "comparison").glob("*.json")):
        result = json.loads(path.read_text())
        environment = result["environment"]
        machines.add(f"{environment['torch_device']}, {environment['cores']} cores")
        pairs |= {ratio["pairs"] for ratio in result["ratios"].values()}
        steps = [row for row in result["measurements"] if row["pass"] == "train_step"]
        fast = {(row["model"], row["batch_size"]): row for row in steps if row["variant"] == "jax_fast"}
        for row in steps:
            kind, size, variant = row["model"], row["batch_size"], row["variant"]
            residues = row["residues"] or "real"
            line = cells.setdefault((kind, f"{size} × {residues}"), {})
            if row["median_ms"] is None:
                line[variant] = row["status"]
            elif ratio := result["ratios"].get(
                f"jax_fast_over_{variant}.{kind}.train_step.{size}x{residues}"
            ):
                low, high = ratio["quartiles"]
                line[variant] = f"**{ratio['median']:.2f}** ({low:.2f}–{high:.2f})"
                if variant == "torch_vectorised":
                    memory = fast[kind, size]["peak_bytes"] / row["peak_bytes"]
                    line[MEMORY] = f"{memory:.2f}"
    shown = [name for name in (*NAMES, MEMORY) if any(name in line for line in cells.values())]
    heads = [NAMES.get(name, name).split(" as ")[0] for name in shown]
    lines = [
        f"| training step, JAX fast / | proteins | {' | '.join(heads)} |",
        f"|---|---|{'---:|' * len(shown)}",
    ]
    for (kind, size), line in cells.items():
        lines.append(f"| {MODELS[kind]} | {size} | {' | '.join(line.get(name, '') for name in shown)} |")
    lines += [
        "",
        "Below 1, JAX fast takes less: its time over that of the column, median and quartiles of "
        f"{min(pairs)} to {max(pairs)} interleaved pairs, on {'; '.join(sorted(machines))}.",
    ]
    return "\n".join(lines)


BLOCKS = {
    "comparison": comparison,
    "timing": timing,
    "demo": demo,
    "parity": parity,
    "enzyme": enzyme,
    "padding": padding,
}


def filled(text: str, blocks: Mapping[str, Callable[[], str]] = BLOCKS) -> str:
    """The text of a document with every block as the results have it."""
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end {name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(
                f"error: the document has no block <!-- {name} --> ... <!-- end {name} -->; add it"
            )
        content = block()
        text = pattern.sub(lambda m, content=content: m[1] + content + m[2], text)
    return text


def _read(*parts: str) -> dict:
    path = RESULTS.joinpath(*parts)
    if not path.is_file():
        raise SystemExit(
            f"error: {path.relative_to(ROOT)} is missing; run the command that makes it (README.md)"
        )
    return json.loads(path.read_text())


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--check", action="store_true")
    args = flags.parse_args()
    path = ROOT / "README.md"
    old = path.read_text()
    new = filled(old)
    if args.check:
        return int(new != old)
    path.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
