"""What a run is made of: every setting, its default, the values it may have, and when to change it.

The defaults are the published ParToken configuration (arXiv 2510.01632). The text under a field is also its
help on the command line. The settings of the model are in `model_config.py`; how settings are checked, and
read from YAML, is in `settings.py`.
"""

from dataclasses import field
from typing import Annotated, Literal

from partoken_jax.model_config import EDGE_FEATURES, NODE_FEATURES, LossWeight, Temperature
from partoken_jax.model_config import CodebookConfig as CodebookConfig
from partoken_jax.model_config import ModelConfig as ModelConfig
from partoken_jax.model_config import PartitionerConfig as PartitionerConfig
from partoken_jax.model_config import PretrainingConfig as PretrainingConfig
from partoken_jax.settings import (
    AtLeast0,
    AtLeast1,
    AtMost,
    BelowOne,
    FilePath,
    Flag,
    NonNegative,
    Positive,
    Seed,
    Share,
    settings,
)
from partoken_jax.settings import ConfigError as ConfigError
from partoken_jax.settings import from_dict as from_dict
from partoken_jax.settings import load_yaml as load_yaml
from partoken_jax.settings import save_yaml as save_yaml
from partoken_jax.settings import to_dict as to_dict

NonFinite = Literal["stop", "skip"]
RESIDUE_TASK = "residue-types"
"""The task of pretraining: every protein, and no labels but its sequence."""

Epochs = Annotated[AtLeast0, AtMost(10_000)]
Neighbours = Annotated[AtLeast1, AtMost(1000)]
BatchSize = Annotated[AtLeast1, AtMost(100_000)]
Residues = Annotated[AtLeast1, AtMost(100_000)]  # of a chain; the longest known has 35,000


@settings
class DataConfig:
    """Which proteins there are, and how they become batches."""

    path: FilePath | None = None
    """Folder of a prepared set (docs/guide/data.md), or file with proteins (.npz, as
    experiments/data/README.md describes it). Without it, the proteins that come with the package are used.
    Set it to train on proteins of your own."""
    task: str = "ec-class"
    """What to predict: the enzyme class ("ec-class"), the CATH class ("cath-class"), architecture
    ("cath-architecture") or superfamily ("cath-superfamily"); with a prepared set, the name of any of its
    columns that has one label per protein. Change it to train for another question. Proteins without a label
    for it are left out. "residue-types" is for pretraining: it takes all proteins and needs no labels."""
    split_scheme: str = "identity"
    """How proteins are split into training, validation and test. "identity": proteins of two splits share at
    most 30% of their sequence. Choose "superfamily" for the harder question, where they also come from
    different CATH superfamilies, or the name of any scheme of a prepared set."""
    neighbours: Neighbours = 30
    """K, the number of nearest CA atoms that send messages to a residue; at most as many as a prepared set
    holds. Lower it for speed."""
    batch_size: BatchSize = 64
    """B, the number of proteins in a training step. Lower it when memory runs out or when there are few
    proteins."""
    residues_per_batch: Annotated[AtLeast1, AtMost(10_000_000)] | None = None
    """Budget of a training step: it takes proteins until the next one would exceed this many residues, and
    at most batch_size of them, and all batches are padded to one size. Without it, a step has exactly
    batch_size proteins, as in the published configuration. Set it to use memory evenly where lengths differ
    much."""
    max_shapes: Annotated[AtLeast1, AtMost(1000)] = 4
    """Batches are padded to at most this many sizes, and each size is compiled once; with a budget of
    residues there is one. Lower it to compile less often; raise it to compute less on padding."""
    max_length: Residues = 2000
    """Largest number of residues that a protein may have. Lower it to save memory."""
    too_long: Literal["refuse", "crop"] = "refuse"
    """What to do with a longer protein: refuse the data and name the protein ("refuse"), or keep its first
    max_length residues ("crop"). Choose "crop" where the rest of a long protein may be lost."""
    max_train: AtLeast1 | None = None
    """Use only this many training proteins, drawn by the seed of the run; without it, all. Set it for a quick
    trial."""
    max_eval: AtLeast1 | None = None
    """Use only this many proteins of validation and of test, the same ones whatever the seed, so that runs
    with different seeds are scored alike; without it, all. Set it for a quick trial."""


