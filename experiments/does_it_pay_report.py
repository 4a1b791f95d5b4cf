"""What `experiments.does_it_pay` found: tables, and a paragraph that follows from the numbers."""

from collections.abc import Collection
from typing import Any

from experiments.learn import COMPARED
from experiments.timing_tables import wrapped
from partoken_jax.tables import markdown_table

MAIN = (("partoken-recommended", "gvp-recommended"), ("partoken-transferred", "gvp-transferred"))
"""The question itself, by the first of these pairs that a task has; the other contrasts say what the answer
is due to."""
AGAINST = {
    **dict.fromkeys(MAIN, "GVP"),
    ("partoken-recommended", "partoken-whole"): "the same model without partition",
    ("partoken-recommended", "partoken-random"): "the same model with random clusters",
    ("partoken-scratch", "gvp-wide"): "GVP with as many parameters, both without pretraining",
}
PUBLISHED = ("partoken-published", "gvp-published")
"""The question with the settings with which it was published."""
PRETRAINED = {
    "ParToken": ("partoken-recommended", "partoken-scratch"),
    "GVP": ("gvp-recommended", "gvp-scratch"),
}
"""What starts from a pretrained encoder, and the same from random weights."""
RECIPE = ("partoken-recommended", "partoken-published")
"""What we recommend, and what it is instead of."""
SETTINGS = {
    "from random weights": ("partoken-scratch", "partoken-published"),
    "pretrained": ("partoken-recommended", "partoken-published-pretrained"),
}
"""The same, where both start alike: what is due to the settings alone."""
SCORES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
"""What a contrast is about, and what it is called."""
SIGNIFICANCE = ("found 4 times in 5", "significant")
"""Columns: the true difference in accuracy that such experiments find so often, and which scores differ."""
SIGNIFICANCE_MEANS = (
    "A score differs significantly where the 95% interval of its difference leaves 0 out. Found 4 times in "
    "5: how large a true difference in accuracy must be for four of five such experiments to find it "
    "significant, if it varies from seed to seed and from protein to protein as it did here."
)
SHARES = ("codes_used_share", "perplexity_share", "coverage")
"""How codes and clusters are used on validation."""


def report(results: dict[str, Any], figure: str) -> str:
    """The text of the Markdown file; `figure` is the name of the PNG beside it."""
    lines = [
        "# Does ParToken's representation justify its cost?",
        "",
        results["verdict"],
        "",
        f"`{results['command']}`",
    ]
    if results["unfinished"]:
        lines += ["", f"Not finished, and left out: {', '.join(results['unfinished'])}."]
    lines += [
        "",
        "## What these runs can show",
        "",
        *[power(task, found) for task, found in results["tasks"].items()],
    ]
    lines += ["", f"![accuracy against time and parameters]({figure})"]
    for task, found in results["tasks"].items():
        forest = results["forest"].get(task)
        lines += ["", f"## {task}", "", variants_table(found, forest), "", contrasts_table(found)]
        lines += ["", times(found, results["step_times"].get(task))]
    lines += [
        "",
        "Accuracy and macro-F1: of the test proteins, by the epoch with the best validation score, mean "
        "over seeds; in brackets the 95% interval over groups of related proteins (bootstrap), or of the "
        "difference, over seeds and groups together; in equal time it is over seeds alone. Runs that start "
        "from a pretrained encoder start from the same one: how much another one would change is in no "
        "interval. In equal time: the best validation accuracy that a run had reached in the training time "
        "of the cheapest variant (that of its slowest seed), and so with a schedule that was not over yet, "
        f"except the cheapest one's own. {SIGNIFICANCE_MEANS} Codes used and perplexity are shares of the "
        "codebook's size, coverage is the share of residues in a cluster, all on validation. Time: steps "
        "times their median, without compilation, validation and start.",
    ]
    return "\n".join(lines) + "\n"


