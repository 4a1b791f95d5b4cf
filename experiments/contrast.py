"""Two variants of a model, run with the same seeds on the same proteins, against each other."""

import math
from typing import Any

import numpy as np

from experiments.finished_runs import FinishedRun, best_within
from experiments.paired import as_json, difference, protein_errors, smallest_difference


def contrast(
    first: list[FinishedRun], second: list[FinishedRun], budget: float = math.inf
) -> dict[str, Any] | None:
    """The differences between two variants, the first minus the second, over the seeds that both have; None
    without any. The best scores on validation are those within a budget of seconds of training."""
    mine, theirs = ({run.seed: run for run in runs} for runs in (first, second))
    seeds = sorted(mine.keys() & theirs.keys())
    if not seeds:
        return None
    pairs = [(mine[seed], theirs[seed]) for seed in seeds]
    ours, others = [a.predictions for a, _ in pairs], [b.predictions for _, b in pairs]
    errors = protein_errors(ours, others, pairs[0][0].scheme)

    def of_test(name: str, error: float) -> dict[str, Any]:
        return as_json(difference([a.test[name] - b.test[name] for a, b in pairs], error))

    within = [best_within(a.records, budget) - best_within(b.records, budget) for a, b in pairs]
    accuracy = of_test("accuracy", errors[0])
    deviation = float(np.std(accuracy["per_seed"], ddof=1)) if len(seeds) > 1 else 0.0
    return {
        "first": first[0].variant,
        "second": second[0].variant,
        "seeds": seeds,
        "accuracy": accuracy,
        "macro_f1": of_test("macro_f1", errors[1]),
        "validation_accuracy_within_budget": as_json(difference(within)),
        "smallest_difference": smallest_difference(errors[0], len(seeds), deviation),
        "seconds_ratio": float(np.mean([a.seconds / b.seconds for a, b in pairs])),
        "parameters_ratio": pairs[0][0].parameters / pairs[0][1].parameters,
    }
