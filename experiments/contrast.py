"""Two variants of a model, run with the same seeds on the same proteins, against each other."""

import math
from typing import Any

import numpy as np

from experiments.finished_runs import FinishedRun, best_within
from experiments.paired import as_json, difference, disagreement, protein_errors, smallest_difference


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
    stored = [(a.predictions, b.predictions) for a, b in pairs]
    ours, others = [a for a, _ in stored if a is not None], [b for _, b in stored if b is not None]
    paired = len(ours) == len(others) == len(seeds)
    errors: tuple[float, float] | tuple[None, None] = protein_errors(ours, others) if paired else (None, None)

    def of_test(name: str, error: float | None) -> dict[str, Any]:
        return as_json(difference([a.test[name] - b.test[name] for a, b in pairs], error))

    within = [best_within(a.records, budget) - best_within(b.records, budget) for a, b in pairs]
    accuracy = of_test("accuracy", errors[0])
    deviation = float(np.std(accuracy["per_seed"], ddof=1)) if len(seeds) > 1 else 0.0
    disagreeing = disagreement(ours, others) if paired else None
    return {
        "first": first[0].variant,
        "second": second[0].variant,
        "seeds": seeds,
        "accuracy": accuracy,
        "macro_f1": of_test("macro_f1", errors[1]),
        "validation_accuracy_within_budget": as_json(difference(within)),
        "disagreeing": disagreeing,
        "seed_deviation": deviation,
        "smallest_difference": None
        if disagreeing is None
        else smallest_difference(first[0].test["proteins"], len(seeds), disagreeing, deviation),
        "seconds_ratio": float(np.mean([a.seconds / b.seconds for a, b in pairs])),
        "parameters_ratio": pairs[0][0].parameters / pairs[0][1].parameters,
    }
