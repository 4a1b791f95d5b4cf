"""Run directories as a comparison finds them, without the training."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from partoken_jax.training.epochs import Predictions
from partoken_jax.training.metrics import classification
from partoken_jax.training.predictions import write_predictions

CLASSES = ("a", "b", "c")
SUPERFAMILY = "-superfamily"
"""Ends the name of a task whose split keeps superfamilies together."""


def labels(count: int) -> np.ndarray:
    return np.arange(count) % len(CLASSES)


def answers(count: int, right: int, seed: int = 0) -> np.ndarray:
    """int [count]: classes, of which `right` are the proteins' own; which ones depends on the seed."""
    chosen = np.random.default_rng(seed).permutation(count) < right
    return np.where(chosen, labels(count), (labels(count) + 1) % len(CLASSES))


def make_run(
    root: Path, task: str, variant: str, seed: int, predicted: np.ndarray, *,
    validation=(0.2, 0.5, 0.4), step_ms=100.0, parameters=1000, codes=None,
) -> Path:  # fmt: skip
    """A finished run of three epochs of 10 steps; `codes` are (used, perplexity) of a codebook of 20."""
    scheme = "superfamily" if task.endswith(SUPERFAMILY) else "identity"
    path, count = root / task / variant / f"seed{seed}", len(predicted)
    path.mkdir(parents=True)
    clusters = None
    if codes is not None:
        clusters = {
            "codes_used": codes[0],
            "perplexity": codes[1],
            "coverage": 0.4,
            "clusters_per_protein": 5.0,
        }
    scores = classification(labels(count), predicted, CLASSES)
    records = [
        {
            "stage": 0,
            "step_losses": [1.0] * 10,
            "step_ms": step_ms,
            "validation": {
                "classification": {"accuracy": accuracy, "macro_f1": accuracy / 2},
                "clustering": clusters,
            },
        }
        for accuracy in validation
    ]
    best = {"classification": {"accuracy": max(validation)}, "clustering": clusters}
    report = {
        "config": {
            "seed": seed,
            "init_from": None,
            "model": {"kind": variant.partition("-")[0], "codebook": {"size": 20}},
            "data": {"task": task.removesuffix(SUPERFAMILY), "split_scheme": scheme},
        },
        "parameters": {"total": parameters},
        "best_epoch": 2,
        "validation": best,
        "test": {"classification": scores},
        "environment": {"device": "cpu (cpu)"},
    }
    (path / "config.yaml").write_text("seed: 0\n")
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (path / "report.json").write_text(json.dumps(report))
    logits = 5.0 * np.eye(len(CLASSES))[predicted]
    made = Predictions(labels(count), logits, 0.0, np.zeros(0), np.zeros(0), 0)
    dataset: Any = SimpleNamespace(names=[f"p{i}" for i in range(count)])
    write_predictions(path, made, dataset, CLASSES)
    return path
