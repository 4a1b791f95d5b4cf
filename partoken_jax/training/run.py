"""A run under way: where it is, how it is saved, and how it is taken up again."""

import dataclasses
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from partoken_jax.config import TrainConfig, to_dict
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.nn.forms import Target
from partoken_jax.progress import announced, say
from partoken_jax.training.checkpoints import CheckpointMeta, CheckpointWriter, Restored, Score, restore
from partoken_jax.training.data import RunData, Split
from partoken_jax.training.devices import is_first_process, own_shards, put_batch
from partoken_jax.training.epochs import Evaluation, SoFar, nothing_yet
from partoken_jax.training.events import EventLog
from partoken_jax.training.interruption import Interrupted, until
from partoken_jax.training.losses import balanced_weights
from partoken_jax.training.prefetch import prefetch
from partoken_jax.training.records import read_records
from partoken_jax.training.run_directory import CheckpointError
from partoken_jax.training.schedules import StepSettings, epoch_settings
from partoken_jax.training.stages import has_codebook, stage_of
from partoken_jax.training.state import TrainState
from partoken_jax.training.step import EvalStep, TrainStep, make_eval_step, make_train_step
from partoken_jax.training.summary import State, summarise, write_summary


class Program(NamedTuple):
    """The compiled steps of a run. Without a codebook both stages run the same program."""

    graphdef: nnx.GraphDef
    train: dict[bool, TrainStep]
    """By whether the codebook is bypassed."""
    evaluate: dict[bool, EvalStep]


def make_program(
    config: TrainConfig, graphdef: nnx.GraphDef, mesh: Mesh | None, target: Target, *, quiet: bool = False
) -> Program:
    """The steps of a run, which say when they are compiled. The training step is made for `target`; what was
    measured there says nothing of evaluation."""
    train: dict[bool, TrainStep] = {}
    evaluate: dict[bool, EvalStep] = {}
    for bypass, stage in (True, "stage 0"), (False, "stage 1"):
        step = make_train_step(
            graphdef,
            bypass_codebook=bypass,
            label_smoothing=config.label_smoothing,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
            non_finite=config.non_finite,
            freeze_encoder=config.freeze_encoder,
            mesh=mesh,
            target=target,
        )
        train[bypass] = announced(step, f"the training step of {stage}", quiet=quiet)
        scoring = make_eval_step(graphdef, bypass_codebook=bypass, mesh=mesh)
        evaluate[bypass] = announced(scoring, f"the evaluation step of {stage}", quiet=quiet)
    return Program(graphdef, train, evaluate)


@dataclasses.dataclass
class Run:
    """A run under way: what does not change, and where it is."""

    config: TrainConfig
    data: RunData
    program: Program
    parameters: dict[str, int]
    stop: threading.Event | None
    quiet: bool
    command: str | None
    """The command line that started this process; None for a call from Python."""
    date: str
    """When that was: UTC, as ISO 8601 writes it."""
    mesh: Mesh | None
    state: TrainState
    """After the last step of `so_far`."""
    epoch: int = 0
    """Epochs done, validation included."""
    so_far: SoFar = dataclasses.field(default_factory=nothing_yet)
    """Of the epoch after these."""
    validation: dict = dataclasses.field(default_factory=dict)
    """Of the last whole epoch."""
    best: Score | None = None
    clusters_start: bool = False
    """Whether clusters get their start from data before the first step."""
    events: EventLog | None = None
    saved: float = dataclasses.field(default_factory=time.monotonic)
    """When the state was last saved, or the run started."""
    unsaved: bool = False
    """Whether there were steps since."""

    @property
    def run_dir(self) -> Path:
        return Path(self.config.run_dir)

    @property
    def num_epochs(self) -> int:
        return self.config.stage0.epochs + self.config.stage1.epochs

    def where(self) -> str:
        """The last step that `state` has seen, in words."""
        steps = len(self.so_far["steps"])
        return f"after step {steps} of epoch {self.epoch + 1}" if steps else f"after epoch {self.epoch}"

    def training_batches(self, first: int = 0) -> Iterator[PackedGraph]:
        """The batches of the epoch that the run is at, from batch `first` on: this process's shards
        of them, on its devices."""
        batches = self.data.loaders["train"].epoch(self.epoch, first=first, shards=own_shards(self.mesh))
        return prefetch(batches, put=put_batch(self.mesh))

    def evaluation_batches(self, split: Split) -> Iterator[PackedGraph]:
        """The proteins of a split, until somebody stops the run."""
        batches = self.data.loaders[split].evaluation(shards=own_shards(self.mesh))
        return until(self.stop, prefetch(batches, put=put_batch(self.mesh)))

    def say(self, line: str) -> None:
        say(line, quiet=self.quiet)


