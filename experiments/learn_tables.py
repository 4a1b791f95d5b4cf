"""Tables of what the models have learned, for the documents."""

import json
from pathlib import Path
from typing import Any

from experiments.does_it_pay_report import PRETRAINED, SETTINGS, by_variants, listed, main_pair, signed
from experiments.finished_runs import LAST, TASKS, chosen_from, shares
from experiments.learn import COMPARED
from experiments.paired import ASSUMED_DEVIATION, ASSUMED_DISAGREEMENT, power_before
from partoken_jax.settings import read_yaml
from partoken_jax.tables import markdown_table
from partoken_jax.training.metrics import hits, wilson
from partoken_jax.training.records import EpochRecord, read_records

WentOn = dict[str, tuple[list[dict[str, float]], ...]]
"""Seed → what is told of every epoch that a run had without, and with, re-seeding of rare codes."""
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


def codes(root: Path) -> str:
    """How codes are used on validation by every finished ParToken: in the first epoch with codes, in the one
    that is scored, and in the last; seed by seed."""
    rows: list[tuple[object, ...]] = []
    for variant in sorted(path for task in TASKS for path in root.glob(f"{task}/partoken-*")):
        found: list[list[dict[str, float]]] = []
        for path in sorted(variant.glob("seed*/report.json")):
            report = json.loads(path.read_text())
            of_epochs = [r["validation"]["clustering"] for r in read_records(path.with_name("metrics.jsonl"))]
            first = next(clusters for clusters in of_epochs if clusters and clusters["codes_used"])
            size = report["config"]["model"]["codebook"]["size"]
            told = (first, of_epochs[report["best_epoch"] - 1], of_epochs[-1])
            found.append([shares(clusters, size) for clusters in told])
        if found:
            cells = (
                " ".join(f"{of_run[when][name]:.0%}" for of_run in found)
                for name in LAST
                for when in range(3)
            )
            rows.append((variant.parent.name, COMPARED[variant.name], size, *cells))
    when = ("at first", "scored", "at last")
    header = (f"{name}, {of}" for name in ("codes used", "perplexity") for of in when)
    return markdown_table(("task", "model", "codes", *header), rows, "llrrrrrrr")


def reseeded_runs(root: Path) -> WentOn:
    """By seed, the epochs of a run on architectures that went on with rare codes re-seeded: as they had been
    without that, and with it."""
    found = {}
    for path in sorted(root.glob("reseeded/seed*")):
        without = root / "runs" / "cath-architecture" / "partoken-recommended" / path.name
        size = read_yaml(path / "config.yaml")["model"]["codebook"]["size"]
        both = [read_records(run / "metrics.jsonl") for run in (without, path)]
        same = ("step_losses", "codes_reseeded")
        start = sum(all(a[name] == b[name] for name in same) for a, b in zip(*both, strict=True))
        found[path.name.removeprefix("seed")] = tuple(
            [_codes_of(record, size) for record in records[start:]] for records in both
        )
    return found


def _codes_of(record: EpochRecord, size: int) -> dict[str, float]:
    validation = record["validation"]
    return {
        "epoch": record["epoch"],
        **shares(validation["clustering"], size),
        "accuracy": validation["classification"]["accuracy"],
        "reseeded": record["codes_reseeded"],
    }


def went_on(runs: WentOn) -> str:
    """A row for every epoch of `reseeded_runs`, without → with."""
    rows = [
        (
            seed,
            a["epoch"],
            f"{a['reseeded']} → {b['reseeded']}",
            *(f"{a[name]:.0%} → {b[name]:.0%}" for name in LAST),
            f"{a['accuracy']:.3f} → {b['accuracy']:.3f}",
        )
        for seed, both in runs.items()
        for a, b in zip(*both, strict=True)
    ]
    header = ("seed", "epoch", "codes re-seeded after it", "codes used", "perplexity", "validation accuracy")
    return markdown_table(header, rows)


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


