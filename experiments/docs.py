"""Fills the documents from the committed results and the code: measured tables, full reports, figures and the
index of formulas.

    python -m experiments.docs            rewrites what is generated
    python -m experiments.docs --check    exits 1 and names what does not say what the results say

A block stands between <!-- NAME --> and <!-- end NAME --> in a document. Full reports are written beside
their JSON under experiments/results/, figures under docs/figures/.
"""

import json
import textwrap
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from experiments import demo, faults, figures, precision, saving_cost, start_up, streaming
from experiments.compare import report as comparison
from experiments.compare.report import MODELS, PASSES, ratio_to_fast
from experiments.flags import Flags, run_script
from experiments.formulas import formula_index
from experiments.model_card import cards, overview
from experiments.presets import presets
from partoken_jax.tables import markdown_table
from partoken_jax.timing import markdown as timing_report
from partoken_jax.timing.report import components_table
from partoken_jax.training.records import read_records
from partoken_jax.training.report import report_markdown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
FIGURES = ROOT / "docs" / "figures"
PUBLISHED_GAP = 4.0
"""ParToken / GVP at batch 64 on a GPU, as published (docs/REFERENCE.md, section 7)."""
GVP_RATE, PARTOKEN_RATE = 3.46, 0.88
"""The published batches per second behind it."""
HOST_READS, SCALAR_READS = 48_816, 48_392
"""Of the published partitioner in one forward pass at batch 64 (docs/REFERENCE.md, fault 14)."""
REPRESENTATIVE = 16
"""Proteins per step of the runs whose tables the documents show."""


@cache
def read(*parts: str) -> dict[str, Any]:
    """A result by its place under experiments/results."""
    path = RESULTS.joinpath(*parts)
    if not path.is_file():
        raise SystemExit(f"error: {path.relative_to(ROOT)} is missing; run the command that makes it")
    return json.loads(path.read_text())


def all_results(folder: str) -> dict[str, dict[str, Any]]:
    """Every result of a folder, by file name."""
    found = {path.stem: read(folder, path.name) for path in sorted((RESULTS / folder).glob("*.json"))}
    if not found:
        raise SystemExit(f"error: experiments/results/{folder} holds no results; measure something first")
    return found


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
    environment = next(iter(all_results("comparison").values()))["environment"]
    pairs = [ratio["pairs"] for ratio in ratios.values()]
    ours = [
        result["ratios"]["partoken_over_gvp.train_step"]["median"]
        for result in all_results("timing").values()
        if result["measurements"][0]["residues"]
    ]
    caption = (
        f"Proteins × residues per step; medians on a {environment['torch_device'].upper()} with "
        f"{environment['cores']} shared cores, jax {environment['jax']} and torch "
        f"{environment['torch'].split('+')[0]} (`{environment['command'].split(' --json')[0]}`). Every "
        "program took turns with our model, run by run, but not with the other programs: the last line is "
        f"the median, with quartiles, of {min(pairs)} to {max(pairs)} such pairs, while the other ratios "
        "are quotients of medians. Where our two models took turns with each other, ParToken took "
        f"{min(ours):.2f} to {max(ours):.2f} times as long as GVP (docs/TIMING.md)."
    )
    table = markdown_table(("training step", *(f"{size} × 300" for size in sizes)), rows)
    return f"{table}\n\n{_wrapped(caption)}"


