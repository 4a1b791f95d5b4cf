"""RUN_DIR/tensorboard/: what TensorBoard draws, as event files written by tensorboardX.

Tags, all over the number of steps done: `step/…` after every step (losses, learning rate, gradient norm),
`train/…` and `validation/…` after every epoch, and the histograms `validation/cluster_sizes` (residues per
cluster) and `validation/codes` (clusters per code).
"""

import importlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.training.epochs import Predictions
from partoken_jax.training.records import EpochRecord

FOLDER = "tensorboard"
"""In the directory of a run."""


def open_events(run_dir: Path, steps_done: int = 0) -> Any:
    """A new event file of a run that has done so many steps: a `tensorboardX.event_file_writer.EventsWriter`.

    What an interrupted process wrote about later steps, which are now done again, TensorBoard then leaves out.
    Nothing is certain to be on the disk before `flush()` or `close()`; the loop flushes before it saves a
    checkpoint, so that a resumed run misses no step.

    Raises OSError where the file cannot be written.
    """
    events, _, protobuf = _tensorboardx()
    folder = Path(run_dir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    # The name holds the time in seconds; the number tells files of the same second apart, in order.
    writer = events.EventsWriter(str(folder / "events"), f".{len(list(folder.iterdir()))}")
    # How TensorFlow says since TensorBoard began that a run starts again at a step.
    start = protobuf.SessionLog(status=protobuf.SessionLog.START)
    writer.write_event(protobuf.Event(wall_time=time.time(), step=steps_done + 1, session_log=start))
    return writer


def write_step(writer: Any, step: int, metrics: Any, settings: Any) -> None:
    """What a step reported, after `step` steps in all.

    Args:
      writer: from `open_events`.
      step: the number of steps done, this one included.
      metrics: its `StepMetrics`, on the host: every loss term, and `gradient_norm` if there is one.
      settings: its `StepSettings`: the learning rate.
    """
    scalars = {name: value for name, value in metrics.losses._asdict().items() if name != "total"}
    scalars = {"loss": metrics.losses.total, **scalars, "learning_rate": settings.learning_rate}
    if (norm := getattr(metrics, "gradient_norm", None)) is not None:
        scalars["gradient_norm"] = norm
    _write(writer, step, {f"step/{name}": float(value) for name, value in scalars.items()})


def write_epoch(
    writer: Any, step: int, record: EpochRecord, predictions: Predictions, codebook_size: int
) -> None:
    """What an epoch reported, after `step` steps in all; `predictions` are those of validation."""
    scalars: dict[str, float] = {f"train/{name}": value for name, value in record["train"].items()}  # type: ignore[misc]
    validation = record["validation"]
    scores = validation["classification"]
    scalars |= {
        "train/proteins_per_second": record["proteins_per_second"],
        "train/temperature": record["temperature"],
        "validation/cross_entropy": validation["cross_entropy"],
        "validation/accuracy": scores["accuracy"],
        "validation/macro_f1": scores["macro_f1"],
    }
    if (clusters := validation["clustering"]) is not None:
        for name in ("coverage", "clusters_per_protein", "codes_used", "perplexity"):
            scalars[f"validation/{name}"] = clusters[name]
    sizes, codes = predictions.cluster_sizes, predictions.codes
    histograms = {}
    if np.any(sizes > 0):
        histograms["validation/cluster_sizes"] = sizes[sizes > 0], np.arange(0.5, sizes.max() + 1)
    if np.any(codes >= 0):
        histograms["validation/codes"] = codes[codes >= 0], np.arange(-0.5, codebook_size)
    _write(writer, step, scalars, histograms)


def _write(
    writer: Any,
    step: int,
    scalars: Mapping[str, float],
    histograms: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> None:
    """One event with all values; a histogram is its values and the edges of its bins."""
    _, summary, protobuf = _tensorboardx()
    event = protobuf.Event(wall_time=time.time(), step=step)
    for tag, number in scalars.items():
        event.summary.value.add(tag=tag, simple_value=number)
    for tag, (values, edges) in (histograms or {}).items():
        event.summary.MergeFrom(summary.histogram(tag, values, edges))
    writer.write_event(event)


def _tensorboardx() -> Any:
    """The parts of tensorboardX that are used here: (event_file_writer, summary, proto.event_pb2)."""
    # Where PyTorch is installed, tensorboardX imports it to know its tensors by name: 200 MB for nothing.
    hidden = "tensorboardX" not in sys.modules and "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        names = ("event_file_writer", "summary", "proto.event_pb2")
        return tuple(importlib.import_module(f"tensorboardX.{name}") for name in names)
    finally:
        if hidden:
            del sys.modules["torch"]
