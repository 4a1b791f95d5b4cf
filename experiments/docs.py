"""Fills the documents from the committed results and the code: measured tables, full reports, figures and the
index of formulas.

    python -m experiments.docs            rewrites what is generated
    python -m experiments.docs --check    exits 1 and names what does not say what the results say

A block stands between <!-- NAME --> and <!-- end NAME --> in a document. Full reports are written beside
their JSON under experiments/results/, figures under docs/figures/.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments import (
    annotate_speed,
    before_after,
    codebooks,
    compiled_report,
    conv_forms,
    dead_channels,
    demo,
    does_it_pay_report,
    faults,
    figures,
    gpu_forms,
    lagging_codes,
    learn_summary,
    learn_tables,
    page_faults,
    precision,
    same_features,
    saving_cost,
    screening,
    sites,
    stability,
    start_up,
    streaming,
    unseen_families,
)
from experiments.compare import report as comparison
from experiments.compare.report import MODELS
from experiments.flags import Flags, run_script
from experiments.formulas import formula_index
from experiments.model_card import cards, overview
from experiments.presets import presets
from experiments.result_files import RESULTS, ROOT, all_results, read
from experiments.timing_tables import (
    REPRESENTATIVE,
    gpu,
    measured,
    ratios,
    representative,
    step_medians,
    tuned,
    wrapped,
)
from partoken_jax.tables import markdown_table
from partoken_jax.timing import markdown as timing_report
from partoken_jax.training.records import read_records
from partoken_jax.training.report import report_markdown

FIGURES = ROOT / "docs" / "figures"


def accuracy() -> str:
    """The scores of the demo, with their intervals, and how much they say."""
    results = read("demo", "results.json")
    reports, data = results["reports"], results["reports"]["gvp"]["data"]
    training = sum(data["class_counts"]["train"])
    return "\n".join(
        [
            demo.table(reports, results["step_seconds"], data["batch_size"]),
            "",
            wrapped(
                f"`make demo` trains both models on {training} chains of the PDB for {demo.epochs(results)} "
                f"epochs, to tell their CATH class, in {results['seconds']:.0f} s on "
                f"{results['environment']['cores']} shared CPU cores. {demo.verdict(reports)}"
            ),
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


def learned(*tasks: str) -> str:
    """The scores of the long runs and the forest: of some tasks what was trained on them, or all there is."""
    found = read("learn", "summary.json")["tasks"]
    own = {t: {model: of for model, of in found[t].items() if model in learn_summary.MODELS} for t in tasks}
    return learn_summary.table(own or found)


Blocks = Mapping[str, Callable[[], str]]
DOCUMENTS: Mapping[str, Blocks] = {
    "README.md": {
        "measured": measured,
        "gpu": gpu,
        "accuracy": accuracy,
        "learned": lambda: learned("ec-class", "cath-architecture", "cath-class"),
        "models": lambda: overview("docs/models"),
        "whole_runs": lambda: wrapped(
            does_it_pay_report.in_short(read("learn", "does_it_pay.json")["tasks"])
        ),
    },
    "docs/index.md": {"measured": measured, "gpu": gpu},
    "docs/TIMING.md": {
        "gpu": gpu,
        "measured": measured,
        "measured_and_compiled": compiled_report.measured_and_compiled,
        "ratios": ratios,
        "representative": representative,
    },
    "docs/MESSAGES.md": {
        "conv_forms": lambda: conv_forms.table(read("conv_forms.json")),
        "before_after": lambda: before_after.table(read("before_after.json")),
    },
    "docs/COMPILED.md": {
        "compiled": compiled_report.table,
        "compiled_missing": compiled_report.not_done,
        "compiled_check": compiled_report.against_a_measurement,
        "compiled_ratios": compiled_report.model_ratios,
        "compiled_kinds": compiled_report.kinds,
        "compiled_components": compiled_report.component_table,
        "compiled_layers": compiled_report.layers,
        "compiled_layer_errors": compiled_report.layer_errors,
        "compiled_devices": compiled_report.devices,
        "tpu_forms": compiled_report.tpu_forms,
        "gpu_forms": lambda: gpu_forms.table(read("compiled", "gpu_forms.json")),
    },
    "docs/COMPARISON.md": {
        "against_pytorch": lambda: comparison.overview(list(all_results("comparison").values())),
        "against_pytorch_after": lambda: comparison.overview(list(all_results("comparison_after").values())),
        "one_comparison": one_comparison,
    },
    "docs/PARITY.md": {
        "parity": lambda: parity("parity.json"),
        "parity_torch": lambda: parity("parity_torch.json"),
    },
    "docs/LEARNING.md": {
        "pretrained": lambda: learn_tables.pretrained(
            {name: read("learn", "runs", "pretraining", name, "report.json") for name in learn_tables.FORMS}
        ),
        "in_short": lambda: wrapped(
            learn_tables.in_short(
                read("learn", "summary.json")["tasks"],
                read("learn", "does_it_pay.json")["tasks"],
                read("learn", "unseen_families.json")["tasks"],
                read("learn", "same_features.json")["analysis"],
                learn_tables.reseeded_runs(RESULTS / "learn"),
            )
        ),
        "learned": learned,
        "models": lambda: overview("models"),
        "unseen": lambda: unseen_families.text(read("learn", "unseen_families.json")["tasks"]),
        "by_sequence": lambda: unseen_families.by_sequence(read("learn", "unseen_families.json")["tasks"]),
        "progress": lambda: learn_tables.progress(RESULTS / "learn" / "runs"),
        "codes": lambda: learn_tables.codes(RESULTS / "learn" / "runs"),
        "reseeded": lambda: learn_tables.went_on(learn_tables.reseeded_runs(RESULTS / "learn")),
        "lagging": lambda: lagging_codes.table(read("learn", "lagging_codes.json")),
        "starts": lambda: wrapped(learn_tables.starts(read("learn", "cluster_start.json"))),
        "codebooks": lambda: codebooks.table(read("learn", "codebooks.json")),
        "power": lambda: wrapped(learn_tables.power(read("learn", "summary.json"))),
        "same_features": lambda: same_features.text(read("learn", "same_features.json")),
        "whole_runs": lambda: does_it_pay_report.text(read("learn", "does_it_pay.json")),
        "screening": lambda: screening.text(read("learn", "screening.json")),
        "dead": lambda: dead_channels.table(read("learn", "dead_channels.json")),
    },
    "docs/SITES.md": {
        "matched": lambda: wrapped(sites.matched(read("sites.json"))),
        "sites": lambda: sites.text(read("sites.json"), "all"),
        "sites_held_out": lambda: sites.text(read("sites.json"), "held_out"),
        "matched_ec": lambda: wrapped(sites.matched(read("sites_ec.json"))),
        "sites_ec": lambda: sites.text(read("sites_ec.json"), "all"),
        "sites_ec_held_out": lambda: wrapped(sites.verdict(read("sites_ec.json")["held_out"])),
        "stability": lambda: stability.table(read("stability.json")),
    },
    "docs/REFERENCE.md": {"formulas": formula_index},
    "docs/guide/annotate.md": {
        "speed": lambda: wrapped(annotate_speed.sentence(read("annotate_speed.json"))),
    },
    "docs/guide/data.md": {
        "padding": padding,
        "streaming": lambda: streaming.table(read("streaming", "streaming.json")),
    },
    "docs/guide/runs.md": {
        "faults": lambda: faults.table(read("faults.json")),
        "saving_cost": lambda: saving_cost.table(read("saving_cost.json")),
    },
    "docs/guide/time.md": {
        "page_faults": lambda: page_faults.table(read("page_faults.json")),
        "start_up": lambda: start_up.table(read("start_up.json")),
        "tuned": tuned,
    },
    "docs/guide/train.md": {"precision": precisions, "presets": presets},
    "docs/guide/models.md": {"models": lambda: overview("../models")},
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
    for name in ("sites", "sites_ec"):
        found[RESULTS / f"{name}.md"] = sites.report(read(f"{name}.json"), f"{name}.png")
    found[RESULTS / "stability.md"] = stability.report(read("stability.json"))
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
        FIGURES / "compiled.png": (compiled_report.draw, compiled_report.figure_data()),
    }


def copies() -> dict[Path, Path]:
    """Figures that a result brought along: where the documents have them → where they come from."""
    found = (
        RESULTS / "equivalence" / "equivalence.png",
        RESULTS / "streaming" / "streaming.png",
        RESULTS / "sites.png",
    )
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
