"""The training runs that are quoted: what their settings are, and in which order they start."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from flax import nnx

from experiments import learn
from partoken_jax.config import ConfigError, to_dict
from partoken_jax.models import build_model
from partoken_jax.parameters import parameter_table

ROOT = Path("runs")


def config(recipe: str, task: str = "cath-class", seed: int = 1):
    return learn.job(ROOT, task, recipe, seed, "float32").config


def parameters(model) -> int:
    abstract = nnx.eval_shape(lambda: build_model(model, rngs=nnx.Rngs(0)))
    return dict(parameter_table(abstract))["total"]


@pytest.mark.parametrize("task", learn.TASKS)
@pytest.mark.parametrize("recipe", learn.RECIPES)
def test_every_recipe_fits_every_task(recipe, task):
    made = config(recipe, task)
    assert made.run_dir == f"runs/{task}/{recipe}/seed1" and made.seed == 1
    epochs = made.stage0.epochs + made.stage1.epochs
    assert made.temperature.at(epochs - 1) == pytest.approx(made.temperature.final)


def test_the_wide_baseline_has_the_parameters_of_partoken():
    wide, partoken, gvp = (
        parameters(config(recipe).model) for recipe in ("gvp-wide", "partoken-scratch", "gvp-scratch")
    )
    assert abs(wide / partoken - 1) < 0.002 < 1 - gvp / partoken


@pytest.mark.parametrize(
    ("first", "second", "different"),
    [
        ("gvp-recommended", "partoken-recommended", {"kind"}),
        ("partoken-recommended", "partoken-whole", {"partitioner"}),
        ("partoken-recommended", "partoken-random", {"partitioner"}),
        ("gvp-types", "partoken-types", {"kind"}),
        ("gvp-published", "partoken-published", {"kind"}),
    ],
)
def test_what_is_compared_differs_in_what_it_is_called(first, second, different):
    one, other = to_dict(config(first)), to_dict(config(second))
    assert {name for name in one if one[name] != other[name]} == {"run_dir", "model"}
    assert {name for name in one["model"] if one["model"][name] != other["model"][name]} == different


def test_a_run_waits_for_the_one_that_it_starts_from(tmp_path):
    jobs = learn.all_jobs(tmp_path, ["cath-class"], ["gvp-recommended", "gvp-scratch"], seeds=2)
    assert [job.name for job in jobs[:2]] == ["pretraining/backbone", "cath-class/gvp-recommended/seed0"]
    # Pretraining is under way: what starts from it waits, what does not can start.
    found = learn.startable(jobs[1:], [jobs[0]])
    assert found is not None and found.name == "cath-class/gvp-scratch/seed0"
    # Of one family, one at a time: the second seed then finds the programs of the first.
    assert learn.startable([job for job in jobs if job.family == found.family], [found]) is None
    done = tmp_path / "pretraining" / "backbone"
    done.mkdir(parents=True)
    (done / "report.json").touch()
    started = learn.startable(jobs[1:], [])
    assert started is not None and started.name == "cath-class/gvp-recommended/seed0"


def test_sigterm_ends_the_runs_under_way_as_well(tmp_path, monkeypatch):
    jobs = learn.all_jobs(tmp_path, ["cath-class"], ["gvp-scratch"], seeds=2)
    begun = []

    def start(job):
        begun.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        threading.Timer(0.2, signal.raise_signal, [signal.SIGTERM]).start()
        return begun[-1]

    monkeypatch.setattr(learn, "start", start)

    def ignored(number, frame):
        """In place of the end of the process that runs this test."""

    before = signal.signal(signal.SIGTERM, ignored)
    try:
        started = time.monotonic()
        learn.run_all(jobs, at_once=1, seconds=30)
        assert time.monotonic() - started < 20, "it has not heard of the signal"
        assert [process.returncode for process in begun] == [-signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is ignored
    finally:
        signal.signal(signal.SIGTERM, before)
        for process in begun:
            process.kill()


def test_another_run_of_this_file_may_be_the_start_and_is_not_begun_for_it(tmp_path):
    jobs = learn.all_jobs(tmp_path, ["ec-class"], ["partoken-transferred"], seeds=1)
    assert [job.name for job in jobs] == ["ec-class/partoken-transferred/seed0"]
    start = "cath-architecture/partoken-recommended/seed0"
    assert jobs[0].config.freeze_encoder and jobs[0].config.init_from == str(tmp_path / start)
    assert learn.startable(jobs, []) is None
    with pytest.raises(
        ConfigError, match=f"seed0 starts from {start}, which is not finished in .*; run that"
    ):
        learn.check_starts(jobs, tmp_path)
    (tmp_path / start).mkdir(parents=True)
    (tmp_path / start / "report.json").touch()
    learn.check_starts(jobs, tmp_path)
    learn.check_starts(learn.all_jobs(tmp_path, ["cath-class"], ["gvp-recommended"], seeds=1), tmp_path)


def test_a_model_of_the_package_is_a_start_that_is_always_there(tmp_path):
    jobs = learn.all_jobs(tmp_path, ["ec-class"], ["partoken-tuned"], seeds=1)
    assert jobs[0].config.init_from == "ec-class" and not jobs[0].config.freeze_encoder
    assert learn.startable(jobs, []) is jobs[0]
