"""The time of a step that is recorded and reported is one without compilation."""

import pytest

from partoken_jax.training import epochs
from partoken_jax.training.epochs import SoFar, TrainEpoch, train_epoch
from partoken_jax.training.objective import LossTerms
from partoken_jax.training.report import speed, timing
from partoken_jax.training.step import StepMetrics

COMPILE, STEP = 20.0, 0.5
"""Seconds that the host compiles for a new shape, and that the device takes for a step."""


class Machine:
    """A host and a device on a clock of their own: the host compiles a step for every new batch shape and
    sends it off; the device takes one after the other; whoever reads what a step reported waits for it."""

    def __init__(self, monkeypatch):
        self.now = self.free = 0.0
        monkeypatch.setattr(epochs.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(epochs.jax, "device_get", self.read)
        self.start()

    def start(self) -> None:
        """A new process, which has compiled nothing."""
        self.shapes: set[str] = set()

    def step(self, state, shape, settings):
        if shape not in self.shapes:
            self.now += COMPILE
            self.shapes.add(shape)
        self.free = max(self.free, self.now) + STEP
        ends = self.free
        return state, StepMetrics(LossTerms(*[1.0] * 5), 1, 1, 4, 1, 1, ends, 1.0, True)

    def read(self, reported):
        if isinstance(reported, StepMetrics):
            self.now = max(self.now, reported.perplexity)
        return reported

    def epoch(self, shapes: str, so_far: SoFar | None = None, **more) -> TrainEpoch:
        """Trains on batches of these shapes."""

        def step(*args):
            return self.step(*args)

        step._cache_size = lambda: len(self.shapes)
        done = len(so_far["steps"]) if so_far else 0
        return train_epoch(
            step, None, shapes, [None] * (done + len(shapes)), num_proteins=4, description="epoch",
            quiet=True, so_far=so_far, **more,
        )  # fmt: skip


@pytest.fixture
def machine(monkeypatch):
    return Machine(monkeypatch)


def record(trained: TrainEpoch) -> dict:
    return {
        "seconds": trained.so_far["seconds"],
        "validation_seconds": 1.0,
        "step_ms": 1e3 * trained.step_seconds,
        "steps_timed": trained.steps_timed,
        "proteins_per_second": 4 * trained.steps_per_second,
    }


def test_a_run_of_one_step_an_epoch_reports_a_step_without_compilation(machine):
    records = [record(machine.epoch("a")) for _ in range(2)]
    machine.start()  # the other stage has a program of its own
    records += [record(machine.epoch("a"))]
    assert [r["steps_timed"] for r in records] == [0, 1, 0]
    assert [r["step_ms"] for r in records] == pytest.approx([20500, 500, 20500])
    times = timing(records)
    assert times == pytest.approx({"seconds": 44.5, "step_ms": 500, "proteins_per_second": 8})
    assert speed(times, records) == "500 ms per step (median), 8.0 proteins/s"


def test_where_every_step_was_compiled_that_is_said(machine):
    records = [record(machine.epoch("ab"))]
    times = timing(records)
    assert times["step_ms"] == pytest.approx(1e3 * (2 * COMPILE + STEP) / 2)
    assert speed(times, records).endswith(" proteins/s, compilation included because no step was without")


def test_records_that_do_not_say_how_many_steps_were_timed_are_medians_as_before():
    records = [
        {"seconds": 1.0, "validation_seconds": 0.5, "step_ms": ms, "proteins_per_second": 1e3 / ms}
        for ms in (400.0, 20.0, 10.0)
    ]
    assert timing(records) == {"seconds": 4.5, "step_ms": 20.0, "proteins_per_second": 50.0}
    assert "included" not in speed(timing(records), records)


@pytest.mark.parametrize("shapes", ["aaaaaaaa", "aaab", "aaaab", "abaaaaaa", "aaaaaabaaa", "abcbacba"])
def test_steps_that_were_under_way_during_a_compilation_leave_the_time_as_it_is(machine, shapes):
    """The device ends them while the host compiles, which reads them only afterwards, one upon the other."""
    trained = machine.epoch(shapes)
    assert 0 <= trained.steps_timed < len(shapes)
    if trained.steps_timed:
        assert trained.so_far["step_seconds"] == pytest.approx([STEP] * trained.steps_timed)
        assert trained.steps_per_second == pytest.approx(1 / STEP)
    assert machine.epoch(shapes).steps_timed == len(shapes)


def test_an_epoch_that_goes_on_in_another_process_leaves_both_compilations_out(machine):
    saved = []

    def save(state, known):
        if not saved:
            saved.append(known())

    machine.epoch("aaa", after_step=save)
    assert len(saved[0]["steps"]) == 1 and saved[0]["step_seconds"] == []
    machine.start()
    trained = machine.epoch("aaa", so_far=saved[0])
    assert (len(trained.step_losses), trained.steps_timed) == (4, 2)
    assert trained.step_seconds == pytest.approx(STEP)
