"""What single settings change: runs that differ from the plain one in one thing, over seeds.

    python -m experiments.learn --tasks screening --recipes plain mean norm ... --precision float32
    python -m experiments.screening --runs runs/learn --json experiments/results/learn/screening.json

Narrow GVPs from random weights, on short chains. Every setting is compared with the plain run, over the same
seeds and the same test proteins. Nothing was chosen by these numbers: the recommended recipe is older.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.contrast import contrast
from experiments.does_it_pay_report import SCORES, could_find, emphasised
from experiments.finished_runs import FinishedRun, read_runs
from experiments.flags import Flags, output, run_script
from experiments.learn import SCREENED
from experiments.paired import number_of_groups, power_before
from experiments.timing_tables import wrapped
from partoken_jax.progress import say
from partoken_jax.proteins import DataError
from partoken_jax.tables import markdown_table

TASK = "screening"
PLAIN = next(iter(SCREENED))


def analyse(runs: list[FinishedRun]) -> dict[str, Any]:
    """The power of the screening, the plain runs, and a row for every setting. Raises DataError without plain
    runs, or for variants that are not screened."""
    by_name: dict[str, list[FinishedRun]] = {}
    for run in runs:
        by_name.setdefault(run.variant, []).append(run)
    if unknown := sorted(by_name.keys() - SCREENED.keys()):
        raise DataError(f"unknown settings {', '.join(unknown)}; known are {', '.join(SCREENED)}")
    if PLAIN not in by_name:
        raise DataError(f"no run of {PLAIN!r} is finished, with which the others are compared")
    plain = by_name[PLAIN]
    number = number_of_groups(plain[0].predictions, plain[0].scheme)
    return {
        "n": plain[0].test["proteins"],
        "groups": number,
        "seeds": len(plain),
        "epochs": len(plain[0].records),
        "majority_share": plain[0].test["majority_share"],
        "power": power_before(number, len(plain)),
        "rows": [_row(name, by_name[name], plain) for name in SCREENED if name in by_name],
    }


def _row(name: str, runs: list[FinishedRun], plain: list[FinishedRun]) -> dict[str, Any]:
    against = None if name == PLAIN else contrast(runs, plain)
    means = {score: float(np.mean([run.test[score] for run in runs])) for score in ("accuracy", "macro_f1")}
    return {"setting": name, "seeds": [run.seed for run in runs], **means, "against_plain": against}


def table(found: dict[str, Any]) -> str:
    """A row for every setting: its scores, and its differences from the plain run."""
    rows: list[tuple[object, ...]] = []
    for row in found["rows"]:
        cells: list[object] = [SCREENED[row["setting"]][0], len(row["seeds"])]
        cells += [f"{row['accuracy']:.3f}", f"{row['macro_f1']:.3f}"]
        against = row["against_plain"]
        scores = ("accuracy", "macro_f1")
        cells += ["" if against is None else emphasised(against[score]) for score in scores]
        rows.append(tuple(cells))
    header = ("setting", "seeds", "accuracy", "macro-F1", "more accuracy", "more macro-F1")
    return markdown_table(header, rows, "lrrrrr")


def in_words(found: dict[str, Any]) -> str:
    """What was compared, what could come out significant, and what did."""
    if found["seeds"] == 1:
        return "These are single runs, of which nothing can be significant."
    compared = [row for row in found["rows"] if row["against_plain"] is not None]
    accuracy, macro = (_changed_by(compared, score) for score in ("accuracy", "macro_f1"))
    could = could_find(found)
    return (
        f"{could[0].upper()}{could[1:]} After {found['epochs']} epochs {accuracy}; {macro}. By chance "
        f"alone one in twenty of these {2 * len(compared)} comparisons would be significant."
    )


def _changed_by(compared: list[dict[str, Any]], score: str) -> str:
    """The settings with which a score is significantly higher, and lower."""
    said = []
    for direction, sign in (("higher", 1), ("lower", -1)):
        found = [(row["setting"], row["against_plain"][score]) for row in compared]
        names = [SCREENED[name][0] for name, d in found if d["significant"] and sign * d["mean"] > 0]
        if names:
            said.append(f"{direction} with {', and with '.join(names)}")
    return (
        f"{SCORES[score]} is significantly {' and '.join(said)}"
        if said
        else f"no setting changed {SCORES[score]} significantly"
    )


def text(found: dict[str, Any]) -> str:
    """The words and the table, for a document."""
    return f"{wrapped(in_words(found))}\n\n{table(found)}\n\n`{found['command']}`"


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--runs", type=Path, required=True, help="Folder of runs: screening/SETTING/seedN.")
    flags.add_argument("--json", type=output, required=True, help="Where the results go.")
    args = flags.parse_args()
    runs, unfinished = read_runs(args.runs, [TASK])
    for place in unfinished:
        say(f"{args.runs / place}: not finished, left out")
    found = analyse(runs)
    result = {
        "schema": "partoken.screening/1",
        "command": " ".join(["python -m experiments.screening", *sys.argv[1:]]),
        "unfinished": unfinished,
        **found,
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    say(f"{table(found)}\n\n{in_words(found)}")


if __name__ == "__main__":
    run_script(main)
