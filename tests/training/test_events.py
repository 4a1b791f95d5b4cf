"""What TensorBoard is given: every step and epoch once, also after an interruption."""

import os
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from partoken_jax.training.epochs import Predictions
from partoken_jax.training.events import EventLog
from partoken_jax.training.objective import LossTerms


def read_events(run_dir: Path) -> dict[str, dict[int, object]]:
    """By tag and step, what TensorBoard shows: scalars as numbers, histograms as protocol buffers.

    As TensorBoard does, a start at a step drops what was written before about this step and later ones. A
    value written twice, or a record cut short anywhere but at the end of a file, fails.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown: dict[str, dict[int, object]] = {}
    for path in sorted((run_dir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while len(data) >= 12:
            (length,) = struct.unpack("<Q", data[:8])  # length, its checksum, the event, its checksum
            event, data = data[12 : 12 + length], data[16 + length :]
            if len(event) < length:
                break
            event = Event.FromString(event)
            if event.session_log.status == SessionLog.START:
                for steps in shown.values():
                    for step in [step for step in steps if step >= event.step]:
                        del steps[step]
            for value in event.summary.value:
                steps = shown.setdefault(value.tag, {})
                assert event.step not in steps, f"{value.tag} of step {event.step} twice"
                steps[event.step] = value.histo if value.HasField("histo") else value.simple_value
    return shown


def metrics(loss: float, gradient_norm: float = 0.0):
    """Of a step, like `StepMetrics`."""
    return SimpleNamespace(losses=LossTerms(loss, loss / 2, 0.25, -0.5, 3.0), gradient_norm=gradient_norm)


SETTINGS = SimpleNamespace(learning_rate=np.float32(0.125))

RECORD = {
    "train": {"loss": 1.5, "accuracy": 0.5},
    "temperature": 0.5,
    "proteins_per_second": 8.0,
    "validation": {
        "cross_entropy": 0.75,
        "classification": {"accuracy": 0.25, "macro_f1": 0.125},
        "clustering": {"coverage": 0.5, "clusters_per_protein": 2.0, "codes_used": 2, "perplexity": 1.5},
    },
}


def predictions(sizes, codes) -> Predictions:
    sizes, codes = np.array(sizes), np.array(codes)
    return Predictions(np.zeros(len(sizes), int), np.zeros((len(sizes), 2)), 0.75, sizes, codes, 100)


def test_steps_hold_every_term_and_the_learning_rate(tmp_path):
    log = EventLog(tmp_path)
    log.step(1, metrics(4.0), SETTINGS)
    log.step(2, metrics(2.0, gradient_norm=np.float32(1.5)), SETTINGS)
    log.close()
    shown = read_events(tmp_path)
    assert shown == {
        "step/loss": {1: 4.0, 2: 2.0},
        "step/cross_entropy": {1: 2.0, 2: 1.0},
        "step/vq": {1: 0.25, 2: 0.25},
        "step/coverage": {1: -0.5, 2: -0.5},
        "step/cardinality": {1: 3.0, 2: 3.0},
        "step/learning_rate": {1: 0.125, 2: 0.125},
        "step/gradient_norm": {1: 0.0, 2: 1.5},
    }


def test_epochs_hold_scores_and_histograms(tmp_path):
    log = EventLog(tmp_path)
    found = predictions([[3, 7, 0], [3, 0, 0]], [[5, 0, -1], [5, -1, -1]])
    log.epoch(9, RECORD, found, codebook_size=8)
    log.close()
    shown = read_events(tmp_path)
    assert shown["train/loss"] == {9: 1.5} and shown["train/temperature"] == {9: 0.5}
    assert shown["validation/accuracy"] == {9: 0.25} and shown["validation/codes_used"] == {9: 2}

    def counts(tag):
        """By whole number: tensorboardX stores the upper edge of every bin."""
        histogram = shown[tag][9]
        edges, bins = histogram.bucket_limit, histogram.bucket
        return {int(edge - 0.5): int(count) for edge, count in zip(edges, bins, strict=True) if count}

    assert counts("validation/cluster_sizes") == {3: 2, 7: 1}
    assert counts("validation/codes") == {0: 1, 5: 2}


def test_without_clusters_there_are_no_histograms(tmp_path):
    log = EventLog(tmp_path)
    record = RECORD | {"validation": RECORD["validation"] | {"clustering": None}}
    log.epoch(9, record, predictions(np.zeros((2, 0), int), np.zeros((2, 0), int)), 512)
    log.close()
    assert not {tag for tag in read_events(tmp_path) if "cluster" in tag or "code" in tag}


@pytest.mark.parametrize("end", ["closed", "killed"])
def test_after_an_interruption_nothing_is_there_twice_and_nothing_is_missing(tmp_path, end):
    """The process had saved after step 3 and gone on to step 5; the next one goes on after step 3."""
    log = EventLog(tmp_path)
    for step in range(1, 6):
        log.step(step, metrics(step), SETTINGS)
        if step == 3:
            log.flush()
    log.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    if end == "killed":
        file.write_bytes(file.read_bytes()[:-40])  # the last record was cut short
    log = EventLog(tmp_path, steps_done=3)
    for step in range(4, 8):
        log.step(step, metrics(10 * step), SETTINGS)
    log.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert read_events(tmp_path)["step/loss"] == {1: 1, 2: 2, 3: 3, 4: 40, 5: 50, 6: 60, 7: 70}


def test_what_is_flushed_survives_a_process_that_is_killed(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tests.training.test_events import SETTINGS, EventLog, metrics\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "log.step(1, metrics(4.0), SETTINGS); log.flush()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, cwd=root)
    assert read_events(tmp_path)["step/loss"] == {1: 4.0}


def test_a_full_disk_is_one_warning_and_the_run_goes_on(tmp_path, monkeypatch):
    log = EventLog(tmp_path)

    def full(data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._writer._py_recordio_writer, "write", full)
    with pytest.warns(UserWarning, match=r"tensorboard: the events .* \(No space left on device\)") as caught:
        for step in range(3):
            log.step(1 + step, metrics(1.0), SETTINGS)
        log.flush()
        log.close()
    assert len(caught) == 1


def test_a_directory_that_cannot_be_made_is_one_too(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.warns(UserWarning, match="tensorboard: the events"):
        log = EventLog(tmp_path)
    log.step(1, metrics(1.0), SETTINGS)
    log.close()


def test_tensorboardx_does_not_bring_pytorch_along(tmp_path):
    code = (
        "import sys; from pathlib import Path; from partoken_jax.training.events import EventLog\n"
        "assert 'tensorboardX' not in sys.modules; EventLog(Path(sys.argv[1])).close()\n"
        "print('tensorboardX' in sys.modules, 'torch' in sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "True False\n", done.stderr