def gpu() -> str:
    """What was measured on a GPU, and what explains the published ratio."""
    result = read("gpu", "h100_batch64.json")
    environment = result["environment"]
    steps = {row["model"]: row["median_ms"] for row in result["measurements"] if row["pass"] == "train_step"}
    ratio = result["ratios"]["partoken_over_gvp.train_step"]
    times = step_medians()
    authors, theirs = times["partoken"]["original"], times["gvp"]["torch_vectorised"]
    ratios = [authors[size] / theirs[size] for size in authors]
    extra = 1 / PARTOKEN_RATE - 1 / GVP_RATE
    device = environment["device"].removesuffix(" (gpu)")
    return _wrapped(
        f"**On a GPU our ParToken takes {ratio['median']:.2f} times as long as our GVP** "
        f"({_range(ratio['quartiles'])}, {ratio['pairs']} pairs of training steps on 64 real chains, taking "
        f"turns): {steps['partoken']:.0f} against {steps['gvp']:.0f} ms on an {device}, in "
        f"{environment['precision']}, with jax {environment['jax']} (`{environment['command']}`). The "
        f"published ratio at that batch size, also on a GPU, is {PUBLISHED_GAP:.1f}; that is another "
        f"experiment, with another program on another card. On our CPU the authors' "
        f"own ParToken takes only {min(ratios):.1f} to {max(ratios):.1f} times as long as the PyTorch GVP. "
        "What explains the difference is the price of reading the device from the host. The published "
        f"partitioner does that {HOST_READS:,} times in one forward pass at batch 64. The published step "
        f"takes {extra:.2f} s more than GVP's, which over {SCALAR_READS:,} scalar reads is "
        f"{1e6 * extra / SCALAR_READS:.0f} µs each: about what it takes to synchronise with a GPU. On a CPU "
        "a read costs almost nothing. Our step reads nothing. The authors' code itself we have not run on a "
        "GPU."
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def accuracy() -> str:
    """The scores of the demo, with their intervals, and how much they say."""
    results = read("demo", "results.json")
    reports, data = results["reports"], results["reports"]["gvp"]["data"]
    training = sum(data["class_counts"]["train"])
    return "\n".join(
        [
            demo.table(reports, results["step_seconds"], data["batch_size"]),
            "",
            _wrapped(
                f"`make demo` trains both models on {training} chains of the PDB for {demo.epochs(results)} "
                f"epochs, to tell their CATH class, in {results['seconds']:.0f} s on "
                f"{results['environment']['cores']} shared CPU cores. {demo.verdict(reports)}"
            ),
        ]
    )


def ratios() -> str:
    """ParToken over GVP, what more clusters and hops cost, and the fast form over the plain one."""
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
        for pair, ratio in swept.get("plain", {}).get("ratios", {}).items():
            add(f"{pair}, {proteins}", ratio, name)
    return markdown_table(
        ("training steps, taking turns", "ratio", "quartiles", "pairs", "run"), rows, "lrrrl"
    )


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


def one_comparison() -> str:
    """The training steps of the representative batch, with times, memory and host reads."""
    for result in all_results("comparison").values():
        rows = [
            row
            for row in result["measurements"]
            if row["pass"] == "train_step" and row["batch_size"] == REPRESENTATIVE
        ]
        if rows:
            environment = result["environment"]
            where = (
                f"torch {environment['torch']}, jax {environment['jax']}, {environment['cores']} CPU cores"
            )
            return f"{comparison.measured_table(result, rows)}\n\n`{environment['command']}` ({where})."
    raise SystemExit(f"error: no comparison has batches of {REPRESENTATIVE}; run experiments.compare")


def parity(file: str) -> str:
    """The worst of every recorded file, by kind of comparison."""
    report = read(file)
    worst: dict[tuple[str, str], tuple[float, float, int]] = {}
    for row in report["rows"]:
        key = (row["case"].split()[0], _kind(row))
        error, tolerance, arrays = worst.get(key, (0.0, row["tolerance"], 0))
        # Within a kind tolerances may differ: keep the row that uses most of its own.
        if row["error"] * max(tolerance, 1e-30) > error * max(row["tolerance"], 1e-30):
            error, tolerance = row["error"], row["tolerance"]
        worst[key] = (error, tolerance, arrays + row["arrays"])
    rows = [
        (*key, arrays, *(("exact", "exact") if tolerance == 0 else (f"{error:.1e}", f"{tolerance:.0e}")))
        for key, (error, tolerance, arrays) in worst.items()
    ]
    header = ("vectors", "comparison", "arrays", "largest error", "tolerance")
    framework = report["environment"]
    names = ", ".join(f"{name} {framework[name]}" for name in ("jax", "torch") if name in framework)
    verdict = "All comparisons hold" if report["holds"] else "**Not all comparisons hold**"
    return f"{markdown_table(header, rows, 'llrrr')}\n\n{verdict}; {names}, Python {framework['python']}."


def _kind(row: dict[str, Any]) -> str:
    if row["measure"] == "differing" or row["tolerance"] == 0:
        return "decisions, exactly"
    group = row["group"]
    if "gradients" in group or "published" in group:
        return "gradients"
    return group if group in ("buffers", "losses", "final weights", "node_s", "presence") else "forward"


def precisions() -> str:
    """What every precision costs, on every device that was measured."""
    return "\n\n".join(precision.table(result) for result in all_results("precision").values())


def padding() -> str:
    """The padded share at batch 64 and four shapes, as one sentence."""
    result = read("padding.json")
    row = next(r for r in result["rows"] if r["batch_size"] == 64 and r["shapes"] == 4)
    share = f"{row['padding_share']:.1%}"
    return (
        f"On the EC task at batch 64, {share} of the computed residues are padding (`{result['command']}`)."
    )


def _range(quartiles: list[float]) -> str:
    return "{:.2f}–{:.2f}".format(*quartiles)


Blocks = Mapping[str, Callable[[], str]]
DOCUMENTS: Mapping[str, Blocks] = {
    "README.md": {"measured": measured, "gpu": gpu, "accuracy": accuracy},
    "docs/index.md": {"measured": measured, "gpu": gpu},
    "docs/TIMING.md": {
        "gpu": gpu,
        "measured": measured,
        "ratios": ratios,
        "representative": representative,
    },
    "docs/COMPARISON.md": {
        "against_pytorch": lambda: comparison.overview(list(all_results("comparison").values())),
        "one_comparison": one_comparison,
    },
    "docs/PARITY.md": {
        "parity": lambda: parity("parity.json"),
        "parity_torch": lambda: parity("parity_torch.json"),
    },
    "docs/REFERENCE.md": {"formulas": formula_index},
    "docs/guide/data.md": {
        "padding": padding,
        "streaming": lambda: streaming.table(read("streaming", "streaming.json")),
    },
    "docs/guide/runs.md": {
        "faults": lambda: faults.table(read("faults.json")),
        "saving_cost": lambda: saving_cost.table(read("saving_cost.json")),
    },
    "docs/guide/time.md": {"start_up": lambda: start_up.table(read("start_up.json"))},
    "docs/guide/train.md": {"precision": precisions, "presets": presets},
    "docs/guide/models.md": {"models": overview},
}


def filled(text: str, blocks: Blocks) -> str:
    """The text of a document with every block as the results have it."""
    for name, block in blocks.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
        before, found, rest = text.partition(start)
        if not found or end not in rest:
            raise SystemExit(f"error: a document has no block <!-- {name} --> ... {end}; add it")
        text = f"{before}{start}{block()}\n{rest[rest.index(end) :]}"
    return text


def texts() -> dict[Path, str]:
    """Every generated or partly generated text, as the results have it."""
    found = {ROOT / name: filled((ROOT / name).read_text(), blocks) for name, blocks in DOCUMENTS.items()}
    for name, result in all_results("timing").items():
        text = timing_report(result)
        for what in ("components", "sweeps"):
            if (RESULTS / "timing" / f"{name}_{what}.png").is_file():
                text += f"\n![{what}]({name}_{what}.png)\n"
        found[RESULTS / "timing" / f"{name}.md"] = text
    for name, result in all_results("comparison").items():
        found[RESULTS / "comparison" / f"{name}.md"] = (
            f"{comparison.markdown(result)}\n![times]({name}.png)\n"
        )
    found[RESULTS / "demo" / "report.md"] = demo.report(read("demo", "results.json"))
    for kind in MODELS:
        records = read_records(RESULTS / "ec" / kind / "metrics.jsonl")
        report: Any = read("ec", kind, "report.json")
        found[RESULTS / "ec" / kind / "report.md"] = report_markdown(report, records)
    return found | cards()


def pictures() -> dict[Path, tuple[Callable[[Any, Path], None], Any]]:
    """Every figure: what draws it, and its data."""
    comparisons = list(all_results("comparison").values())
    run = read("timing", f"batch{REPRESENTATIVE}.json")
    return {
        FIGURES / "timing.png": (figures.draw_timing, figures.timing_data(run, comparisons)),
        FIGURES / "comparison.png": (figures.draw_comparison, step_medians()),
    }


def copies() -> dict[Path, Path]:
    """Figures that a result brought along: where the documents have them → where they come from."""
    found = (RESULTS / "equivalence" / "equivalence.png", RESULTS / "streaming" / "streaming.png")
    return {FIGURES / path.name: path for path in found}


def outdated() -> list[Path]:
    """What does not say what the results say."""
    wrong = [p for p, text in texts().items() if not p.is_file() or p.read_text() != text]
    wrong += [p for p, (_, data) in pictures().items() if figures.digest_of(p) != figures.digest(data)]
    return wrong + [
        p for p, source in copies().items() if not p.is_file() or p.read_bytes() != source.read_bytes()
    ]


def main() -> int:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--check", action="store_true", help="Change nothing, and name what is out of date.")
    args = flags.parse_args()
    wrong = outdated()
    for path in wrong:
        print(path.relative_to(ROOT), flush=True)
    if args.check:
        return int(bool(wrong))
    for path, text in texts().items():
        path.write_text(text)
    for path, (draw, data) in pictures().items():
        if path in wrong:
            draw(data, path)
    for path, source in copies().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.read_bytes())
    return 0


if __name__ == "__main__":
    run_script(main)