def in_short(
    learned: dict[str, Any],
    compared: dict[str, Any],
    unseen: dict[str, Any],
    same: dict[str, Any],
    reseeded: WentOn,
) -> str:
    """What a reader wants to know first, as a list; of `experiments.learn_summary`, `does_it_pay`,
    `unseen_families`, `same_features` and `reseeded_runs`. A test sees to it that the words go with the
    numbers."""
    pairs = {task: by_variants(of) for task, of in compared.items()}
    against_gvp = {task: found[pair] for task, found in pairs.items() if (pair := main_pair(found))}
    ratios = [found["seconds_ratio"] for found in against_gvp.values()]
    differences = [f"{signed(found['accuracy'])} on {task}" for task, found in against_gvp.items()]
    on_features = same["backbone, cath-architecture"]
    head = on_features["contrasts"][0]["accuracy"]
    gvp_head, partoken_head = (of["parameters"] for of in list(on_features["readers"].values())[:2])
    short = pairs["short-chains"]
    pretrained = [f"of {name} by {signed(short[pair]['accuracy'])}" for name, pair in PRETRAINED.items()]
    settings = [f"{signed(short[pair]['accuracy'])} with both {start}" for start, pair in SETTINGS.items()]
    alone = short[SETTINGS["pretrained"]]
    variants = compared["short-chains"]["variants"]
    used_by = [variants[name]["codes_used_share_last"] for name in SETTINGS["pretrained"]]
    partoken = [models["partoken"] for models in learned.values() if "partoken" in models]
    used, perplexity = ([of[f"{name}_last"] for of in partoken] for name in LAST)
    ends = [tuple(f"{told[-1]['perplexity_share']:.0%}" for told in pair) for pair in reseeded.values()]
    published = variants["partoken-published"]["codes_used_share_last"]
    architecture, enzymes = learned["cath-architecture"], learned["ec-class"]
    apart = learned["cath-architecture-superfamily"]["partoken"]
    seen, new, new_enzymes = (
        {name: of["accuracy"] for name, of in unseen[task]["groups"][group]["models"].items()}
        for task, group in (
            ("cath-architecture", "seen"),
            ("cath-architecture", "unseen"),
            ("ec-class", "unseen"),
        )
    )
    return "\n".join(
        [
            "- Is ParToken more accurate than GVP? In whole runs that is not shown. Its accuracy minus "
            f"GVP's is {listed(differences)}, in {min(ratios):.2f} to {max(ratios):.2f} times the training "
            "time ([whole runs](#whole-runs)). On residue features that do not change, its head, with "
            f"{partoken_head / gvp_head:.1f} times the parameters, is more accurate on cath-architecture, "
            f"{signed(head)}, the only one of five such comparisons. Nor are learned clusters shown to "
            "help: random ones, or the whole protein as one, are not significantly worse ([the same "
            "features](#on-the-same-residue-features)).",
            "- Is it better than a random forest on hand-made features? On architectures it is, with an "
            f"accuracy of {architecture['partoken']['accuracy']:.3f} against "
            f"{architecture['forest']['accuracy']:.3f}; on enzyme classes in macro-F1 alone, "
            f"{enzymes['partoken']['macro_f1']:.3f} against {enzymes['forest']['macro_f1']:.3f}; on CATH "
            "classes that is not shown ([scores](#proteins-classes-of-structure-and-of-function)).",
            f"- On superfamilies that are new to it, accuracy is {new['partoken']:.3f} on architectures, "
            f"where on known ones it is {seen['partoken']:.3f}; trained on a split that keeps superfamilies "
            f"apart, {apart['accuracy']:.3f} (seeds: {apart['seeds']}). On enzyme classes it is "
            f"{new_enzymes['partoken']:.3f}, less than that of always the most frequent class, "
            f"{new_enzymes['constant']:.3f}: do not use it for those ([new "
            "superfamilies](#superfamilies-that-are-new-to-it)). New folds were not counted apart.",
            f"- Are the codes used? In the last epoch {min(used):.0%} to {max(used):.0%} of them are, by "
            f"task, with a perplexity of {min(perplexity):.0%} to {max(perplexity):.0%} of the codebook; "
            f"with the published settings, on short chains, {published:.0%} are. Codes lag behind clusters "
            "that move. The preset now also re-seeds those that few clusters choose: runs on architectures "
            f"that went on so end at a perplexity of {listed([after for _, after in ends])}, not "
            f"{listed([before for before, _ in ends])} ([codes](#codes)). The classifier does not read "
            "codes: they name clusters.",
            "- Which settings should I take? Those of `--preset recommended`, from a pretrained encoder "
            "([presets](guide/train.md#presets)). On short chains pretraining raises the accuracy "
            f"{listed(pretrained)}. The settings alone are not shown to raise it: against the published ones "
            f"it is {listed(settings)}. Pretrained, they raise macro-F1, "
            f"{signed(alone['macro_f1'])}, take {alone['seconds_ratio']:.2f} of the time, and leave "
            f"{used_by[0]:.0%} of the codes in use, not {used_by[1]:.0%}.",
        ]
    )


def power(summary: dict[str, Any], seeds: int = 3) -> str:
    """What differences so many seeds can show on each task."""
    of = {task: next(iter(models.values())) for task, models in summary["tasks"].items()}
    least = {task: power_before(one["groups"], seeds)["smallest_difference"] for task, one in of.items()}
    said = (
        f"{least[task]:.3f} on {task} ({one['n']} proteins in {one['groups']} groups of relatives)"
        for task, one in of.items()
    )
    return (
        f"With {seeds} seeds, the true difference in accuracy that 4 of 5 such experiments find significant "
        f"is {', '.join(said)}, if two models disagree on {ASSUMED_DISAGREEMENT:.0%} of the groups and "
        f"their difference varies by {ASSUMED_DEVIATION} from seed to seed."
    )
