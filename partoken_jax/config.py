"""What a run is made of: frozen dataclasses, their checks, and YAML in and out.

The defaults are the published ParToken configuration (arXiv 2510.01632).
"""

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

T = TypeVar("T")

Pooling = Literal["mean", "max", "sum", "attention"]
Precision = Literal["float32", "tensorfloat32", "bfloat16"]
Task = Literal["ec-class", "cath-class", "cath-architecture"]


class ConfigError(ValueError):
    """A setting that cannot be used; the message names it and says what is allowed."""


@dataclass(frozen=True)
class PartitionerConfig:
    """How a protein is cut into clusters of residues."""

    max_clusters: int = 5
    """S: rounds of the partitioner, at most one cluster each."""
    hidden: int = 50
    """Width of the seed selector and of the context vector."""
    k_hop: int = 1
    """A cluster lies within this many steps of its seed."""
    cluster_size_max: int = 25
    """Residues per cluster, the seed included."""
    termination_threshold: float = 0.95
    """A protein is done when this share of its residues is assigned."""

    def __post_init__(self):
        _require(self.max_clusters >= 1, "partitioner.max_clusters", self.max_clusters, "at least 1")
        _require(self.hidden >= 1, "partitioner.hidden", self.hidden, "at least 1")
        _require(self.k_hop >= 1, "partitioner.k_hop", self.k_hop, "at least 1")
        _require(
            self.cluster_size_max >= 1, "partitioner.cluster_size_max", self.cluster_size_max, "at least 1"
        )
        _require(
            0 < self.termination_threshold <= 1,
            "partitioner.termination_threshold",
            self.termination_threshold,
            "in (0, 1]",
        )


@dataclass(frozen=True)
class CodebookConfig:
    """The VQ codebook: K codes of the width of a cluster feature."""

    enabled: bool = True
    """False builds the model without a codebook."""
    size: int = 512
    """K: number of codes."""
    beta: float = 0.25
    """Weight of the commitment loss."""
    decay: float = 0.99
    """Decay of the moving averages."""
    epsilon: float = 1e-5
    metric: Literal["l2", "cosine"] = "l2"
    """Distance that chooses the code; loss, output and averages always use raw vectors."""
    keep_unused: bool = True
    """A code that no cluster chose keeps its value. False is the published rule, which
    moves unused codes to zero (REFERENCE.md fault 9)."""
    presence_temperature: float = 0.3
    classify_quantised: bool = False
    """True puts the codebook in the path: the classifier reads quantised clusters."""

    def __post_init__(self):
        _require(self.size >= 1, "codebook.size", self.size, "at least 1")
        _require(0 <= self.decay < 1, "codebook.decay", self.decay, "in [0, 1)")
        _require(self.metric in ("l2", "cosine"), "codebook.metric", self.metric, "'l2' or 'cosine'")
        _require(
            self.presence_temperature > 0,
            "codebook.presence_temperature",
            self.presence_temperature,
            "greater than 0",
        )


