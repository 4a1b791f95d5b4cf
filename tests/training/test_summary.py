"""summary.json says what a run came to, and is whole at any time."""

import json
import typing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from partoken_jax.files import write_whole
from partoken_jax.training.epochs import Evaluation
from partoken_jax.training.metrics import classification, clustering, wilson
from partoken_jax.training.summary import Scores, Summary, read_summary, summarise, write_summary

from .conftest import tiny

CALL = {"command": "partoken train", "date": "2026-01-02T03:04:05+00:00", "parameters": 5}
DATA = SimpleNamespace(
    datasets={"train": SimpleNamespace(task="cath-class", source="some/where/proteins.npz")},
    fingerprint="abc",
)


def evaluation(correct: int, clusters: bool = True) -> Evaluation:
    """Of 8 proteins of two classes, the first ones of which are given their own."""
    truth = np.arange(8) % 2
    predicted = np.where(np.arange(8) < correct, truth, 1 - truth)
    found = clustering(np.array([[5, 3], [2, 0]]), np.array([[7, 1], [7, -1]]), 40)
    return Evaluation(
        cross_entropy=0.5,
        classification=classification(truth, predicted, ("a", "b")),
        clustering=found if clusters else None,
    )


def records(clusters: bool = True):
    """Two epochs; the first one is better."""
    return [
        {
            "epoch": 1 + i,
            "validation": evaluation(correct, clusters),
            "seconds": 3.0 + i,
            "validation_seconds": 0.5,
            "step_ms": 10.0 + i,
            "proteins_per_second": 2.0 + i,
        }
        for i, correct in enumerate((6, 4))
    ]


def test_before_the_first_epoch_what_is_not_known_is_null(tmp_path):
    summary = summarise(tiny(), DATA, [], state="running", **CALL)
    write_summary(tmp_path, summary)
    assert read_summary(tmp_path) == json.loads((tmp_path / "summary.json").read_text()) == summary
    assert set(summary) == set(typing.get_type_hints(Summary))
    empty = {name for name, value in summary.items() if value is None}
    assert empty == {"step_ms", "proteins_per_second", "best_epoch", "validation", "test"}
    assert (summary["epochs"], summary["epochs_planned"], summary["seconds"]) == (0, 5, 0)


def test_a_finished_run_has_its_scores_with_intervals():
    more = {"best_epoch": 1, "test": evaluation(5)}
    summary = summarise(tiny(), DATA, records(), state="finished", **more, **CALL)
    for split, correct in ("validation", 6), ("test", 5):
        scores = summary[split]
        assert set(scores) == set(typing.get_type_hints(Scores))
        assert (scores["correct"], scores["proteins"], scores["accuracy"]) == (correct, 8, correct / 8)
        assert (scores["accuracy_low"], scores["accuracy_high"]) == wilson(correct, 8)
        assert (scores["codes_used"], scores["clusters_per_protein"], scores["coverage"]) == (2, 1.5, 0.25)
    assert (summary["seconds"], summary["step_ms"], summary["epochs"]) == (8.0, 10.5, 2)
    assert (summary["data"], summary["fingerprint"]) == ("proteins.npz", "abc")
    assert {"jax", "python", "device", "partoken_jax"} <= set(summary["environment"])


def test_a_baseline_has_no_clusters_and_a_stopped_run_no_test():
    config = tiny(kind="gvp")
    summary = summarise(config, DATA, records(clusters=False), state="stopped", best_epoch=1, **CALL)
    assert summary["validation"]["codes_used"] is summary["validation"]["coverage"] is None
    assert summary["test"] is None and summary["model"] == "gvp"


def test_a_failed_write_leaves_the_old_text_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "summary.json"
    write_whole(file, "old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, "new")
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
