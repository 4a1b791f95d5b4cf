"""The order of the suite: what is there is kept, what fails or finds no time is said."""

import json
from types import SimpleNamespace

from experiments import gpu_suite


def recorder():
    """A runner of parts that only notes their names, and the notes."""
    ran: list[str] = []

    def run(name, out, quick, seconds):
        ran.append(name)
        return {"status": "ok"}

    return run, ran


def test_a_part_that_is_there_is_not_run_again(tmp_path):
    run, ran = recorder()
    (tmp_path / "first.json").write_text('{"quick": true}')
    summary = gpu_suite.run_parts(tmp_path, quick=True, minutes=1, parts=("first", "second"), run=run)
    assert ran == ["second"]
    assert summary["parts"] == {"first": {"status": "was there"}, "second": {"status": "ok"}}
    assert json.loads((tmp_path / "suite.json").read_text()) == summary


def test_a_quick_trial_does_not_count_as_the_real_thing(tmp_path):
    run, ran = recorder()
    (tmp_path / "first.json").write_text('{"quick": true}')
    gpu_suite.run_parts(tmp_path, quick=False, minutes=1, parts=("first", "second"), run=run)
    assert ran == ["first", "second"]


def test_a_part_whose_packages_are_missing_is_left_out(tmp_path):
    run, _ = recorder()
    summary = gpu_suite.run_parts(
        tmp_path,
        quick=True,
        minutes=1,
        parts=("first", "second"),
        needs={"first": ("json", "no_such_package")},
        run=run,
    )
    assert summary["parts"] == {
        "first": {"status": "left out: no_such_package not installed"},
        "second": {"status": "ok"},
    }


def test_parts_without_time_are_listed(tmp_path):
    run, ran = recorder()
    summary = gpu_suite.run_parts(tmp_path, quick=True, minutes=0, run=run)
    assert list(summary["parts"]) == list(gpu_suite.PARTS) and not ran
    assert all("no time left" in part["status"] for part in summary["parts"].values())


def test_a_part_that_fails_says_why_and_leaves_nothing(tmp_path):
    """The process of a part that does not exist fails; its last line is the reason."""
    found = gpu_suite.run_parts(tmp_path, quick=True, minutes=1, parts=("nothing",))["parts"]["nothing"]
    assert found["status"].startswith("failed: ") and "invalid choice" in found["status"]
    assert not (tmp_path / "nothing.json").exists()


def test_a_part_that_takes_too_long_is_stopped(tmp_path):
    minutes = (gpu_suite.KEEP_BACK + 0.2) / 60
    found = gpu_suite.run_parts(tmp_path, quick=True, minutes=minutes, parts=("timing64",))["parts"]
    assert "lack of time" in found["timing64"]["status"]
    assert not (tmp_path / "timing64.json").exists()


def test_every_part_has_settings():
    assert gpu_suite.settings(64, quick=False).batch_size == 64
    assert gpu_suite.settings(64, quick=True).residues == 40


def test_the_suite_tunes_without_keeping_what_it_finds(monkeypatch):
    asked = []

    def tune(config, *, command):
        asked.append(config)
        return SimpleNamespace(result={"command": command})

    monkeypatch.setattr("partoken_jax.timing.tune.tune", tune)
    assert gpu_suite.tuning(False, "all") == {"command": "all"}
    assert gpu_suite.tuning(True, "quick") == {"command": "quick"}
    assert [(config.batch_size, config.residues) for config in asked] == [(64, 300), (4, 40)]