@settings
class StageConfig:
    """A stage of training: Adam with a learning rate that warms up and then falls to zero as a cosine."""

    epochs: Epochs = 0
    """Number of passes over the training proteins; with 0 the stage is left out. Lower it for a quick
    trial."""
    learning_rate: Positive = 1e-3
    """Highest learning rate of the stage. Lower it when the loss jumps or stops being a number."""
    warmup_epochs: Annotated[NonNegative, AtMost(10_000)] = 5.0
    """Number of epochs, or a fraction of one, over which the learning rate rises; at most half of the stage.
    Shorten it in short stages."""


@settings
class LossConfig:
    """Weights of ParToken's losses beside the cross entropy. The GVP baseline does not use these settings."""

    vq: LossWeight = 1.0
    """Weight of the VQ loss, which draws cluster features towards their codes. Raise it when they stay far
    apart."""
    coverage: LossWeight = 1e-2
    """Weight of the coverage loss, which rewards the use of many codes. Raise it when few codes are in
    use."""
    cardinality: LossWeight = 5e-3
    """Weight of the cardinality loss, which holds the expected size of clusters near its target. Raise it
    when clusters become too large or too small."""
    ramp_epochs: Epochs = 5
    """Number of epochs at the start of stage 1 over which the weights vq and coverage grow from 0. Shorten it
    in a short stage."""


@settings
class TemperatureConfig:
    """Temperature of ParToken's choice of residues, which falls from epoch to epoch: it is initial * decay **
    epoch, and never less than `final`. The GVP baseline does not use these settings."""

    initial: Temperature = 1.0
    """Temperature in the first epoch. Raise it for softer choices at the start."""
    decay: Share = 0.95
    """What the temperature is multiplied by after every epoch. Lower it in a short run, so that the
    temperature still reaches its end."""
    final: Temperature = 0.1
    """Lowest temperature. Lower it for harder choices at the end."""

    def at(self, epoch: int) -> float:
        """Temperature in an epoch, counted from 0 across both stages: max(final, initial · decay^epoch).

        REFERENCE.md section 1, temperature τ.
        """
        return max(self.final, self.initial * self.decay**epoch)


@settings
class CheckpointConfig:
    """When a run saves its state, and which of its checkpoints stay. All of these may change when a run
    is resumed."""

    every: Positive = 5.0
    """Minutes between two checkpoints within an epoch, the most that a killed run has to do again. The end of
    an epoch is always saved. Lower it where runs are killed often; raise it where the disk is slow."""
    keep_best: Annotated[AtLeast1, AtMost(1000)] = 1
    """Number of checkpoints with the best validation scores that stay. Raise it to compare or average
    them."""
    keep_every: AtLeast1 | None = None
    """Keep also the checkpoint of every so many epochs, in checkpoints/kept; without it, none. Set it to look
    at how a model came to be."""


