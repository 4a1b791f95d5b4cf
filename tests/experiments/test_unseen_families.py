"""Test proteins counted apart by their superfamily: who is in which group, and how sure that makes one."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import paired, unseen_families
from experiments.relatives import DATA
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
    found = unseen_families.where_seen(test, training).tolist()
    assert [w == "seen" for w in found] == [code[n.encode()] in there for n in test]
    assert {"seen", "unseen"} == set(found)
    # One whose superfamily nobody knows is no relative of others like it.
    strangers = unseen_families.where_seen(["mine", test[0]], ["yours", test[0]])
    assert strangers.tolist() == ["unknown", "seen"]


def test_what_the_encoder_met_is_of_the_task_it_learned_before(monkeypatch):
    """Those count that share a superfamily with a chain for training of the task in the encoder's name;
    structure alone, and the run's own task, are no task before."""
    splits = load_splits(EMBEDDED, task="cath-class", splits=("train", "test"))
    monkeypatch.setattr(unseen_families, "load_splits", lambda path, **of: load_splits(EMBEDDED, **of))
    monkeypatch.setattr(unseen_families, "TASKS", ("cath-class", "ec-class"))
    names = list(splits["test"].names)

    def met(start):
        run = SimpleNamespace(task="ec-class", report={"config": {"init_from": start}})
        return unseen_families.met_before([run], names)

    shared = unseen_families.where_seen(names, splits["train"].names) == "seen"
    assert 0 < shared.sum() < len(names)
    expected = {"task": "cath-class", "met": int(shared.sum())}
    assert met("runs/learn/cath-class/partoken-recommended/seed0") == expected
    assert met("runs/learn/pretraining/backbone") is met(None) is met("ec-class") is None


def test_sequences_connect_test_chains_of_the_split_by_superfamily_with_training():
    """As many as the file itself says; chains whose group is not known are connected with none."""
    splits = load_splits(DATA, task="ec-class", splits=("train", "test"), split_scheme="superfamily")
    with np.load(DATA) as arrays:
        names, number = np.char.decode(arrays["id"], "utf-8").tolist(), arrays["cluster30"].tolist()
    cluster = dict(zip(names, number, strict=True))
    training = {cluster[name] for name in splits["train"].names} - {-1}
    there = sum(cluster[name] in training for name in splits["test"].names)
    assert unseen_families.connected("ec-class") == {"n": len(splits["test"]), "connected": there}


def test_groups_have_scores_and_differences_over_the_same_proteins_and_seeds(monkeypatch):
    names, classes = np.array(["p", "q", "r", "s", "t"]), np.array(["a", "b"])
    truth = np.array([0, 1, 1, 1, 0])

    def said(*right):
        predicted = np.where(right, truth, 1 - truth)
        return StoredPredictions(names, truth, predicted, np.zeros((0, 0)), classes)

    predicted = {
        "partoken": {0: said(1, 1, 1, 0, 0), 2: said(1, 1, 0, 0, 0)},
        "forest": {1: said(1, 1, 1, 1, 1), 0: said(0, 0, 0, 1, 1), 2: said(0, 0, 1, 1, 1)},
    }
    schemes = []
    monkeypatch.setattr(
        paired, "groups", lambda names, scheme: schemes.append(scheme) or np.arange(len(names))
    )
    found = unseen_families.one_group(predicted, np.array([1, 1, 1, 1, 0], bool))
    assert set(schemes) == {"superfamily"}
    assert (found["n"], found["groups"]) == (4, 4)
    assert found["models"]["partoken"]["accuracy"] == pytest.approx(5 / 8)
    assert found["models"]["forest"]["per_seed"] == [1, 0.25, 0.5]
    (pair,) = found["differences"]  # GVP has no run
    assert pair == "partoken - forest"
    assert found["differences"][pair]["accuracy"]["per_seed"] == [0.5, 0.0]  # of seeds 0 and 2


def test_the_command_counts_what_runs_and_the_forest_said_of_the_test_split(tmp_path, monkeypatch, capsys):
    """On 60 chains, all of which the run gets right; runs and forests on other proteins are refused."""

    def few(*args, **options):
        return {split: d.take(np.arange(60)) for split, d in load_splits(*args, **options).items()}

    monkeypatch.setattr(unseen_families, "load_splits", few)
    monkeypatch.setattr(unseen_families, "TASKS", ("cath-class",))
    test = few(DATA, task="cath-class", splits=("test",))["test"]
    run = make_run(tmp_path / "runs", "cath-class", "gvp-recommended", 0, answers(60, 60))
    row = {"task": "cath-class", "split_scheme": "identity", "features": "backbone"}
    most = np.full(60, np.bincount(test.labels).argmax())
    accuracy = float(np.mean(most == test.labels))
    forest = {"accuracy": accuracy, "predicted": most.tolist()}
    baselines, out = tmp_path / "baselines.json", tmp_path / "unseen.json"
    baselines.write_text(json.dumps({"rows": [{**row, "per_seed": [forest, forest]}]}))
    arguments = ["--runs", str(tmp_path / "runs"), "--baselines", str(baselines), "--json", str(out)]
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
    assert of_all["models"]["forest"]["per_seed"] == [accuracy, accuracy]
    always = few(DATA, task="cath-class", splits=("train",))["train"].class_counts().argmax()
    assert of_all["models"]["constant"]["accuracy"] == np.mean(test.labels == always)
    assert "| cath-class | GVP − forest |" in capsys.readouterr().out

    baselines.write_text(json.dumps({"rows": [{**row, "per_seed": [{**forest, "predicted": [0] * 59}]}]}))
    with pytest.raises(DataError, match="the forest of cath-class is of other proteins than the runs"):
        unseen_families.main()
    baselines.write_text(json.dumps({"rows": []}))
    with pytest.raises(DataError, match="there is no forest of cath-class on the backbone; make"):
        unseen_families.main()


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
            assert mine["accuracy"] == pytest.approx(quoted["accuracy"])