@dataclass(frozen=True)
class ModelConfig:
    """A GVP-GNN classifier ("gvp") or ParToken ("partoken")."""

    kind: Literal["gvp", "partoken"] = "partoken"
    num_classes: int = 7
    node_in: tuple[int, int] = (6, 3)
    """Scalar and vector channels of a residue as featurised."""
    edge_in: tuple[int, int] = (32, 1)
    node_hidden: tuple[int, int] = (100, 16)
    edge_hidden: tuple[int, int] = (32, 1)
    num_layers: int = 3
    dropout: float = 0.1
    pooling: Pooling = "sum"
    residue_types: bool = False
    """Append a learned embedding of the amino acid to the node scalars."""
    attention_heads: int = 4
    message_passing: Literal["dense", "general"] = "dense"
    """The switch between the fast and the plain form; same parameters, same numbers. "dense" uses the [N, K]
    neighbour table and all that makes it fast; "general" is the readable reference, segment operations over
    any GraphsTuple."""
    rematerialise: Literal["auto", "none", "layer", "chunk"] = "auto"
    """What the forward pass does not keep for the backward pass, which computes it again. "layer":
    everything but the node features between layers. "chunk" (dense form): what belongs to edges, which
    exists for a few residues at a time only; least memory, and fastest on a CPU, whose cache it fits.
    "auto": "chunk" on a CPU, "layer" elsewhere, "none" for the general form."""
    sender_gradient: Literal["auto", "scatter", "gather"] = "auto"
    """How the gradients of the edges with one sender are summed (dense form): by a scatter-add, or read
    through a reverse-neighbour table. "auto": "scatter" on a CPU, "gather" elsewhere. In chunks it is always
    "scatter"."""
    precision: Precision = "float32"
    """Of products. "tensorfloat32": 10 bits of mantissa where the device has it (NVIDIA GPUs from 2020; a CPU
    computes in float32). "bfloat16": the encoder computes in bfloat16. Parameters, norms, sums, features
    between layers, and all after the encoder are float32. What each costs: docs/TIMING.md."""
    partitioner: PartitionerConfig = field(default_factory=PartitionerConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)

    def __post_init__(self):
        _require(self.kind in ("gvp", "partoken"), "model.kind", self.kind, "'gvp' or 'partoken'")
        _require(self.num_classes >= 2, "model.num_classes", self.num_classes, "at least 2")
        _require(self.num_layers >= 1, "model.num_layers", self.num_layers, "at least 1")
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        _require(
            self.pooling in typing.get_args(Pooling),
            "model.pooling",
            self.pooling,
            f"one of {typing.get_args(Pooling)}",
        )
        _require(
            self.message_passing in ("dense", "general"),
            "model.message_passing",
            self.message_passing,
            "'dense' or 'general'",
        )
        _require(
            self.rematerialise in ("auto", "none", "layer", "chunk"),
            "model.rematerialise",
            self.rematerialise,
            "'auto', 'none', 'layer' or 'chunk'",
        )
        _require(
            self.rematerialise != "chunk" or self.message_passing == "dense",
            "model.rematerialise",
            self.rematerialise,
            "'auto', 'none' or 'layer' where model.message_passing is 'general'",
        )
        _require(
            self.sender_gradient in ("auto", "scatter", "gather"),
            "model.sender_gradient",
            self.sender_gradient,
            "'auto', 'scatter' or 'gather'",
        )
        _require(
            self.sender_gradient != "gather"
            or (self.message_passing == "dense" and self.rematerialise in ("none", "layer")),
            "model.sender_gradient",
            self.sender_gradient,
            "'auto' or 'scatter' ('gather' needs model.rematerialise 'none' or 'layer' and the dense form)",
        )
        _require(
            self.precision in typing.get_args(Precision),
            "model.precision",
            self.precision,
            "'float32', 'tensorfloat32' or 'bfloat16'",
        )
        if self.kind == "partoken":
            _require(
                self.attention_heads >= 1 and self.node_hidden[0] % self.attention_heads == 0,
                "model.attention_heads",
                self.attention_heads,
                f"a divisor of node_hidden[0] = {self.node_hidden[0]}",
            )


@dataclass(frozen=True)
class DataConfig:
    """Which proteins, and how they are packed."""

    path: str | None = None
    """A .npz in the format of experiments/data/README.md; none means the embedded set."""
    task: Task = "ec-class"
    split_scheme: Literal["identity", "superfamily"] = "identity"
    """"identity": no two splits share > 30% sequence identity; "superfamily": no CATH superfamily."""
    neighbours: int = 30
    """K: nearest CA atoms per residue."""
    batch_size: int = 64
    """B: proteins per step."""
    max_shapes: int = 4
    """At most this many padded node counts (and so compilations) in a run."""
    max_length: int = 2000
    """Longest protein accepted, in residues."""
    too_long: Literal["refuse", "crop"] = "refuse"
    """What happens to a longer one: an error that names it, or its first max_length residues."""
    max_train: int | None = None
    """Use only this many training proteins (chosen by the seed); none means all."""
    max_eval: int | None = None
    """The same for validation and test."""

    def __post_init__(self):
        _require(self.neighbours >= 1, "data.neighbours", self.neighbours, "at least 1")
        _require(self.batch_size >= 1, "data.batch_size", self.batch_size, "at least 1")
        _require(self.max_shapes >= 1, "data.max_shapes", self.max_shapes, "at least 1")
        _require(self.max_length >= 1, "data.max_length", self.max_length, "at least 1")
        _require(self.too_long in ("refuse", "crop"), "data.too_long", self.too_long, "'refuse' or 'crop'")
        _require(
            self.split_scheme in ("identity", "superfamily"),
            "data.split_scheme",
            self.split_scheme,
            "'identity' or 'superfamily'",
        )
        _require(
            self.task in typing.get_args(Task), "data.task", self.task, f"one of {typing.get_args(Task)}"
        )