def text(results: dict[str, Any]) -> str:
    """The answer, and the tables of every task with something to compare, for a document."""
    parts = [wrapped(in_short(results["tasks"]))]
    for task, found in results["tasks"].items():
        if not found["contrasts"]:
            continue
        said = (
            f"**{task}**, {found['n']} test proteins in {found['groups']} groups of relatives. "
            f"{times(found, results['step_times'].get(task))}"
        )
        parts += [wrapped(said), variants_table(found, results["forest"].get(task)), contrasts_table(found)]
    return "\n\n".join([*parts, f"`{results['command']}`"])


def times(found: dict[str, Any], measured: dict[str, str] | None) -> str:
    """Where the times of a task come from. `measured`: command and device that timed the steps together, if
    any."""
    devices = sorted({device for mine in found["variants"].values() for device in mine["devices"]})
    if measured is not None:
        return (
            "Training times are projected, whatever machine a run was on: the number of its steps, times "
            f"GVP's step time alone on a {measured['device'].split()[0].upper()}, times the median ratio to "
            f"GVP's of steps that took turns (`{measured['command']}`)."
        )
    said = f"Times are of {' and '.join(devices)}."
    if len(devices) > 1:
        said += " They are not comparable where variants ran on different ones."
    return said


def power(task: str, found: dict[str, Any]) -> str:
    """What could be found, said before what was."""
    return f"- {task}: {could_find(found)}"


def could_find(found: dict[str, Any]) -> str:
    """What so many proteins and seeds can show."""
    assumed, seeds = found["power"], found["seeds"]
    if assumed["smallest_difference"] is None:
        return f"with {found['n']} test proteins and a single seed no difference can be significant."
    return (
        f"with {found['n']} test proteins in {found['groups']} groups of relatives and {seeds} seeds a true "
        f"difference in accuracy of {assumed['smallest_difference']:.3f} comes out significant in 4 of 5 "
        f"such experiments, if two models disagree on {assumed['disagreeing']:.0%} of the groups and their "
        f"difference varies by {assumed['seed_deviation']:.3f} (standard deviation) from seed to seed."
    )


def variants_table(found: dict[str, Any], forest: dict[str, Any] | None) -> str:
    """A row per variant, and one for the random forest."""
    rows: list[tuple[object, ...]] = []
    for name, mine in found["variants"].items():
        low, high = mine["accuracy_interval"]
        accuracies = [row["accuracy"] for row in mine["per_seed"]]
        rows.append(
            (
                COMPARED[name],
                f"{mine['parameters']:,}",
                f"{mine['seconds']:,.0f} s",
                ", ".join(map(str, mine["epochs"])),
                f"{mine['accuracy']:.3f} ({low:.3f} to {high:.3f})",
                " ".join(f"{accuracy:.3f}" for accuracy in accuracies),
                f"{mine['macro_f1']:.3f}",
                f"{mine['validation_accuracy_within_budget']:.3f}",
                *("" if mine[share] is None else f"{mine[share]:.0%}" for share in SHARES),
            )
        )
    if forest is not None:
        rows.append(
            (
                "random forest",
                "",
                "",
                "",
                f"{forest['accuracy']:.3f}",
                "",
                f"{forest['macro_f1']:.3f}",
                *4 * [""],
            )
        )
    header = ("", "parameters", "training", "epochs", "test accuracy", "per seed", "macro-F1")
    within = f"validation accuracy in {found['budget_seconds']:,.0f} s"
    return markdown_table((*header, within, "codes used", "perplexity", "coverage"), rows)


def contrasts_table(found: dict[str, Any]) -> str:
    """A row per contrast."""
    rows: list[tuple[object, ...]] = []
    for mine in found["contrasts"]:
        smallest = mine["smallest_difference"]
        rows.append(
            (
                f"{COMPARED[mine['first']]} − {COMPARED[mine['second']]}",
                len(mine["seeds"]),
                signed(mine["accuracy"]),
                signed(mine["macro_f1"]),
                signed(mine["validation_accuracy_within_budget"]),
                f"× {mine['seconds_ratio']:.2f}",
                "" if smallest is None else f"{smallest:.3f}",
                significant(mine),
            )
        )
    header = ("difference", "seeds", "accuracy", "macro-F1", "validation accuracy in equal time", "time")
    return markdown_table((*header, *SIGNIFICANCE), rows)


