"""The directory of a run: who may use it, and what in it belongs to a run."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from partoken_jax.config import ConfigError, TrainConfig, load_yaml
from partoken_jax.files import locked_by_other
from partoken_jax.settings import read_yaml

RUN_FILES = (
    *("config.yaml", "metrics.jsonl", "report.json", "report.md", "curves.png", "checkpoints"),
    *("summary.json", "tensorboard", "predictions.npz"),
)
GLOBS = (
    *("evaluation_*.json", "non_finite_step_*.npz"),
    *(name for split in ("train", "val", "test") for name in (f"details_{split}", f"sites_{split}.json")),
)
OTHERS = {"dataset.json": "a prepared set", "manifest.json": "a folder of annotations"}
"""Files that say what else a folder of ours is."""
LOCK = "lock"
Which = Literal["best", "last"]
FREE_TO_CHANGE = (
    *("run_dir", "overwrite", "resume", "checkpoint", "init_from", "devices"),
    "data.path",  # the fingerprint tells whether the data are the same
    *("clip_norm", "non_finite"),  # remedies of a run that stopped
    # Ways to compute the same: another machine may need another one, and a default may change.
    *("model.message_passing", "model.rematerialise", "model.sender_gradient"),
)
"""Settings that a resumed run may have others of."""


class CheckpointError(ValueError):
    """A run directory or checkpoint that cannot be used; the message says what to do."""


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """The settings with paths that mean the same from any working directory."""
    path, weights = (
        None if p is None else str(Path(p).resolve()) for p in (config.data.path, config.init_from)
    )
    return dataclasses.replace(config, data=dataclasses.replace(config.data, path=path), init_from=weights)


def check_run_dir(config: TrainConfig) -> Path:
    """The run directory, if it may be used. Changes nothing.

    Raises CheckpointError for a directory with content without `overwrite` or `resume`, one that holds
    something else than a run, one that was started with other settings, or a contradiction.
    """
    run_dir = Path(config.run_dir)
    if config.overwrite and config.resume:
        raise CheckpointError("--overwrite and --resume exclude each other; choose one")
    if run_dir.exists() and not run_dir.is_dir():
        raise CheckpointError(f"{run_dir} is a file; choose another --run-dir")
    if not run_dir.is_dir():
        return run_dir
    content = [path.name for path in run_dir.iterdir() if path.name != LOCK]
    if not content:
        return run_dir
    stored = _stored(run_dir)
    if stored is None and (others := [what for name, what in OTHERS.items() if name in content]):
        raise CheckpointError(f"{run_dir} is {others[0]}; choose another --run-dir")
    if stored is None and not config.resume:
        reason = "its config.yaml does not hold" if "config.yaml" in content else "no config.yaml holds"
        raise CheckpointError(
            f"{run_dir} has content, but is not the directory of a run ({reason} the settings of one), so it "
            "is left alone; choose another --run-dir"
        )
    if not config.overwrite and not config.resume:
        raise CheckpointError(
            f"{run_dir} already exists; pass --resume to go on, --overwrite to replace it, "
            "or choose another --run-dir"
        )
    if config.resume and stored is not None:
        check_resumable(config, stored)
    ours = [name for name in RUN_FILES if (run_dir / name).exists()]
    ours += sorted(path.name for pattern in GLOBS for path in run_dir.glob(pattern))
    if config.resume and stored is None and ours:
        raise CheckpointError(
            f"{run_dir} holds {', '.join(ours)}, but no config.yaml with the settings of a run; "
            "choose another --run-dir"
        )
    return run_dir


def has_checkpoint(run_dir: str | Path, which: Which = "last") -> bool:
    """Whether there is one of that name, whole or not."""
    return bool(numbered(Path(run_dir) / "checkpoints" / which))


def check_checkpoint(run_dir: str | Path, which: Which) -> None:
    """Raises CheckpointError where a run has no checkpoint of that name, whole or not."""
    if not Path(run_dir).is_dir():
        what = "is a file" if Path(run_dir).exists() else "does not exist"
        raise CheckpointError(f"{run_dir} {what}; give the directory of a run")
    if not has_checkpoint(run_dir, which):
        raise CheckpointError(
            f"{run_dir} holds no '{which}' checkpoint; give the directory of a run that has saved one"
        )


def numbered(directory: Path) -> list[int]:
    """The numbers that name directories in a directory; none if there is no such directory."""
    if not directory.is_dir():
        return []
    return [int(p.name) for p in directory.iterdir() if p.name.isdecimal() and p.is_dir()]


def clear_run_dir(run_dir: Path) -> None:
    """Makes the run directory, without the files of an earlier run; other files stay."""
    run_dir.mkdir(parents=True, exist_ok=True)
    # The settings last: without them nothing says that the rest belongs to a run.
    for path in (*(run_dir / name for name in RUN_FILES[1:]), *(p for g in GLOBS for p in run_dir.glob(g))):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (run_dir / "config.yaml").unlink(missing_ok=True)


def check_resumable(config: TrainConfig, stored: TrainConfig) -> None:
    """Raises CheckpointError that names the settings in which a resumed run differs from its start."""
    # The data decide how many classes there are.
    model = dataclasses.replace(config.model, num_classes=stored.model.num_classes)
    differences = _differences(stored, dataclasses.replace(config, model=model), "")
    if differences:
        raise CheckpointError(
            f"{config.run_dir} was started with other settings: {'; '.join(differences)}; "
            "resume with the same ones or choose another --run-dir"
        )


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Makes the directory if need be, and holds it for this process until the end of the block or of the
    process, however it ends.

    Raises CheckpointError while another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOCK).open("a+") as file:
        if locked_by_other(file):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise CheckpointError(
                f"{run_dir} is in use by {holder}; wait for it, stop it, or choose another --run-dir"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        yield


def _stored(run_dir: Path) -> TrainConfig | None:
    """The settings of the run in a directory; None where there is no run."""
    path = run_dir / "config.yaml"
    try:
        # A run writes all its settings; a file with a few of the same names may be anything.
        whole = path.is_file() and read_yaml(path).keys() >= {"run_dir", "seed", "model", "data", "stage0"}
        return load_yaml(TrainConfig, path) if whole else None
    except (ConfigError, OSError):
        return None


def _differences(stored, given, where: str) -> list[str]:
    found = []
    for field in dataclasses.fields(stored):
        old, new = getattr(stored, field.name), getattr(given, field.name)
        if f"{where}{field.name}" in FREE_TO_CHANGE:
            continue
        if dataclasses.is_dataclass(old):
            found += _differences(old, new, f"{where}{field.name}.")
        elif old != new:
            found.append(f"{where}{field.name} was {old!r}, now {new!r}")
    return found