@dataclass(frozen=True)
class StageConfig:
    """One training stage: Adam, warm-up, cosine decay to zero."""

    epochs: int = 0
    learning_rate: float = 1e-3
    warmup_epochs: float = 5

    def __post_init__(self):
        _require(self.epochs >= 0, "stage.epochs", self.epochs, "at least 0")
        _require(self.learning_rate > 0, "stage.learning_rate", self.learning_rate, "greater than 0")
        _require(self.warmup_epochs >= 0, "stage.warmup_epochs", self.warmup_epochs, "at least 0")


@dataclass(frozen=True)
class LossConfig:
    """Full-strength weights of the four loss terms, and the ramp that reaches them."""

    vq: float = 1.0
    coverage: float = 1e-2
    cardinality: float = 5e-3
    ramp_epochs: int = 5
    """Stage 1: vq and coverage grow linearly from 0 to full strength over so many epochs."""

    def __post_init__(self):
        for name in ("vq", "coverage", "cardinality"):
            weight = getattr(self, name)
            _require(0 <= weight < float("inf"), f"loss.{name}", weight, "a number of at least 0")
        _require(self.ramp_epochs >= 0, "loss.ramp_epochs", self.ramp_epochs, "at least 0")


@dataclass(frozen=True)
class TemperatureConfig:
    """Partitioner temperature: tau(epoch) = max(final, initial * decay ** epoch)."""

    initial: float = 1.0
    decay: float = 0.95
    final: float = 0.1

    def __post_init__(self):
        _require(self.final > 0, "temperature.final", self.final, "greater than 0")
        _require(self.initial > 0, "temperature.initial", self.initial, "greater than 0")
        _require(0 < self.decay <= 1, "temperature.decay", self.decay, "in (0, 1]")

    def at(self, epoch: int) -> float:
        """Temperature in an epoch, counted from 0 across both stages: max(final, initial · decay^epoch).

        REFERENCE.md section 1, temperature τ.
        """
        return max(self.final, self.initial * self.decay**epoch)


@dataclass(frozen=True)
class TrainConfig:
    """A whole run. The GVP baseline has no codebook, but keeps both stages: the learning rate warms up and
    decays twice, and Adam starts anew, so that the two models train alike."""

    run_dir: str = "runs/train"
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    stage0: StageConfig = field(default_factory=lambda: StageConfig(epochs=120, learning_rate=1e-3))
    """Without the codebook."""
    stage1: StageConfig = field(default_factory=lambda: StageConfig(epochs=30, learning_rate=5e-4))
    """Jointly, after k-means initialisation of the codebook."""
    loss: LossConfig = field(default_factory=LossConfig)
    temperature: TemperatureConfig = field(default_factory=TemperatureConfig)
    kmeans_batches: int = 50
    """Batches whose cluster features initialise the codebook."""
    freeze_codebook_epochs: int = 5
    """The codebook stops moving in the last epochs of stage 1."""
    reseed_dead_codes: bool = False
    """After each epoch of stage 1, move codes that were never chosen onto cluster features."""
    overwrite: bool = False
    """Replace an existing run directory."""
    resume: bool = False
    """Go on from the last checkpoint of the run directory."""

    def __post_init__(self):
        _require(self.kmeans_batches >= 1, "kmeans_batches", self.kmeans_batches, "at least 1")
        _require(
            self.freeze_codebook_epochs >= 0,
            "freeze_codebook_epochs",
            self.freeze_codebook_epochs,
            "at least 0",
        )


