"""What `partoken time` and `partoken tune` measure: settings apart from those of models and runs."""

import typing
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from partoken_jax.config import (
    RESIDUE_TASK,
    BatchSize,
    ModelConfig,
    Neighbours,
    Residues,
    check_features,
)
from partoken_jax.model_config import Kind
from partoken_jax.settings import AtLeast1, AtMost, FilePath, Flag, Seed, settings

Sweep = Literal["batch", "length", "clusters", "rematerialisation", "backward", "precision", "plain"]
SWEEPS: tuple[Sweep, ...] = typing.get_args(Sweep)  # what `partoken time` can vary


@settings
class TimingConfig:
    """What `partoken time` measures, and on which proteins."""

    models: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("gvp", "partoken")
    """Models to time. Name one to save time; what ParToken adds to the baseline takes both."""
    passes: Annotated[
        tuple[Literal["forward", "forward_backward", "train_step", "epoch"], ...], Field(min_length=1)
    ] = ("forward", "forward_backward", "train_step")
    """What to time: inference ("forward"), the gradients ("forward_backward"), the whole training step
    ("train_step"), or the training loop with its input pipeline ("epoch")."""
    batch_size: BatchSize = 16
    """B, the number of proteins in a step. Set it to that of the run in question; 64 is the published one."""
    residues: Residues | None = None
    """Length of synthetic proteins, which are then timed in place of real ones. Set it to time one length, or
    to compare with other code. Real proteins are packed as a training run packs them."""
    path: FilePath | None = None
    """File or prepared set with the real proteins, as in data.path of a run. Without it, the proteins that
    come with the package are used. Set it to time the proteins of a run of yours."""
    task: str = "ec-class"
    """The task whose training proteins are used, and whose classes the models tell apart. Set it to that of
    the run in question."""
    split_scheme: str = "identity"
    """The scheme that says which proteins are training proteins. Set it to that of the run in question."""
    neighbours: Neighbours = 30
    """K, the number of nearest CA atoms that send messages to a residue. Set it to that of the run in
    question."""
    repeats: Annotated[AtLeast1, AtMost(100_000)] = 10
    """Number of timed runs of every program. Raise it when the quartiles lie far apart."""
    epoch_batches: AtLeast1 | None = None
    """The pass "epoch" ends after this many batches; without it, after all. Set it to save time."""
    gap: Flag = True
    """Whether to time also models that grow from the baseline to ParToken part by part, which says what each
    part adds to the training step. Switch it off to save the compilation of six more programs."""
    sweeps: tuple[Sweep, ...] = ()
    """Settings to vary one by one: "batch", "length" and "clusters" show how the training step scales;
    "rematerialisation", "backward", "precision" and "plain" show what each way to compute it costs."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The models that are timed, by default those of the published size."""
    seed: Seed = 0
    """Seed of the weights and of the choice of batches. Change it to see how much depends on the batch."""

    def __post_init__(self) -> None:
        check_features(self.model)
        if self.task == RESIDUE_TASK:
            raise ValueError(
                f"task is {self.task!r}, which is for pretraining, but must be one with classes of proteins"
            )
        if self.path is not None and self.residues is not None:
            raise ValueError(
                f"residues is {self.residues}, but must be left out where a file of real proteins is given "
                f"(path is {self.path!r})"
            )


@settings
class TuneConfig:
    """What `partoken tune` measures: the training step for batches of one shape."""

    batch_size: BatchSize = 16
    """B, the number of proteins in a step; of a run on several devices, in each one's part. Set it to that of
    the runs in question."""
    residues: Residues = 300
    """Length of the proteins, which are made up. Set it to the mean of those in question: what is found
    counts for batches of up to about 1.4 times as many residues, or as few."""
    neighbours: Neighbours = 30
    """K, the number of nearest CA atoms that send messages to a residue. Set it to that of the run in
    question."""
    repeats: Annotated[AtLeast1, AtMost(100_000)] = 20
    """Number of timed steps of every form; slow forms are timed twice. Raise it when the quartiles lie far
    apart."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The widths, layers and precision of the encoder, by default those of the published model."""

    def __post_init__(self) -> None:
        check_features(self.model)
