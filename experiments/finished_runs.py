"""The runs of a comparison, read from ROOT/TASK/VARIANT/seedN (`experiments.learn` makes them).

Where ROOT/TASK/step_times.json lies (`experiments.step_times`), a step counts with the time that it has
there, because runs on a busy machine say little of what they cost.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.learn import RECIPES, job
from experiments.step_times import BASE, program
from partoken_jax.proteins import DataError
from partoken_jax.training.predictions import StoredPredictions, read_predictions
from partoken_jax.training.records import EpochRecord, read_records
from partoken_jax.training.report import RunReport

TASKS = ("ec-class", "cath-architecture", "cath-class", "cath-architecture-superfamily", "short-chains")
"""Those of the tables, by their names in `experiments.learn`."""
LAST = ("codes_used_share", "perplexity_share")
"""What is also told of the last epoch, as NAME_last."""
USE = (*LAST, "coverage", "clusters_per_protein", *(f"{name}_last" for name in LAST))
"""How clusters and codes are used in the epoch that is scored."""


class FinishedRun(NamedTuple):
    """What a run left that a comparison needs."""

    task: str
    variant: str
    seed: int
    report: RunReport
    records: list[EpochRecord]
    predictions: StoredPredictions
    """Of the test split, by the best checkpoint."""

    @property
    def parameters(self) -> int:
        return self.report["parameters"]["total"]

    @property
    def codebook_size(self) -> int | None:
        """Number of codes; None for GVP."""
        model = self.report["config"]["model"]
        return model["codebook"]["size"] if model["kind"] == "partoken" else None

    @property
    def scheme(self) -> str:
        """What its splits keep together (experiments/relatives.py)."""
        return self.report["config"]["data"]["split_scheme"]

    @property
    def test(self) -> Any:
        """`metrics.Classification` of the best checkpoint."""
        return self.report["test"]["classification"]

    @property
    def seconds(self) -> float:
        """Training, without compilation and validation."""
        return sum(map(training_seconds, self.records))


def task_of_forest(row: Mapping[str, Any]) -> str:
    """The task of a row of `experiments.baselines`, as runs name it."""
    return row["task"] + ("" if row["split_scheme"] == "identity" else f"-{row['split_scheme']}")


def use_of_clusters(run: FinishedRun) -> dict[str, float | None]:
    """How a run uses its clusters and codes on validation; null for GVP."""
    scored, last = (of["clustering"] for of in (run.report["validation"], run.records[-1]["validation"]))
    size = run.codebook_size
    if scored is None or last is None or size is None:
        return dict.fromkeys(USE)
    at_the_end = {f"{name}_last": share for name, share in shares(last, size).items()}
    found: Any = {**scored, **shares(scored, size), **at_the_end}
    return {name: found[name] for name in USE}


def shares(clustering: Any, size: int) -> dict[str, float]:
    """Codes used and perplexity as shares of the codebook's size, also where a report is older than these."""
    return {name: clustering[name.removesuffix("_share")] / size for name in LAST}


def mean_or_none(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def training_seconds(record: EpochRecord) -> float:
    """Of an epoch: its steps times their median, which compilation and a busy machine touch least."""
    return len(record["step_losses"]) * record["step_ms"] / 1e3


def chosen_from(records: Sequence[EpochRecord]) -> list[EpochRecord]:
    """The epochs among which a run chooses its best one: all, and once codes are in use, those with codes."""
    clusters = [record["validation"]["clustering"] for record in records]
    with_codes = [r for r, c in zip(records, clusters, strict=True) if c is not None and c["codes_used"]]
    return with_codes or list(records)


def best_within(records: Iterable[EpochRecord], seconds: float, name: str = "accuracy") -> float:
    """The best validation score that a run had reached after so many seconds of training, of the epochs among
    which it would have chosen then; 0 before the first epoch was over."""
    done: list[EpochRecord] = []
    spent = 0.0
    for record in records:
        spent += training_seconds(record)
        if spent > seconds * (1 + 1e-9):
            break
        done.append(record)
    scores: Any = [record["validation"]["classification"] for record in chosen_from(done)]
    return max((score[name] for score in scores), default=0.0)


def read_runs(root: Path, tasks: Iterable[str] = TASKS) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs of some tasks under a folder, by task, variant and seed, and the paths of the others.

    Raises DataError where there is none, for a run of another task or seed than its place says, and for one
    whose predictions are missing.
    """
    found, unfinished = [], []
    times = {task: measured_steps(root / task) for task in tasks}
    for path in sorted(path for task in times for path in root.glob(f"{task}/*/seed*") if path.is_dir()):
        place = str(path.relative_to(root))
        if not (path / "report.json").is_file():
            unfinished.append(place)
            continue
        found.append(_read(path, times[path.parts[-3]]))
    if not found:
        raise DataError(
            f"{root}: holds no finished run (TASK/VARIANT/seedN with a report.json); make some with the "
            "command `python -m experiments.learn`"
        )
    return sorted(found, key=lambda run: (run.task, run.variant, run.seed)), unfinished


def step_times(folder: Path) -> dict[str, Any] | None:
    """What step_times.json in the folder of a task holds; None without the file."""
    path = folder / "step_times.json"
    return json.loads(path.read_text()) if path.is_file() else None


def measured_steps(folder: Path) -> dict[str, float]:
    """Program of a step → its milliseconds, of step_times.json in the folder of a task; empty without the
    file. The median of the base, times that of the ratios to it: the machine is not as fast all the time, and
    they took turns."""
    found = step_times(folder)
    if found is None:
        return {}
    base = next(row["ms"] for row in found["rows"] if row["variant"] == BASE)
    return {
        _program(folder.name, row["variant"], row["stage"]): base * row["over_gvp"]["median"]
        for row in found["rows"]
    }


def _program(task: str, variant: str, stage: int) -> str:
    """What decides how long a step takes; variants that start from other weights share it."""
    return program(job(Path(), task, variant, 0, "float32").config, stage)


def _read(path: Path, times: dict[str, float]) -> FinishedRun:
    task, variant = path.parts[-3:-1]
    report: RunReport = json.loads((path / "report.json").read_text())
    data, planned = report["config"]["data"], job(path, task, "gvp-recommended", 0, "float32").config.data
    is_of = (data["task"], data["split_scheme"], f"seed{report['config']['seed']}")
    if is_of != (planned.task, planned.split_scheme, path.name):
        raise DataError(
            f"{path}: is a run of task {is_of[0]}, split {is_of[1]} and {is_of[2]}; move it to the folder "
            "that says so"
        )
    records = read_records(path / "metrics.jsonl")
    if not records:
        raise DataError(f"{path}: has no metrics.jsonl, so nothing tells what it cost; copy the whole run")
    if times and variant in RECIPES:
        programs = {stage: _program(task, variant, stage) for stage in {r["stage"] for r in records}}
        if missing := sorted(stage for stage, name in programs.items() if name not in times):
            named = ", ".join(f"{variant}, stage {stage}" for stage in missing)
            raise DataError(
                f"{path.parents[1] / 'step_times.json'}: has no time of {named}; measure all variants "
                "together with `python -m experiments.step_times`"
            )
        records = [{**record, "step_ms": times[programs[record["stage"]]]} for record in records]
    return FinishedRun(task, variant, report["config"]["seed"], report, records, read_predictions(path))