@settings
class TrainConfig:
    """A whole run. The GVP baseline has no codebook, but keeps both stages: the learning rate warms up and
    decays twice, and Adam starts anew, so that the two models train alike."""

    run_dir: FilePath = "runs/train"
    """Directory for the settings, checkpoints and results. Give every run one of its own."""
    seed: Seed = 0
    """Seed of the weights, the order of the proteins, dropout and noise. Change it to repeat a run
    independently."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    stage0: StageConfig = field(default_factory=lambda: StageConfig(epochs=120, learning_rate=1e-3))
    """The first stage of training, without the codebook."""
    stage1: StageConfig = field(default_factory=lambda: StageConfig(epochs=30, learning_rate=5e-4))
    """The second stage, everything together. It starts with codes from k-means on cluster features."""
    loss: LossConfig = field(default_factory=LossConfig)
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    kmeans_batches: Annotated[AtLeast1, AtMost(1_000_000)] = 50
    """Number of batches whose cluster features start the codebook. Raise it when batches are small and codes
    are many."""
    freeze_codebook_epochs: Epochs = 5
    """The codes stand still in this many last epochs of stage 1, so that the classifier can settle on them.
    Lower it when stage 1 is short: it must be less than stage1.epochs. With 0 the codes move to the end."""
    reseed_dead_codes: Flag = False
    """Whether to move dead codes onto cluster features after each epoch of stage 1 in which the codes move.
    Switch it on when few codes are in use: stage 1 moves the clusters, and codes that none of them chooses
    stay behind."""
    dead_code_share: BelowOne = 0.0
    """Which codes are dead for `reseed_dead_codes`: those that clusters chose in an epoch at most this share
    as often as each code if all were chosen alike. With 0 only those that were never chosen. Raise it, to
    0.25, when few codes take most of the clusters (a low perplexity)."""
    one_schedule: Flag = False
    """Whether both stages share one warm-up and one cosine, at the settings of the first of them, and Adam
    goes on in stage 1 with the moments that it has. Without it, as published, each stage has its own. Switch
    it on when the start of stage 1 undoes what stage 0 has learned."""
    weight_decay: Annotated[NonNegative, AtMost(1)] = 0.0
    """Share of all weights but biases and the scales of norms that a step at learning rate 1 would take away
    (AdamW). Raise it, to 0.01 or 0.05, when the model overfits."""
    label_smoothing: BelowOne = 0.0
    """Share of a label that is spread over all classes in the cross entropy of training. Raise it, to about
    0.1, when the model overfits or is too sure of itself."""
    class_balance: Annotated[NonNegative, AtMost(1)] = 0.0
    """How much rare classes count in the cross entropy of training: a class with n of the labels weighs
    n ** -class_balance. With 0, as published, all proteins count alike; with 1, all classes do. Raise it when
    rare classes matter, as they do in macro-F1."""
    clip_norm: Positive | None = None
    """Largest global norm of the gradients; larger gradients are scaled down to it. Without it, as published,
    they are used as they are. Set it when single steps throw training back, to a few times the usual norm:
    every epoch in metrics.jsonl says how large it was."""
    non_finite: NonFinite = "stop"
    """What to do when the loss or a gradient of a step is not a finite number: end the run in the state
    before that step ("stop"), or leave the step out and go on ("skip"). Both save the batch and the state
    for `partoken replay`. Choose "skip" when a few batches may be lost."""
    devices: AtLeast1 | None = None
    """Number of devices that share every batch; without it, all there are. The result is the same for any
    number. Lower it to leave devices to others."""
    init_from: FilePath | None = None
    """Start from the weights of this run (a directory), trained model (a name or a .safetensors file) or file
    of weights of the PyTorch original instead of random ones. A classifier of another number of classes
    starts anew; of a model of another kind (`model.kind`) the encoder is taken. Set it to fine-tune a
    model."""
    freeze_encoder: Flag = False
    """Whether the encoder stays as it is in `init_from`, and only what follows it learns. Switch it on where
    there are few proteins to learn from; a step then has fewer than 0.6 of the operations."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    overwrite: Flag = False
    """Whether to replace an earlier run in the same directory. Switch it on to start that run anew."""
    resume: Flag = False
    """Whether to go on from the newest checkpoint of the run in the directory, with its settings. Where there
    is none yet, the run starts, so that a job queue can give the same command every time."""

    def __post_init__(self) -> None:
        check_features(self.model)
        if (self.model.kind == "residues") != (self.data.task == RESIDUE_TASK):
            raise ValueError(
                f"model.kind is {self.model.kind!r} and data.task {self.data.task!r}, but the model "
                f"'residues' and the task {RESIDUE_TASK!r} need each other; set both to pretrain, or neither"
            )
        if self.freeze_encoder and self.init_from is None:
            raise ValueError(
                "freeze_encoder is on, but the run starts from random weights, which the encoder would keep; "
                "set init_from"
            )
        if self.stage0.epochs + self.stage1.epochs == 0:
            raise ValueError(
                "stage0.epochs and stage1.epochs are both 0, but a run needs at least one epoch; "
                "set one of them"
            )
        if self.dead_code_share and not self.reseed_dead_codes:
            raise ValueError(
                f"dead_code_share is {self.dead_code_share:g}, but reseed_dead_codes is off, so that no code "
                "would move; set reseed_dead_codes"
            )
        freezes = self.model.kind == "partoken" and self.model.codebook.enabled
        epochs, frozen = self.stage1.epochs, self.freeze_codebook_epochs
        if freezes and 0 < epochs <= frozen:
            most = f"a number from 0 to {epochs - 1}" if epochs > 1 else "0"
            raise ValueError(
                f"freeze_codebook_epochs is {frozen}, but stage1.epochs is {epochs}, so that the codebook "
                f"would stand still from the start of stage 1; set freeze_codebook_epochs to {most}, or "
                "stage1.epochs to a larger number"
            )


def check_features(model: ModelConfig) -> None:
    """Raises ValueError for a model that does not take the features of `graphs.featurise`."""
    for name, features in (("node_in", NODE_FEATURES), ("edge_in", EDGE_FEATURES)):
        if getattr(model, name) != features:
            raise ValueError(
                f"model.{name} is {getattr(model, name)}, but must be {features}, the features that proteins "
                "get here; other ones take a model that you build yourself"
            )
