"""RUN_DIR/predictions.npz: what the best checkpoint of a run says of every test protein.

Two models are compared on the same proteins, pair by pair, with these; arrays without pickle, about 100 kB
for 1,600 proteins of 17 classes.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from partoken_jax.files import write_whole
from partoken_jax.proteins import DataError, ProteinDataset
from partoken_jax.training.epochs import Predictions

FILE = "predictions.npz"
"""In the directory of a run."""


class StoredPredictions(NamedTuple):
    """The arrays of the file, in the order of the data set. P proteins, C classes."""

    names: np.ndarray
    """str [P]"""
    labels: np.ndarray
    """int32 [P]: -1 where there is none."""
    predicted: np.ndarray
    """int32 [P]: the most probable class."""
    probabilities: np.ndarray
    """float32 [P, C]: each row sums to 1."""
    class_names: np.ndarray
    """str [C]"""


def write_predictions(
    run_dir: Path, predictions: Predictions, dataset: ProteinDataset, class_names: tuple[str, ...]
) -> None:
    """Writes the file, whole or not at all. Raises OSError where it cannot be written."""
    arrays = StoredPredictions(
        names=np.array(list(dataset.names), np.str_),
        labels=predictions.labels.astype(np.int32),
        predicted=predictions.logits.argmax(axis=1).astype(np.int32),
        probabilities=softmax(predictions.logits.astype(np.float64), axis=1).astype(np.float32),
        class_names=np.array(class_names, np.str_),
    )
    file = io.BytesIO()
    np.savez_compressed(file, **arrays._asdict())
    write_whole(run_dir / FILE, file.getvalue())


def read_predictions(run_dir: str | Path) -> StoredPredictions:
    """The predictions of a finished run. Raises DataError where there are none, or none that can be read."""
    path = Path(run_dir) / FILE
    if not path.is_file():
        raise DataError(
            f"{path}: there is no such file; give the directory of a finished run, or finish this one with "
            "--resume"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return StoredPredictions(**{name: arrays[name] for name in StoredPredictions._fields})
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"{path}: holds no predictions ({type(error).__name__}); finish the run again with --resume"
        ) from None
