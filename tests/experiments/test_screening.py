"""Settings against the plain run, on runs whose truth is known."""

import json
import sys

import numpy as np
import pytest

from experiments import screening
from experiments.does_it_pay_report import signed
from experiments.finished_runs import read_runs
from experiments.learn import SCREENED
from experiments.result_files import read
from partoken_jax.presets import PRESETS
from partoken_jax.proteins import DataError
from tests.experiments.made_runs import answers, labels, make_run
from tests.helpers import flat

COUNT = 600


def add_runs(root, setting, change=0, seeds=3):
    """Runs that are right where the plain ones are, and on so many proteins more, or fewer."""
    for seed in range(seeds):
        predicted = answers(COUNT, 300, seed)
        right = predicted == labels(COUNT)
        moved = np.flatnonzero(right if change < 0 else ~right)[: abs(change)]
        predicted[moved] = (labels(COUNT)[moved] + (change < 0)) % 3
        path = make_run(root, "screening", setting, seed, predicted)
        report = json.loads((path / "report.json").read_text())
        report["config"]["data"]["task"] = "cath-architecture"
        (path / "report.json").write_text(json.dumps(report))


@pytest.fixture
def root(tmp_path):
    add_runs(tmp_path, "plain")
    add_runs(tmp_path, "mean", change=90)
    add_runs(tmp_path, "silu", change=-90)
    add_runs(tmp_path, "clip")
    (tmp_path / "screening" / "norm" / "seed0").mkdir(parents=True)
    return tmp_path


def test_what_helps_harms_and_does_nothing_is_kept_apart(root, monkeypatch, capsys):
    target = root / "screening.json"
    monkeypatch.setattr(sys, "argv", ["screening", "--runs", str(root), "--json", str(target)])
    screening.main()
    found = json.loads(target.read_text())
    rows = {row["setting"]: row for row in found["rows"]}
    assert list(rows) == ["plain", "mean", "silu", "clip"] and found["unfinished"] == ["screening/norm/seed0"]
    assert rows["plain"]["accuracy"] == pytest.approx(0.5) and rows["plain"]["against_plain"] is None
    against = {name: row["against_plain"] for name, row in rows.items() if name != "plain"}
    assert against["mean"]["accuracy"]["mean"] == pytest.approx(0.15)
    assert [found["accuracy"]["significant"] for found in against.values()] == [True, True, False]
    said = capsys.readouterr().out
    assert (
        "accuracy is significantly higher with mean over residues" in said
        and "lower with SiLU" in said
        and "norm/seed0: not" in said
    )
    assert "one in twenty of these 6 comparisons" in said


def test_without_a_plain_run_or_with_another_setting_it_says_so(root):
    runs = read_runs(root, ["screening"])[0]
    with pytest.raises(DataError, match="no run of 'plain'"):
        screening.analyse([run for run in runs if run.variant != "plain"])
    add_runs(root, "purple", seeds=1)
    with pytest.raises(DataError, match="unknown settings purple"):
        screening.analyse(read_runs(root, ["screening"])[0])


def test_presets_say_of_a_setting_what_its_screening_found():
    recommended, checked = PRESETS["recommended"], set()
    for row in read("learn", "screening.json")["rows"]:
        settings = flat(SCREENED[row["setting"]][1])
        for name in recommended.keys() & settings.keys():
            if recommended[name].value == settings[name] and row["setting"] != "mean-norm":
                found = row["against_plain"]
                also = ["macro_f1"] if found["macro_f1"]["significant"] else []
                assert all(signed(found[score]) in recommended[name].bought for score in ["accuracy", *also])
                checked.add(name)
    (row,) = (row for row in read("learn", "screening.json")["rows"] if row["setting"] == "neighbours-30")
    assert signed(row["against_plain"]["accuracy"]) in recommended["data.neighbours"].bought
    assert checked == {
        *("model.pooling", "model.norm_pooled", "one_schedule", "stage0.learning_rate", "weight_decay"),
        *("label_smoothing", "class_balance", "clip_norm"),
    }