def restored_run(config: TrainConfig, data: RunData) -> Restored:
    """The newest checkpoint of a run that can be read. Raises CheckpointError if it belongs to other data."""
    restored = restore(config.run_dir, "last")
    meta = restored.meta
    if tuple(meta["class_names"]) != data.class_names:
        raise CheckpointError(
            f"{config.run_dir} was started with classes {meta['class_names']}, but the data have "
            f"{list(data.class_names)}; resume with the same data"
        )
    if meta["fingerprint"] and meta["fingerprint"] != data.fingerprint:
        raise CheckpointError(
            f"{data.datasets['train'].source} is not the data that {config.run_dir} was started with (its "
            "content has changed); put the old data back, or start anew in another --run-dir"
        )
    return restored


def place(run: Run, restored: Restored) -> None:
    """Puts a run where its checkpoint was."""
    meta = restored.meta
    run.epoch, run.so_far = meta["epoch"], meta["so_far"]
    run.validation, run.best = meta["validation"], meta["best"]
    if run.epoch >= run.num_epochs and not read_records(run.run_dir / "metrics.jsonl"):
        raise CheckpointError(
            f"{run.run_dir}: all of its {run.num_epochs} epochs are done, elsewhere; give --init-from "
            f"{run.run_dir} and another --run-dir to train on from its weights"
        )
    run.say(f"{run.run_dir}: going on {run.where()} of {run.num_epochs}")


def bypass_codebook(config: TrainConfig, epoch: int) -> bool:
    """Whether the codebook is left out in an epoch: in stage 0, and of a model without one."""
    return stage_of(config, epoch)[0] == 0 or not has_codebook(config)


def settings_of(config: TrainConfig, data: RunData, epoch: int) -> list[StepSettings]:
    """The settings of every step of an epoch, counted from 0 over both stages."""
    stage, of_stage = stage_of(config, epoch)
    return epoch_settings(
        config,
        stage,
        of_stage,
        data.loaders["train"].num_batches(epoch),
        has_codebook=has_codebook(config),
        class_weights=balanced_weights(data.datasets["train"].class_counts(), config.class_balance),
    )


def saving(run: Run, writer: CheckpointWriter) -> Callable[[TrainState, Callable[[], SoFar]], None]:
    """What to do after each step: save when it is time, and stop when asked to."""

    def after_step(state: TrainState, known: Callable[[], SoFar]) -> None:
        run.unsaved = True
        asked = run.stop is not None and run.stop.is_set()
        if asked or time.monotonic() - run.saved >= 60 * run.config.checkpoint.every:
            run.state, run.so_far = state, known()
            save(run, writer)
        if asked:
            raise Interrupted

    return after_step


def save(run: Run, writer: CheckpointWriter) -> None:
    """Saves where the run is, in the background."""
    if run.events is not None:
        run.events.flush()  # what a resumed run does not do again must be there
    writer.save("last", run.state, meta_of(run))
    run.saved, run.unsaved = time.monotonic(), False


def summarised(run: Run, state: State, test: Evaluation | None = None) -> None:
    """Writes summary.json. On a full disk that is a warning: it says nothing that is not elsewhere."""
    if not is_first_process():
        return
    summary = summarise(
        run.config,
        run.data,
        read_records(run.run_dir / "metrics.jsonl"),
        state=state,
        command=run.command,
        date=run.date,
        parameters=run.parameters["total"],
        best_epoch=None if run.best is None else run.best["epoch"],
        test=test,
    )
    try:
        write_summary(run.run_dir, summary)
    except OSError as error:
        warnings.warn(f"{run.run_dir / 'summary.json'}: cannot be written ({error.strerror})", stacklevel=2)


def meta_of(run: Run) -> CheckpointMeta:
    """What a checkpoint says beside the arrays."""
    # Of the last step: within an epoch that is one of `so_far`, at its end one of the epoch before.
    epoch = run.epoch if run.so_far["steps"] else max(run.epoch - 1, 0)
    return CheckpointMeta(
        config=to_dict(run.config),
        class_names=list(run.data.class_names),
        fingerprint=run.data.fingerprint,
        epoch=run.epoch,
        so_far=run.so_far,
        stage=stage_of(run.config, epoch)[0],
        bypass_codebook=bypass_codebook(run.config, epoch),
        temperature=float(np.float32(run.config.temperature.at(epoch))),
        num_parameters=run.parameters["total"],
        validation=run.validation,
        best=run.best,
    )
