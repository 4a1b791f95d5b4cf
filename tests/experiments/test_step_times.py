"""Steps of the compared variants, timed together."""

import json
import sys

import pytest

from experiments import step_times
from experiments.finished_runs import measured_steps
from experiments.learn import Job, job
from tests.training.conftest import tiny

pytestmark = pytest.mark.slow


def test_variants_share_a_program_unless_it_computes_something_else(tmp_path):
    def programs(recipe):
        config = job(tmp_path, "short-chains", recipe, 0, "float32").config
        return [step_times.program(config, stage) for stage in (0, 1)]

    gvp, partoken = programs("gvp-recommended"), programs("partoken-recommended")
    assert gvp == programs("gvp-scratch") and gvp[0] == gvp[1]
    assert programs("partoken-published-pretrained") == programs("partoken-published")
    assert partoken == programs("partoken-scratch") and partoken[0] != partoken[1]
    others = ("gvp-wide", "gvp-published", "partoken-whole", "partoken-random", "partoken-published")
    assert len({gvp[0], *partoken, *(program for name in others for program in programs(name))}) == 11


def test_both_stages_of_a_variant_are_timed_into_the_file_that_comparisons_read(
    tmp_path, monkeypatch, capsys
):
    config = tiny(tmp_path / "run", kind="gvp")
    monkeypatch.setattr(step_times, "job", lambda *_: Job("name", config, "family"))
    given = ["--root", str(tmp_path), "--task", "short-chains", "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", ["step_times", *given])
    step_times.main()
    assert "GVP, recommended recipe" in capsys.readouterr().out
    found = json.loads((tmp_path / "short-chains" / "step_times.json").read_text())
    assert [(row["stage"], row["over_gvp"]["pairs"]) for row in found["rows"]] == [(0, 2), (1, 2)]
    assert found["rows"][1]["over_gvp"]["median"] == 1
    steps = measured_steps(tmp_path / "short-chains")
    assert len(steps) == 1 and min(steps.values()) > 0  # GVP has one program in both stages
