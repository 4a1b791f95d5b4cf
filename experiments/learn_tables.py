"""Tables of what the models have learned, for the documents."""

from pathlib import Path
from typing import Any

from experiments.finished_runs import TASKS, chosen_from
from experiments.paired import ASSUMED_DEVIATION, ASSUMED_DISAGREEMENT, power_before
from partoken_jax.settings import read_yaml
from partoken_jax.tables import markdown_table
from partoken_jax.training.metrics import hits, wilson
from partoken_jax.training.records import read_records

FORMS = {
    "backbone": "sees the backbone alone",
    "types": "sees types, of which training hides a random share",
}
"""By pretraining run: what its model is given."""
PUBLISHED = (
    ("GVP (Jing et al. 2021), one type after the other, CATH 4.2", "all", "1,120", "0.402", "5.3"),
    ("Structured Transformer (Ingraham et al. 2019), likewise", "all", "1,120", "0.364", "6.85"),
)
"""Other data and another task: their decoders see the types before the one they predict."""


def pretrained(reports: dict[str, dict[str, Any]]) -> str:
    """How well types are told on the test split, by pretraining run."""
    rows: list[tuple[object, ...]] = []
    for name, report in reports.items():
        for found in report["test"]["recovery"]:
            hidden = "all" if found["hidden"] == 1 else f"{found['hidden']:.0%}"
            rows.append(
                (
                    f"ours, {FORMS[name]}",
                    hidden,
                    f"{found['proteins']:,}",
                    f"{found['recovery']:.3f} ({found['recovery_low']:.3f} to {found['recovery_high']:.3f})",
                    f"{found['perplexity']:.2f} "
                    f"({found['perplexity_low']:.2f} to {found['perplexity_high']:.2f})",
                )
            )
    majority = next(iter(reports.values()))["test"]["recovery"][0]
    rows.append(
        (
            "always the most frequent type",
            "all",
            f"{majority['proteins']:,}",
            f"{majority['majority_share']:.3f}",
            "",
        )
    )
    header = (
        "model",
        "types hidden",
        "test proteins",
        "recovery (95% interval)",
        "perplexity (95% interval)",
    )
    return markdown_table(header, [*rows, *PUBLISHED])


def progress(root: Path) -> str:
    """Every run of the tasks that are quoted, finished or not, by its best epoch on validation."""
    rows: list[tuple[object, ...]] = []
    for path in sorted(path for task in TASKS for path in root.glob(f"{task}/*/seed*/metrics.jsonl")):
        task, recipe, seed = path.parts[-4:-1]
        records, config = read_records(path), read_yaml(path.with_name("config.yaml"))
        validations = [record["validation"] for record in chosen_from(records)]
        best = max(
            validations, key=lambda v: (v["classification"]["accuracy"], v["classification"]["macro_f1"])
        )
        scores, clusters = best["classification"], best["clustering"]
        low, high = wilson(hits(scores), scores["proteins"])
        rows.append(
            (
                task,
                recipe,
                seed.removeprefix("seed"),
                f"{len(records)} of {config['stage0']['epochs'] + config['stage1']['epochs']}",
                scores["proteins"],
                f"{scores['accuracy']:.3f} ({low:.3f} to {high:.3f})",
                f"{scores['macro_f1']:.3f}",
                f"{scores['majority_share']:.3f}",
                "" if clusters is None else f"{clusters['coverage']:.2f}",
            )
        )
    header = (
        *("task", "recipe", "seed", "epochs", "validation", "best accuracy (95% interval)", "macro-F1 there"),
        *("most frequent class", "coverage"),
    )
    return markdown_table(header, rows, "llrrrrrrr")


def starts(result: dict[str, Any]) -> str:
    """The ranges of coverage before the first step, of `experiments.cluster_start`."""
    covered = {start: [row[start]["coverage"] for row in result["untrained"]] for start in ("random", "data")}
    (low, high), (data_low, data_high) = ((min(c), max(c)) for c in covered.values())
    return (
        f"Over {len(result['untrained'])} seeds of the published configuration the share of residues in a "
        f"cluster before the first step is {low:.2f} to {high:.2f}; with `--model.partitioner.start data` it "
        f"is {data_low:.2f} to {data_high:.2f}, within "
        f"{result['coverage_over_seeds']['data']['furthest']:.0%} of its mean (`{result['command']}`)."
    )


def power(summary: dict[str, Any], seeds: int = 3) -> str:
    """What differences so many seeds can tell on each task."""
    of = {task: next(iter(models.values())) for task, models in summary["tasks"].items()}
    least = {task: power_before(one["groups"], seeds)["smallest_difference"] for task, one in of.items()}
    told = (
        f"{least[task]:.3f} on {task} ({one['n']} proteins in {one['groups']} groups of relatives)"
        for task, one in of.items()
    )
    return (
        f"With {seeds} seeds, the smallest difference in accuracy that is told in 4 of 5 such experiments is "
        f"{', '.join(told)}, if two models disagree on {ASSUMED_DISAGREEMENT:.0%} of the groups and "
        f"their difference varies by {ASSUMED_DEVIATION} from seed to seed."
    )
