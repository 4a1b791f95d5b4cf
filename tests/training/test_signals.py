"""`partoken train` as a process: killed, or asked to stop, at any moment."""

import random
import signal
import time

import pytest

from experiments.faults import Training, differences, kill_in
from partoken_jax.config import CheckpointConfig, StageConfig, save_yaml
from partoken_jax.training.loop import train

from .conftest import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """(settings file, directory of a run that nothing disturbed)"""
    directory = tmp_path_factory.mktemp("straight")
    config = tiny(
        directory / "run",
        stage0=StageConfig(7, warmup_epochs=1),
        stage1=StageConfig(3, warmup_epochs=1),
        checkpoint=CheckpointConfig(every=0.002),
    )
    save_yaml(config, directory / "settings.yaml")
    train(config, quiet=True)
    return directory / "settings.yaml", directory / "run"


def ask_to_stop(training: Training, number: signal.Signals) -> str:
    """Sends the signal; what the run says to that, last."""
    start = time.monotonic()
    assert training.end(number) == 75, training.said()
    assert time.monotonic() - start < 10
    assert "Traceback" not in training.said()
    last = training.said().splitlines()[-1]
    assert "stopped" in last and "--resume" in last
    return last


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_program_is_imported(straight, tmp_path, number):
    training = Training(straight[0], tmp_path / "run")
    time.sleep(0.5)
    ask_to_stop(training, number)
    if "before" in training.said():  # whether by now the run has started depends on the machine
        assert "checkpoints" not in {path.name for path in (tmp_path / "run").glob("*")}


def test_a_run_disturbed_again_and_again_goes_on_to_the_same_bits(straight, tmp_path):
    """A handful of what experiments/faults.py does at length, and signals. The same command every time."""
    settings, expected = straight
    chance = random.Random(0)
    training = Training(settings, tmp_path / "run")
    assert training.wait_until(lambda: "epoch   3/" in training.said()), training.said()
    assert "and saved" in ask_to_stop(training, signal.SIGTERM)
    for phase in ("saving", "import"):
        training = Training(settings, tmp_path / "run")
        assert kill_in(training, phase, chance), training.said()
    training = Training(settings, tmp_path / "run", cached=False)
    assert training.wait_until(lambda: "parameters" in training.said()), training.said()
    ask_to_stop(training, signal.SIGINT)  # while it compiles
    training = Training(settings, tmp_path / "run")
    assert training.process.wait(300) == 0, training.said()
    assert "going on after" in training.said()
    assert differences(expected, tmp_path / "run") == []
