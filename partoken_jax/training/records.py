"""RUN_DIR/metrics.jsonl: one JSON object per epoch."""

import json
from pathlib import Path
from typing import TypedDict

from partoken_jax.files import write_whole
from partoken_jax.training.epochs import Evaluation, TrainScores


class EpochRecord(TypedDict):
    """One line of metrics.jsonl."""

    epoch: int
    """From 1, over both stages."""
    stage: int
    """0: without the codebook; 1: jointly."""
    learning_rate: float
    """Of the last step, like the loss weights."""
    temperature: float
    """Of the partitioner."""
    weight_vq: float
    weight_coverage: float
    weight_cardinality: float
    codebook_frozen: bool
    codes_reseeded: int
    train: TrainScores
    validation: Evaluation
    skipped_steps: int
    """Steps left out because they were not finite; everything else here is about the others."""
    step_losses: list[float | None]
    """Total loss of every step, null where it was skipped; equal to the bit in runs with the same seed on the
    same machine."""
    seconds: float
    """Training alone, compilation included."""
    input_seconds: float
    """Of these, spent waiting for the next batch."""
    validation_seconds: float
    step_ms: float
    """Median over the steps that were timed; the mean, compilation included, where none was."""
    steps_timed: int
    """Steps of the epoch without those that were under way while the host compiled; records of before lack
    it, and compilation is in their times."""
    proteins_per_second: float
    """Training proteins per step / mean seconds of the steps that step_ms is about, waits for input
    included."""
    compilations: int
    """Programs that the training step of this stage has been compiled to so far: one per batch shape."""


def append_record(path: Path, record: EpochRecord) -> None:
    """Adds a line. Raises OSError that names the file, as on a full disk."""
    try:
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_records(path: Path) -> list[EpochRecord]:
    """All epochs; none if there is no file. A last line cut short by an interruption is left out."""
    records = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def rewind_records(path: Path, epochs: int) -> None:
    """Drops what was written after the first `epochs` epochs, so that a resumed run can write it anew."""
    kept = [json.dumps(record) + "\n" for record in read_records(path) if record["epoch"] <= epochs]
    write_whole(path, "".join(kept))