def significant(contrast: dict[str, Any]) -> str:
    """Which scores of a contrast differ significantly."""
    return listed([name for key, name in SCORES.items() if contrast[key]["significant"]]) or "none"


def signed(found: dict[str, Any]) -> str:
    """A difference with its interval: "+0.012 (−0.010 to +0.034)"."""
    if found["interval"] is None:
        return f"{found['mean']:+.3f} ({'one seed' if len(found['per_seed']) == 1 else 'alike'}, no interval)"
    low, high = found["interval"]
    return f"{found['mean']:+.3f} ({low:+.3f} to {high:+.3f})"


def emphasised(found: dict[str, Any]) -> str:
    """A difference with its interval, in bold where that leaves 0 out."""
    return f"**{signed(found)}**" if found["significant"] else signed(found)


def by_variants(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The contrasts of a task by the two variants that they compare."""
    return {(c["first"], c["second"]): c for c in found["contrasts"]}


def main_pair(contrasts: Collection[tuple[str, str]]) -> tuple[str, str] | None:
    """The pair of ParToken and GVP by which a task answers the question; None without one."""
    return next((pair for pair in MAIN if pair in contrasts), None)


def verdict(tasks: dict[str, Any]) -> str:
    """The answer, and as a list of Markdown, task by task, what it rests on and what it is due to."""
    points = []
    for task, found in tasks.items():
        by_pair = by_variants(found)
        if (pair := main_pair(by_pair)) is None:
            continue
        main = by_pair[pair]
        parts = [
            f"{what}: {in_words(by_pair[pair]['accuracy'])}"
            for pair, what in AGAINST.items()
            if pair in by_pair
        ]
        points += [
            f"On {task} ParToken takes {main['seconds_ratio']:.2f} times the training time of GVP. Its "
            f"accuracy against that of {'; '.join(parts)}.",
            f"On {task}, in the training time of the cheapest variant ({found['budget_seconds']:,.0f} s), "
            "ParToken's best validation accuracy against GVP's: "
            f"{in_words(main['validation_accuracy_within_budget'])}.",
        ]
        others = (as_published(task, found), against_published(task, found), pretraining(task, found))
        points += filter(None, others)
    return "\n".join([answers(tasks), "", *(f"- {point}" for point in points)]).rstrip()


def answers(tasks: dict[str, Any]) -> str:
    """The answer for every task whose runs have one, with the difference that it rests on."""
    found: dict[str, list[str]] = {}
    for task, of in tasks.items():
        by_pair = by_variants(of)
        if (pair := main_pair(by_pair)) is not None:
            main = by_pair[pair]
            interval = main["accuracy"]["interval"]
            numbers = (
                f"{main['accuracy']['mean']:+.3f}",
                *([f"{interval[0]:+.3f} to {interval[1]:+.3f}"] if interval else []),
                *(_seeds(main), f"{of['n']} test proteins"),
            )
            words = answer({pair: c["accuracy"] for pair, c in by_pair.items()})
            found.setdefault(words, []).append(f"{task} ({', '.join(numbers)})")
    if not found:
        return (
            "There are no runs yet of both GVP and ParToken with the recommended recipe and the same seed, "
            "so nothing is decided."
        )
    return " ".join(f"On {listed(places)} {words}." for words, places in found.items())


def listed(names: list[str]) -> str:
    """Names as in "a, b and c"; empty without any."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def pretraining(task: str, found: dict[str, Any]) -> str:
    """What a pretrained encoder buys on a task; nothing without runs of both kinds."""
    by_pair = by_variants(found)
    parts = [
        f"of {name} {in_words(by_pair[pair]['accuracy'])}"
        for name, pair in PRETRAINED.items()
        if pair in by_pair
    ]
    if not parts:
        return ""
    return (
        f"On {task}, from an encoder that is pretrained on structure alone, the accuracy after equally many "
        f"epochs is, against that from random weights at twice the learning rate: {'; '.join(parts)}. The "
        "pretraining itself is not counted."
    )


def as_published(task: str, found: dict[str, Any]) -> str:
    """ParToken against GVP, both with the published settings; nothing without runs of both."""
    mine = by_variants(found).get(PUBLISHED)
    if mine is None:
        return ""
    epochs = ", ".join(map(str, found["variants"][PUBLISHED[0]]["epochs"]))
    return (
        f"On {task}, with the published settings but in {epochs} epochs, accuracy against GVP's: "
        f"{in_words(mine['accuracy'])}, in {mine['seconds_ratio']:.2f} of its time."
    )


def against_published(task: str, found: dict[str, Any]) -> str:
    """What the recommended recipe changes on a task; nothing without runs as published."""
    by_pair = by_variants(found)
    if RECIPE not in by_pair:
        return ""
    ours, published = (
        f"{mine['codes_used_share']:.0%} of {mine['codebook_size']} codes"
        for mine in (found["variants"][name] for name in RECIPE)
    )
    accuracy, time = by_pair[RECIPE]["accuracy"], by_pair[RECIPE]["seconds_ratio"]
    said = (
        f"On {task}, our settings after pretraining, against the published ones without it, in as many "
        f"epochs: accuracy {in_words(accuracy)}, {ours} in use, not {published}, in {time:.2f} of the time, "
        "pretraining aside."
    )
    alone = [
        f"both {start}: {in_words(by_pair[pair]['accuracy'])}"
        for start, pair in SETTINGS.items()
        if pair in by_pair
    ]
    return said + (f" The settings alone, {'; '.join(alone)}." if alone else "")


def in_short(tasks: dict[str, Any]) -> str:
    """The answer with the recommended settings and with the published ones, and what the former change."""
    said = [say(task, found) for say in (as_published, against_published) for task, found in tasks.items()]
    return " ".join(filter(None, [answers(tasks), *said]))


def answer(accuracy: dict[tuple[str, str], dict[str, Any]]) -> str:
    """The answer for one task, from the differences in accuracy by pair of variants. The representation pays
    where ParToken is better than GVP and than both controls: itself without partition, and with random
    clusters."""
    main = main_pair(accuracy)
    assert main is not None
    better = {pair: found["significant"] and found["mean"] > 0 for pair, found in accuracy.items()}
    if better[main]:
        controls = [pair for pair in AGAINST if pair[0] == MAIN[0][0] and pair not in MAIN]
        if not all(pair in better for pair in controls):
            return "ParToken is more accurate than GVP; whether because of its clusters was not tried"
        if all(better[pair] for pair in controls):
            return "the representation pays in accuracy"
        if worse := [
            AGAINST[pair] for pair in controls if accuracy[pair]["significant"] and not better[pair]
        ]:
            return f"ParToken is more accurate than GVP, and {' and '.join(worse)} more accurate still"
        unbeaten = listed([AGAINST[pair] for pair in controls if not better[pair]])
        return (
            "ParToken is more accurate than GVP, but not shown to be so because of its clusters: it is not "
            f"significantly more accurate than {unbeaten}"
        )
    if accuracy[main]["significant"]:
        return "the representation costs accuracy"
    return (
        "no gain in accuracy over GVP is shown; what the representation offers is that a prediction comes "
        "with clusters and tokens"
    )


def _seeds(contrast: dict[str, Any]) -> str:
    number = len(contrast["seeds"])
    return f"{number} seed{'s' if number > 1 else ''}"


def in_words(found: dict[str, Any]) -> str:
    """A difference in words, with its 95% interval, and whether that leaves 0 out."""
    if found["interval"] is None:
        of = "one seed" if len(found["per_seed"]) == 1 else f"each of {len(found['per_seed'])} seeds"
        return f"{found['mean']:+.3f} in {of}, which shows nothing"
    return f"{signed(found)[:-1]}, {'' if found['significant'] else 'not '}significant)"