SWEEPS = ("batch", "length", "clusters", "rematerialisation", "backward", "precision", "plain")
"""What `partoken time` can vary."""


@dataclass(frozen=True)
class TimingConfig:
    """What `partoken time` measures. The model is the published one but for what is named here."""

    models: tuple[str, ...] = ("gvp", "partoken")
    passes: tuple[str, ...] = ("forward", "forward_backward", "train_step")
    """Any of forward, forward_backward, train_step and epoch."""
    batch_size: int = 16
    residues: int | None = None
    """Length of synthetic proteins; none means real ones, in the batches of a training run."""
    path: str | None = None
    """A .npz with the real proteins; none means the embedded set."""
    task: Task = "ec-class"
    neighbours: int = 30
    repeats: int = 10
    """Timed runs of every program."""
    epoch_batches: int | None = None
    """The epoch pass is cut to so many batches; none means all."""
    gap: bool = True
    """Also measure what each part of ParToken adds to the training step: six more programs to compile."""
    sweeps: tuple[str, ...] = ()
    """Any of SWEEPS: how the training step scales, and what each setting costs."""
    model: ModelConfig = field(default_factory=ModelConfig)
    seed: int = 0

    def __post_init__(self):
        for name, values, allowed in (
            ("models", self.models, ("gvp", "partoken")),
            ("passes", self.passes, ("forward", "forward_backward", "train_step", "epoch")),
            ("sweeps", self.sweeps, SWEEPS),
        ):
            good = set(values) <= set(allowed) and (bool(values) or name == "sweeps")
            _require(good, name, ",".join(values), f"one or more of {', '.join(allowed)} with commas between")
        for name in ("batch_size", "neighbours", "repeats"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.seed >= 0, "seed", self.seed, "at least 0")
        _require(
            self.path is None or self.residues is None,
            "residues",
            self.residues,
            "left out where a file of real proteins is given",
        )
        for name in ("residues", "epoch_batches"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1")


def to_dict(config: Any) -> dict:
    """A config as plain dictionaries, lists and numbers (what YAML and checkpoints store)."""
    plain = dataclasses.asdict(config)
    return {k: _listed(v) for k, v in plain.items()}


def from_dict(cls: type[T], values: dict, where: str = "") -> T:
    """The inverse of `to_dict`; missing settings keep the default of `cls()`.

    Raises ConfigError for a setting that does not exist or has the wrong type.
    """
    return _updated(cls(), values, where)


def _updated(default: T, values: dict, where: str) -> T:
    cls = type(default)
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints), key=str)
    if unknown:
        raise ConfigError(
            f"{where or cls.__name__}: no setting called {', '.join(map(repr, unknown))}; "
            f"there are {', '.join(hints)}"
        )
    parsed = {
        name: _parse(hints[name], value, f"{where}{name}", getattr(default, name))
        for name, value in values.items()
    }
    return dataclasses.replace(default, **parsed)  # type: ignore[type-var]


def load_yaml(cls: type[T], path: str | Path) -> T:
    """Reads a config file. Raises ConfigError that names the file and the setting."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings as 'name: value' lines")
    try:
        return from_dict(cls, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def save_yaml(config: Any, path: str | Path) -> None:
    """Writes a config so that `load_yaml` gives an equal one."""
    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False))


def _require(condition: bool, name: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ConfigError(f"{name} is {value!r}, but must be {allowed}")


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _listed(v) for k, v in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _parse(hint: Any, value: Any, where: str, default: Any = None) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must hold settings of its own, got {value!r}")
        return _updated(default, value, f"{where}.")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _parse(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise ConfigError(f"{where} is {value!r}, but must be one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(args):
            raise ConfigError(f"{where} must be {len(args)} values, got {value!r}")
        return tuple(_parse(a, v, where) for a, v in zip(args, value, strict=True))
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where} is {value!r}, but must be of type {hint.__name__}")
    return value
