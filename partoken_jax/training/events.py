"""RUN_DIR/tensorboard/: what TensorBoard draws, as event files written by tensorboardX.

Tags, all over the number of steps done: `step/…` after every step (losses, learning rate, gradient norm),
`train/…` and `validation/…` after every epoch, and the histograms `validation/cluster_sizes` (residues per
cluster) and `validation/codes` (clusters per code). Pretraining adds `validation/recovery` and
`validation/residue_perplexity`, with all types hidden and, as `…_15_hidden`, with 15% of them.
"""

import importlib
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.training.epochs import Predictions
from partoken_jax.training.records import EpochRecord

FOLDER = "tensorboard"
"""In the directory of a run."""


class EventLog:
    """The event file of one process that works on a run.

    What an interrupted process wrote about steps that are now done again, TensorBoard leaves out. Nothing is
    certain to be on the disk before `flush` or `close`; whoever saves a checkpoint flushes first, so that a
    resumed run misses no step. A file that cannot be written is one warning: the run goes on without it.
    """

    def __init__(self, run_dir: Path, steps_done: int = 0):
        """Starts a new file, for the steps after the first `steps_done` of the run."""
        self._writer: Any = None
        events, self._summary, self._protobuf = _tensorboardx()
        self._folder = Path(run_dir) / FOLDER
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # The name holds the time in seconds; the number tells files of one second apart, in order.
            suffix = f".{len(list(self._folder.iterdir()))}"
            self._writer = events.EventsWriter(str(self._folder / "events"), suffix)
        except OSError as error:
            self._give_up(error)
        log = self._protobuf.SessionLog
        self._write(steps_done + 1, session_log=log(status=log.START))

    def step(self, step: int, metrics: Any, settings: Any) -> None:
        """What a step reported.

        Args:
          step: the number of steps done, this one included.
          metrics: its `StepMetrics`, on the host: every loss term, and the norm of the gradients.
          settings: its `StepSettings`: the learning rate.
        """
        losses = metrics.losses._asdict()
        scalars = {"loss": losses.pop("total"), **losses, "learning_rate": settings.learning_rate}
        scalars["gradient_norm"] = metrics.gradient_norm
        self._write(step, summary=self._scalars({f"step/{name}": x for name, x in scalars.items()}))

    def epoch(self, step: int, record: EpochRecord, predictions: Predictions, codebook_size: int) -> None:
        """What an epoch reported that ended with this step; `predictions` are those of validation."""
        validation = record["validation"]
        scores = validation["classification"]
        scalars: dict[str, Any] = {f"train/{name}": value for name, value in record["train"].items()}
        scalars |= {f"train/{name}": record[name] for name in ("temperature", "proteins_per_second")}  # type: ignore[literal-required]
        scalars |= {f"validation/{name}": scores[name] for name in ("accuracy", "macro_f1")}  # type: ignore[literal-required]
        scalars["validation/cross_entropy"] = validation["cross_entropy"]
        for name, value in (validation["clustering"] or {}).items():
            if name != "cluster_sizes":  # drawn as a histogram
                scalars[f"validation/{name}"] = value
        for told in validation.get("recovery", ()):
            of = "" if told["hidden"] == 1 else f"_{told['hidden']:.0%}_hidden".replace("%", "")
            scalars[f"validation/recovery{of}"] = told["recovery"]
            scalars[f"validation/residue_perplexity{of}"] = told["perplexity"]
        summary = self._scalars(scalars)
        sizes, codes = predictions.cluster_sizes, predictions.codes
        if np.any(sizes > 0):
            values, edges = sizes[sizes > 0], np.arange(0.5, sizes.max() + 1)
            summary.MergeFrom(self._summary.histogram("validation/cluster_sizes", values, edges))
        if np.any(codes >= 0):
            values, edges = codes[codes >= 0], np.arange(-0.5, codebook_size)
            summary.MergeFrom(self._summary.histogram("validation/codes", values, edges))
        self._write(step, summary=summary)

    def flush(self) -> None:
        """Returns when everything is on the disk."""
        self._try(lambda writer: writer.flush())

    def close(self) -> None:
        """Ends the file."""
        self._try(lambda writer: writer.close())

    def _scalars(self, scalars: Mapping[str, Any]) -> Any:
        summary = self._protobuf.Event().summary
        for tag, number in scalars.items():
            summary.value.add(tag=tag, simple_value=float(number))
        return summary

    def _write(self, step: int, **content: Any) -> None:
        event = self._protobuf.Event(wall_time=time.time(), step=step, **content)
        self._try(lambda writer: writer.write_event(event))

    def _try(self, call: Any) -> None:
        if self._writer is None:
            return
        try:
            call(self._writer)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        warnings.warn(
            f"{self._folder}: the events for TensorBoard cannot be written ({error.strerror or error}); the "
            "run goes on without them",
            stacklevel=2,
        )


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
