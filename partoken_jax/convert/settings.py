"""The configuration of a `state_dict`: from its shapes, from hyper-parameters, from what the user says.

Settings are dictionaries by dotted name ("model.partitioner.hidden") of values as in YAML.
"""

import re
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.config import ConfigError, TrainConfig, from_dict
from partoken_jax.convert.files import ConvertError
from partoken_jax.convert.original import ENCODER_NAMES

Settings = dict[str, Any]

# Hyper-parameters of the original's models, and ours.
_ENCODER = {
    "node_in_dim": "model.node_in",
    "node_h_dim": "model.node_hidden",
    "edge_in_dim": "model.edge_in",
    "edge_h_dim": "model.edge_hidden",
    "num_classes": "model.num_classes",
    "seq_in": "model.residue_types",
    "num_layers": "model.num_layers",
    "drop_rate": "model.dropout",
    "pooling": "model.pooling",
}
_CLUSTERS = {
    "attention_heads": "model.attention_heads",
    "max_clusters": "model.partitioner.max_clusters",
    "nhid": "model.partitioner.hidden",
    "k_hop": "model.partitioner.k_hop",
    "cluster_size_max": "model.partitioner.cluster_size_max",
    "termination_threshold": "model.partitioner.termination_threshold",
    "tau_init": "temperature.initial",
    "tau_min": "temperature.final",
    "tau_decay": "temperature.decay",
    "codebook_size": "model.codebook.size",
    "codebook_beta": "model.codebook.beta",
    "codebook_decay": "model.codebook.decay",
    "codebook_eps": "model.codebook.epsilon",
    "psc_temp": "model.codebook.presence_temperature",
    "lambda_vq": "loss.vq",
    "lambda_psc": "loss.coverage",
    "lambda_card": "loss.cardinality",
}
# What the original's models do not keep and their results depend on, by our names in a group of its own.
_GROUP = "partoken_jax"
_ALWAYS = ("data.neighbours",)
_WITH_CLUSTERS = (*_ALWAYS, "model.codebook.classify_quantised")
_NAMES = (
    _ENCODER
    | _CLUSTERS
    | {"partitioner_hidden_dim": "model.partitioner.hidden"}
    | {name: name for name in _WITH_CLUSTERS}
)
_DISTANCE, _NORMALIZE, _METRIC = "codebook_distance", "codebook_cosine_normalize", "model.codebook.metric"
# Groups of hyper-parameters about training; names in them may repeat those of the model, with other values.
_TRAINING = re.compile("train|stage|optim|sched|data|loss|interpret")


def settings_of_weights(source: Path, arrays: Mapping[str, np.ndarray]) -> Settings:
    """What the keys and shapes of a whole `state_dict` (without prefix) say.

    `source` is its name in errors. Raises ConvertError if it is not one of ParToken, PartGVP or the GVP
    baseline, or lacks a part that decides a size.
    """
    kinds = [
        k for k, names in ENCODER_NAMES.items() if any(a.startswith(f"{names['nodes']}.") for a in arrays)
    ]
    if len(kinds) != 1:
        shown = ", ".join(list(arrays)[:3])
        raise ConvertError(
            f"{source}: not the weights of ParToken (BioBlobs), PartGVP or the GVP baseline, whose keys "
            f"begin with node_encoder or W_v; its first are {shown}"
        )
    kind, names = kinds[0], ENCODER_NAMES[kinds[0]]

    def size(key: str, axis: int) -> int:
        if key not in arrays or arrays[key].ndim <= axis:
            found = f"is {arrays[key].shape}" if key in arrays else "is missing"
            raise ConvertError(
                f"{source}: {key} {found}, so the sizes of the model cannot be known; give its whole "
                "state_dict"
            )
        return arrays[key].shape[axis]

    def encoder(part: str) -> tuple[list[int], list[int]]:
        inputs = [size(f"{part}.0.scalar_norm.weight", 0), size(f"{part}.1.wh.weight", 1)]
        return inputs, [size(f"{part}.1.ws.weight", 0), size(f"{part}.1.wv.weight", 0)]

    node_in, node_hidden = encoder(names["nodes"])
    edge_in, edge_hidden = encoder(names["edges"])
    embedding = f"{names['residues']}.weight"
    if embedding in arrays:
        node_in[0] -= size(embedding, 1)
    layers = {m[1] for key in arrays if (m := re.match(rf"{names['layers']}\.(\d+)\.", key))}
    settings: Settings = {
        "model.kind": kind,
        "model.num_classes": size("classifier.6.weight", 0),
        "model.node_in": node_in,
        "model.node_hidden": node_hidden,
        "model.edge_in": edge_in,
        "model.edge_hidden": edge_hidden,
        "model.num_layers": len(layers),
        "model.residue_types": embedding in arrays,
    }
    if kind == "gvp" and "attention.0.weight" in arrays:
        settings["model.pooling"] = "attention"
    if kind == "partoken":
        settings["model.partitioner.hidden"] = size("partitioner.context_encoder.weight", 0)
        codebook = [array for key, array in arrays.items() if key.startswith("codebook.")]
        settings["model.codebook.enabled"] = any(array.any() for array in codebook)
        if codebook:
            settings["model.codebook.size"] = size("codebook.embeddings", 0)
    return settings


