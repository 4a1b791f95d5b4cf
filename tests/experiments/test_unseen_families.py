"""Test proteins counted apart by their superfamily: who is in which group, and how sure that makes one."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import unseen_families
from partoken_jax.proteins import DataError, load_splits
from partoken_jax.proteins.dataset import EMBEDDED
from partoken_jax.proteins.npz import read_arrays
from partoken_jax.training.epochs import Predictions
from partoken_jax.training.predictions import StoredPredictions, write_predictions
from tests.experiments.made_runs import answers, make_run

RESULTS = Path(__file__).parents[2] / "experiments" / "results" / "learn"


def test_proteins_are_apart_by_the_superfamilies_of_the_training_split():
    splits = load_splits(EMBEDDED, task="cath-class", splits=("train", "test"))
    test, training = (list(splits[split].names) for split in ("test", "train"))
    arrays = read_arrays(EMBEDDED, ("cath",))
    code = dict(zip(arrays["id"].tolist(), arrays["cath"].tolist(), strict=True))
    there = {code[name.encode()] for name in training}
    found = unseen_families.where_seen(test, training, EMBEDDED).tolist()
    assert [w == "seen" for w in found] == [code[n.encode()] in there for n in test]
    assert {"seen", "unseen"} == set(found)
    # One whose superfamily nobody knows is no relative of others like it.
    strangers = unseen_families.where_seen(["mine", test[0]], ["yours", test[0]], EMBEDDED)
    assert strangers.tolist() == ["unknown", "seen"]


def test_groups_have_scores_and_differences_over_the_same_proteins():
    names, classes = np.array(["p", "q", "r", "s", "t"]), np.array(["a", "b"])
    truth = np.array([0, 1, 1, 1, 0])

    def said(*right):
        predicted = np.where(right, truth, 1 - truth)
        return StoredPredictions(names, truth, predicted, np.zeros((0, 0)), classes)

    predicted = {
        "partoken": [said(1, 1, 1, 0, 0), said(1, 1, 0, 0, 0)],
        "forest": [said(0, 0, 0, 1, 1), said(0, 0, 1, 1, 1)],
    }
    found = unseen_families.one_group(predicted, np.array([1, 1, 1, 1, 0], bool))
    assert (found["n"], found["superfamilies"], found["most_frequent"]) == (4, 4, 0.75)
    assert found["models"]["partoken"]["accuracy"] == pytest.approx(5 / 8)
    assert found["models"]["forest"]["per_seed"] == [0.25, 0.5]
    (pair,) = found["differences"]  # GVP has no run
    assert pair == "partoken - forest"
    assert found["differences"][pair]["per_seed"] == [0.5, 0.0]


def test_the_command_counts_what_runs_said_of_the_test_split(tmp_path, monkeypatch, capsys):
    """On a few chains of the package, all of which the run gets right; one on other proteins is refused."""
    pytest.importorskip("sklearn", reason="the extra `baselines` is not installed")

    def few(*args, **options):
        found = load_splits(*args, **options)
        return {split: d.take(np.arange(160 if split == "train" else 60)) for split, d in found.items()}

    monkeypatch.setattr(unseen_families, "load_splits", few)
    monkeypatch.setattr(unseen_families, "TASKS", ("cath-class",))
    test = few(EMBEDDED, task="cath-class", splits=("test",))["test"]
    run = make_run(tmp_path / "runs", "cath-class", "gvp-recommended", 0, answers(60, 60))
    out = tmp_path / "unseen.json"
    arguments = ["--runs", str(tmp_path / "runs"), "--data", str(EMBEDDED), "--json", str(out)]
    monkeypatch.setattr(sys, "argv", ["unseen_families", *arguments])
    with pytest.raises(DataError, match="gvp-recommended/seed0: its test proteins are not those of"):
        unseen_families.main()

    said = np.eye(len(test.class_names))[test.labels]
    made = Predictions(test.labels, said, 0.0, np.zeros(0), np.zeros(0), 0)
    write_predictions(run, made, test, test.class_names)
    unseen_families.main()
    (found,) = json.loads(out.read_text())["tasks"].values()
    of_all, *groups = found["groups"].values()
    assert sum(group["n"] for group in groups) == of_all["n"] == 60 and len(groups) > 1
    assert all(group["models"]["gvp"]["accuracy"] == 1 for group in groups)
    assert {name: len(group["models"]["forest"]["per_seed"]) for name, group in found["groups"].items()} == (
        dict.fromkeys(found["groups"], unseen_families.FOREST_SEEDS)
    )
    assert "| cath-class | GVP − forest |" in capsys.readouterr().out


def test_the_committed_groups_are_of_the_quoted_runs():
    """Together they have the scores of summary.json."""
    tasks = json.loads((RESULTS / "unseen_families.json").read_text())["tasks"]
    whole = json.loads((RESULTS / "summary.json").read_text())["tasks"]
    for task, found in tasks.items():
        of_all, *groups = found["groups"].values()
        assert sum(group["n"] for group in groups) == of_all["n"]
        for model, seeds in found["seeds"].items():
            quoted, mine = whole[task][model], of_all["models"][model]
            assert (of_all["n"], seeds) == (quoted["n"], quoted["seeds"])
            right = sum(group["n"] * group["models"][model]["accuracy"] for group in groups)
            assert right / of_all["n"] == pytest.approx(mine["accuracy"])
            # The forest was trained again, by a scikit-learn that may be another.
            assert mine["accuracy"] == pytest.approx(
                quoted["accuracy"], abs=0.01 if model == "forest" else 1e-9
            )
