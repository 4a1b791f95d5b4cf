"""Run directories and their checkpoints. The only file that knows Orbax.

RUN_DIR/checkpoints/{best,last}/EPOCH/ each hold one checkpoint: the whole `TrainState`, and as JSON the
configuration and everything else needed to rebuild the model without being told.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import orbax.checkpoint as ocp
from flax import nnx

from partoken_jax.config import TrainConfig, from_dict
from partoken_jax.training.step import TrainState, abstract_state

Which = Literal["best", "last"]
RUN_FILES = ("config.yaml", "metrics.jsonl", "report.json", "report.md", "curves.png", "checkpoints")


class CheckpointError(ValueError):
    """A run directory or checkpoint that cannot be used; the message says what to do."""


class Score(TypedDict):
    """By what the best epoch is chosen, and which one it is."""

    epoch: int
    accuracy: float
    macro_f1: float


class CheckpointMeta(TypedDict):
    """The JSON half of a checkpoint."""

    config: dict
    """`TrainConfig` as `partoken_jax.config.to_dict` gives it."""
    class_names: list[str]
    epoch: int
    """Epochs done, over both stages."""
    stage: int
    bypass_codebook: bool
    """The codebook was not in use yet (stage 0, or a model without one)."""
    temperature: float
    """Of the partitioner in that epoch; evaluation uses the same."""
    num_parameters: int
    validation: dict
    """Validation metrics of that epoch."""
    best: Score
    """The best epoch up to then."""


class Restored(NamedTuple):
    """A checkpoint, read back."""

    config: TrainConfig
    graphdef: nnx.GraphDef
    state: TrainState
    meta: CheckpointMeta


def check_run_dir(config: TrainConfig) -> Path:
    """The run directory, if it may be used.

    Raises CheckpointError if it has content and neither `overwrite` nor `resume` is set, or if both are.
    """
    run_dir = Path(config.run_dir)
    if config.overwrite and config.resume:
        raise CheckpointError("--overwrite and --resume exclude each other; choose one")
    if run_dir.exists() and not run_dir.is_dir():
        raise CheckpointError(f"{run_dir} is a file; choose another --run-dir")
    if run_dir.is_dir() and any(run_dir.iterdir()) and not config.overwrite and not config.resume:
        raise CheckpointError(
            f"{run_dir} already exists; pass --resume to go on, --overwrite to replace it, "
            "or choose another --run-dir"
        )
    return run_dir


def clear_run_dir(run_dir: Path) -> None:
    """Makes the run directory, without the files of an earlier run; other files stay."""
    for path in (*(run_dir / name for name in RUN_FILES), *run_dir.glob("evaluation_*.json")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    run_dir.mkdir(parents=True, exist_ok=True)


def save(run_dir: Path, which: Which, state: TrainState, meta: CheckpointMeta) -> None:
    """Writes a checkpoint and then removes the earlier one of that name."""
    epoch = meta["epoch"]
    with _manager(run_dir, which, create=True) as manager:
        # An interrupted run may have left the checkpoint of an epoch that a resumed run does again.
        for stale in manager.all_steps():
            if stale >= epoch:
                manager.delete(stale)
        manager.save(
            epoch,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(dict(meta))),
        )


def read_meta(run_dir: str | Path, which: Which = "best") -> CheckpointMeta:
    """The JSON half of a checkpoint. Raises CheckpointError if there is none or it cannot be read."""
    with _manager(run_dir, which) as manager:
        return _read(manager, run_dir, which, "meta", ocp.args.JsonRestore())


def restore(run_dir: str | Path, which: Which = "best") -> Restored:
    """Rebuilds model structure and state from a run directory alone.

    Raises CheckpointError if there is no such checkpoint or it does not fit this version of the code.
    """
    meta = read_meta(run_dir, which)
    config = from_dict(TrainConfig, meta["config"])
    graphdef, target = abstract_state(config)
    with _manager(run_dir, which) as manager:
        state = _read(manager, run_dir, which, "state", ocp.args.StandardRestore(target))  # type: ignore[call-arg]
    return Restored(config, graphdef, state, meta)


def check_resumable(config: TrainConfig, stored: TrainConfig) -> None:
    """Raises CheckpointError that names the settings in which a resumed run differs from its start."""
    # A run directory may have been moved, and the data decide how many classes there are.
    model = dataclasses.replace(config.model, num_classes=stored.model.num_classes)
    given = dataclasses.replace(config, run_dir=stored.run_dir, model=model)
    differences = _differences(stored, given, "")
    if differences:
        raise CheckpointError(
            f"{config.run_dir} was started with other settings: {'; '.join(differences)}; "
            "resume with the same ones or choose another --run-dir"
        )


def _differences(stored, given, where: str) -> list[str]:
    found = []
    for field in dataclasses.fields(stored):
        old, new = getattr(stored, field.name), getattr(given, field.name)
        if dataclasses.is_dataclass(old):
            found += _differences(old, new, f"{where}{field.name}.")
        elif old != new and field.name not in ("overwrite", "resume"):
            found.append(f"{where}{field.name} was {old!r}, now {new!r}")
    return found


def _manager(run_dir: str | Path, which: Which, create: bool = False) -> ocp.CheckpointManager:
    directory = Path(run_dir).resolve() / "checkpoints" / which
    if not create and not directory.is_dir():
        raise CheckpointError(
            f"{run_dir} holds no '{which}' checkpoint; give the directory of a run that finished an epoch"
        )
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        create=create,
        enable_async_checkpointing=False,  # the next step donates the state
    )
    return ocp.CheckpointManager(directory, options=options)


def _read(manager: ocp.CheckpointManager, run_dir: str | Path, which: Which, item: str, args: Any) -> Any:
    step = manager.latest_step()
    if step is None:
        raise CheckpointError(
            f"{run_dir} holds no '{which}' checkpoint; give the directory of a run that finished an epoch"
        )
    try:
        return manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{run_dir}: checkpoint '{which}' cannot be read ({reason})") from error
