"""RUN_DIR/non_finite_step_<n>.npz: one training step, with all that it takes to run it again.

Arrays without pickle. Their names are paths: state/... (parameters, codebook, moments, key and number of
the step), batch/... (a packed batch) and settings/... (learning rate, temperature, weights of the losses);
`about` is JSON, a `StepAbout`. Reading needs no JAX.
"""

import json
import zipfile
import zlib
from pathlib import Path
from typing import TypedDict

import numpy as np

from partoken_jax.config import ConfigError

FORMAT = "partoken training step, version 1"
ABOUT = "about"
_UNREADABLE = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError, EOFError),
    *(NotImplementedError, zipfile.BadZipFile, zlib.error),
)


class StepAbout(TypedDict):
    """What a file says beside the arrays."""

    format: str
    config: dict
    """`TrainConfig` as `partoken_jax.config.to_dict` gives it."""
    bypass_codebook: bool
    where: str
    """Stage, epoch and step, in words."""
    proteins: list[str]
    """Names of the proteins of the batch, in its order; empty where a place is."""
    loss: float
    gradient_norm: float
    component: str
    """The first part of the step that was not finite; empty if it could not be told."""
    environment: dict[str, str]
    """Versions and device."""


def write_step_file(path: Path, arrays: dict[str, np.ndarray], about: StepAbout) -> None:
    """Writes a file, whole or not at all. Raises OSError where it cannot be written."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            np.savez(file, **{**arrays, ABOUT: np.array(json.dumps(about))})  # type: ignore[arg-type]
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def read_step_file(path: str | Path) -> tuple[dict[str, np.ndarray], StepAbout]:
    """Arrays by name, and what the file says of them. Raises ConfigError for a file that is no such file."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file; {_GIVE}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(arrays.pop(ABOUT).item())
        missing = StepAbout.__annotations__.keys() - about.keys()
    except _UNREADABLE as error:
        raise ConfigError(f"{path}: holds no training step ({type(error).__name__}); {_GIVE}") from None
    if missing or about["format"] != FORMAT:
        raise ConfigError(f"{path}: holds no training step that this version can read; {_GIVE}")
    return arrays, about


_GIVE = "give a file non_finite_step_<n>.npz from the directory of a run"