def settings_of_hyper_parameters(hyper: Mapping[str, Any], kind: str) -> tuple[Settings, list[str]]:
    """Settings from the original's hyper-parameters (nested or not), and the names without counterpart.

    Raises ConfigError for a hyper-parameter with two values.
    """
    settings: Settings = {}
    unused: list[str] = []
    metric: dict[str, Any] = {}
    for name, value in _leaves(hyper):
        if value is None or isinstance(value, Mapping) or name not in {*_NAMES, _DISTANCE, _NORMALIZE}:
            unused.append(name)
        elif isinstance(value, str) and value.startswith(("${", "???")):  # hydra had yet to fill it in
            unused.append(f"{name} ({value})")
        elif name in (_DISTANCE, _NORMALIZE):
            metric[name] = value
        else:
            if settings.setdefault(_NAMES[name], value) != value:
                raise ConfigError(f"{name} is both {settings[_NAMES[name]]!r} and {value!r}")
    if metric:
        cosine = metric.get(_DISTANCE) == "cos" or metric.get(_NORMALIZE, False)
        settings[_METRIC] = "cosine" if cosine else metric.get(_DISTANCE, "l2")
    # The original's ParToken takes the mean for every name that it does not know.
    if kind == "partoken" and settings.get("model.pooling", "sum") not in ("mean", "max", "sum"):
        settings["model.pooling"] = "mean"
    return settings, unused


def _leaves(group: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in group.items():
        if isinstance(value, Mapping) and not _TRAINING.search(name):
            yield from _leaves(value)
        else:
            yield name, value


def hyper_parameters(config: TrainConfig) -> dict[str, Any]:
    """The original's hyper-parameters for a configuration, nested as its Lightning modules store them, and in
    a group that those do not read what the original does not keep."""
    names = _ENCODER if config.model.kind == "gvp" else _ENCODER | _CLUSTERS
    model_cfg = {name: value_of(config, setting) for name, setting in names.items() if name != "num_classes"}
    model_cfg = {name: list(v) if isinstance(v, tuple) else v for name, v in model_cfg.items()}
    if config.model.kind == "partoken":
        model_cfg[_DISTANCE] = "cos" if config.model.codebook.metric == "cosine" else "l2"
    ours = {name: value_of(config, name) for name in _not_kept(config.model.kind)}
    return {"model_cfg": model_cfg, "num_classes": config.model.num_classes, _GROUP: ours}


def _not_kept(kind: str) -> tuple[str, ...]:
    return _WITH_CLUSTERS if kind == "partoken" else _ALWAYS


def unknown_settings(kind: str, known: Iterable[str]) -> list[str]:
    """Settings that results depend on and neither the weights nor anything else has said.

    The number of attention heads is not among them: the original always has 4, as the default here.
    """
    wanted = list(_ENCODER.values())
    if kind == "partoken":
        wanted += [*(name for name in _CLUSTERS.values() if name != "model.attention_heads"), _METRIC]
    wanted += _not_kept(kind)
    known = set(known)
    return [name for name in wanted if name not in known]


def combine(source: Path, said: Mapping[str, Settings]) -> TrainConfig:
    """One configuration out of settings by who says them; the rest is as published.

    Raises ConvertError that names `source` for a setting that does not exist or cannot have its value, or of
    which two say different things.
    """
    known: Settings = {}
    origin: dict[str, str] = {}
    config = TrainConfig()
    for who, settings in said.items():
        try:
            after = from_dict(TrainConfig, _nested(known | settings))
        except ConfigError as error:
            raise ConvertError(f"{source}: {who}: {error}") from None
        for name in settings:
            if name in origin and value_of(config, name) != value_of(after, name):
                raise ConvertError(
                    f"{source}: {name} is {value_of(config, name)!r} according to {origin[name]}, but "
                    f"{value_of(after, name)!r} according to {who}; correct one of them or leave it out"
                )
            origin.setdefault(name, who)
        known, config = known | settings, after
    return config


def value_of(config: TrainConfig, name: str) -> Any:
    """The value of a setting by its dotted name."""
    return reduce(getattr, name.split("."), config)


def _nested(settings: Settings) -> dict:
    nested: dict = {}
    for name, value in settings.items():
        *groups, last = name.split(".")
        reduce(lambda group, part: group.setdefault(part, {}), groups, nested)[last] = value
    return nested
