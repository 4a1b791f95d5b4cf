"""The order of the suite: what is there is kept, what fails or finds no time is said."""

import json

import pytest

from experiments import gpu_suite


@pytest.fixture
def two_parts(monkeypatch):
    monkeypatch.setattr(gpu_suite, "PARTS", {"first": None, "second": None})


def test_a_part_that_is_there_is_not_run_again(two_parts, monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(gpu_suite, "_run_part", lambda name, *_: ran.append(name) or {"status": "ok"})
    (tmp_path / "first.json").write_text('{"quick": true}')
    summary = gpu_suite.run_parts(tmp_path, quick=True, minutes=1)
    assert ran == ["second"]
    assert summary["parts"] == {"first": {"status": "was there"}, "second": {"status": "ok"}}
    assert json.loads((tmp_path / "suite.json").read_text()) == summary


def test_a_quick_trial_does_not_count_as_the_real_thing(two_parts, monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(gpu_suite, "_run_part", lambda name, *_: ran.append(name) or {"status": "ok"})
    (tmp_path / "first.json").write_text('{"quick": true}')
    gpu_suite.run_parts(tmp_path, quick=False, minutes=1)
    assert ran == ["first", "second"]


def test_a_part_whose_packages_are_missing_is_left_out(two_parts, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_suite, "NEEDS", {"first": ("json", "no_such_package")})
    monkeypatch.setattr(gpu_suite, "_run_part", lambda *_: {"status": "ok"})
    parts = gpu_suite.run_parts(tmp_path, quick=True, minutes=1)["parts"]
    assert parts == {
        "first": {"status": "left out: no_such_package not installed"},
        "second": {"status": "ok"},
    }


def test_parts_without_time_are_listed(two_parts, tmp_path):
    summary = gpu_suite.run_parts(tmp_path, quick=True, minutes=0)
    assert all("no time left" in part["status"] for part in summary["parts"].values())


def test_a_part_that_fails_says_why_and_leaves_nothing(tmp_path):
    """The process of a part that does not exist fails; its last line is the reason."""
    found = gpu_suite._run_part("nothing", tmp_path, True, 60.0)
    assert found["status"].startswith("failed: ") and "invalid choice" in found["status"]
    assert not list(tmp_path.glob("*.json"))


def test_a_part_that_takes_too_long_is_stopped(tmp_path):
    found = gpu_suite._run_part("timing64", tmp_path, True, 0.2)
    assert "lack of time" in found["status"]


def test_every_part_has_settings():
    assert gpu_suite.settings(64, quick=False).batch_size == 64
    assert gpu_suite.settings(64, quick=True).residues == 40
