"""What a run says and writes for people, scripts and TensorBoard is what it computed."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from partoken_jax.cli import main
from partoken_jax.config import StageConfig, save_yaml
from partoken_jax.proteins import DataError
from partoken_jax.training.evaluate import evaluate
from partoken_jax.training.interruption import Interrupted
from partoken_jax.training.loop import train
from partoken_jax.training.metrics import classification
from partoken_jax.training.predictions import read_predictions
from partoken_jax.training.records import read_records
from partoken_jax.training.report import report_markdown
from partoken_jax.training.run_directory import RUN_FILES
from partoken_jax.training.summary import read_summary, scores

from .conftest import tiny
from .test_events import read_events

pytestmark = pytest.mark.slow
ROOT = str(Path(__file__).parents[2])


def compared_with_records(run_dir: Path) -> None:
    """The events that TensorBoard shows are those of metrics.jsonl: every step and epoch, once."""
    records, events = read_records(run_dir / "metrics.jsonl"), read_events(run_dir)
    losses = [loss for record in records for loss in record["step_losses"]]
    assert events["step/loss"] == dict(enumerate(losses, start=1))
    ends = np.cumsum([len(record["step_losses"]) for record in records]).tolist()
    for tag, of_record in {
        "train/accuracy": lambda r: r["train"]["accuracy"],
        "train/cross_entropy": lambda r: r["train"]["cross_entropy"],
        "train/temperature": lambda r: r["temperature"],
        "validation/accuracy": lambda r: r["validation"]["classification"]["accuracy"],
        "validation/macro_f1": lambda r: r["validation"]["classification"]["macro_f1"],
        "validation/cross_entropy": lambda r: r["validation"]["cross_entropy"],
    }.items():
        expected = dict(zip(ends, map(of_record, records), strict=True))
        assert events[tag] == pytest.approx(expected, rel=1e-6), tag  # stored in single precision
    rates = {end: events["step/learning_rate"][end] for end in ends}
    assert rates == pytest.approx(dict(zip(ends, [r["learning_rate"] for r in records], strict=True)))
    for end, record in zip(ends, records, strict=True):
        if (clusters := record["validation"]["clustering"]) is None:
            assert not any("cluster" in tag for tag in events)
            continue
        sizes = events["validation/cluster_sizes"][end]
        assert sizes.num == clusters["cluster_sizes"]["count"]
        assert sizes.sum / sizes.num == pytest.approx(clusters["cluster_sizes"]["mean"])
        codes = events["validation/codes"].get(end)
        assert (0 if codes is None else sum(count > 0 for count in codes.bucket)) == clusters["codes_used"]


def test_events_are_the_numbers_of_the_records(partoken_run, gvp_run):
    for config, _, _ in (partoken_run, gvp_run):
        compared_with_records(Path(config.run_dir))


class AfterLooks(threading.Event):
    """Somebody asks the run to stop; it finds out when it looks for the `number`-th time, as after a step."""

    def __init__(self, number: int):
        super().__init__()
        self.left = number

    def is_set(self) -> bool:
        self.left -= 1
        return self.left <= 0


def test_after_interruptions_events_are_there_once(tmp_path):
    """Stopped within an epoch; stopped again, and then what it had saved last was lost; then to the end."""
    stage0 = StageConfig(2, 1e-3, warmup_epochs=0)
    config = tiny(tmp_path / "run", kind="gvp", stage0=stage0, stage1=StageConfig(0), resume=True)
    checkpoints = tmp_path / "run" / "checkpoints" / "last"
    for steps, lost in (3, False), (3, True):
        with pytest.raises(Interrupted):
            train(config, quiet=True, stop=AfterLooks(steps))
        assert read_summary(config.run_dir)["state"] == "stopped"
        if lost:
            newest = max(checkpoints.iterdir(), key=lambda path: int(path.name))
            shutil.rmtree(newest)
    assert len(read_events(tmp_path / "run")["step/loss"]) > 3  # more than the checkpoint that is left knows
    train(config, quiet=True)
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 3
    compared_with_records(tmp_path / "run")
    assert len(read_events(tmp_path / "run")["step/loss"]) == 8
    assert read_summary(config.run_dir)["state"] == "finished"


def test_the_summary_is_that_of_the_report(partoken_run):
    config, report, records = partoken_run
    summary = read_summary(config.run_dir)
    assert (summary["state"], summary["epochs"], summary["epochs_planned"]) == ("finished", 5, 5)
    assert summary["validation"] == scores(report["validation"])
    assert summary["test"] == scores(report["test"])
    assert summary["best_epoch"] == report["best_epoch"]
    assert summary["parameters"] == report["parameters"]["total"]
    assert summary["seconds"] == pytest.approx(sum(r["seconds"] + r["validation_seconds"] for r in records))
    assert summary["environment"] == report["environment"] and summary["date"] == report["date"]
    assert len(summary["fingerprint"]) == 64


def test_a_run_directory_holds_what_it_is_said_to_hold(partoken_run):
    names = {path.name for path in Path(partoken_run[0].run_dir).iterdir()}
    names -= {"evaluation_test.json"}  # of another test that evaluates the same run
    assert names == {*RUN_FILES, "lock"}
    guide = (Path(ROOT) / "docs" / "guide" / "train.md").read_text()
    assert [name for name in names if f"`{name}" not in guide] == []


def test_the_predictions_of_a_run_are_those_that_it_is_scored_by(partoken_run, tmp_path):
    """Name by name what `partoken evaluate` says, and the report's scores to the bit."""
    config, report, _ = partoken_run
    stored, again = read_predictions(config.run_dir), evaluate(config.run_dir)["predictions"]
    names = tuple(stored.class_names.tolist())
    assert classification(stored.labels, stored.predicted, names) == report["test"]["classification"]
    assert stored.names.tolist() == [protein["name"] for protein in again]
    assert stored.predicted.tolist() == [protein["predicted"] for protein in again]
    exponent = np.exp(np.array([protein["logits"] for protein in again], np.float64))
    np.testing.assert_allclose(stored.probabilities, exponent / exponent.sum(1, keepdims=True), rtol=1e-4)
    with pytest.raises(DataError, match=r"predictions\.npz: there is no such file"):
        read_predictions(tmp_path)
    (tmp_path / "predictions.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"predictions\.npz: holds no predictions"):
        read_predictions(tmp_path)


def test_the_report_begins_with_command_and_date(partoken_run):
    _, report, records = partoken_run
    given = report | {"command": "partoken train --seed 1", "date": "2026-01-02T03:04:05+00:00"}
    head = report_markdown(given, records).splitlines()[:3]
    assert head[2] == "`partoken train --seed 1`, started on 2026-01-02 at 03:04 UTC."
    assert report_markdown(report, records).splitlines()[2].startswith("A call from Python, started on 20")


@pytest.fixture
def command(tmp_path):
    """`partoken train` of a run of one epoch, and its directory."""
    config = tiny(
        tmp_path / "run", kind="gvp", stage0=StageConfig(1, 1e-3, warmup_epochs=0), stage1=StageConfig(0)
    )
    save_yaml(config, tmp_path / "config.yaml")
    return ["train", "--config", str(tmp_path / "config.yaml")], tmp_path / "run"


def test_a_pipe_shows_what_a_run_does_while_it_does_it(command):
    args, run_dir = command
    environment = os.environ | {"PYTHONPATH": ROOT}
    with subprocess.Popen(
        [sys.executable, "-m", "partoken_jax.cli", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    ) as process:
        assert process.stdout
        lines = []
        for line in process.stdout:
            if b"compiling the training step of stage 0" in line and not lines[-1].startswith(b"compiling"):
                # In a buffer the line would have waited for the end of the run.
                assert read_records(run_dir / "metrics.jsonl") == []
            lines.append(line)
    text = b"".join(lines).decode()
    assert process.returncode == 0, text
    assert "\r" not in text and "%|" not in text  # no bar
    assert "compiling the training step of stage 0 for " in text
    assert text.index("epoch   1/1 stage 0") < text.index("test, best checkpoint (epoch 1):")
    said = f"`{shlex.join(['partoken', *args])}`, started on "
    assert said in (run_dir / "report.md").read_text()
    assert read_summary(run_dir)["command"] == json.loads((run_dir / "report.json").read_text())["command"]


def test_a_quiet_run_says_nothing_and_leaves_everything(command, capfd):
    args, run_dir = command
    assert main([*args, "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert (run_dir / "report.md").is_file() and read_summary(run_dir)["state"] == "finished"
