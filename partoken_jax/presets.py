"""Presets: settings of a whole run by one name, `partoken train --preset NAME` and `preset(NAME)`.

This is the one place where they are defined. A setting that is not named here is as published. The table of
docs/guide/train.md is made from this file by `python -m experiments.docs`.
"""

from functools import reduce
from typing import Any, Literal, NamedTuple, get_args

from partoken_jax.config import ConfigError, TrainConfig, from_dict
from partoken_jax.settings import shown

Preset = Literal["published", "recommended", "small"]


class Change(NamedTuple):
    """A setting that a preset changes."""

    value: Any
    """As in YAML."""
    bought: str
    """What it bought over the published value, with the number and where it is from."""


PRESETS: dict[str, dict[str, Change]] = {
    "published": {},
    # What was better than the published configuration, or as good and faster.
    "recommended": {
        "data.neighbours": Change(16, "not measured yet"),
        "reseed_dead_codes": Change(True, "not measured yet"),
    },
    # Minutes on the CPU of a laptop with the proteins that come with the package.
    "small": {
        "model.node_hidden": Change([32, 8], "speed: an eighth of the parameters"),
        "model.edge_hidden": Change([16, 1], "speed"),
        "model.partitioner.hidden": Change(16, "in proportion to the width"),
        "model.codebook.size": Change(32, "a size that the few clusters fill"),
        "data.neighbours": Change(16, "speed"),
        "data.batch_size": Change(16, "more steps from few proteins"),
        "data.max_shapes": Change(1, "one compilation"),
        "stage0.epochs": Change(16, "minutes instead of hours"),
        "stage0.warmup_epochs": Change(1, "in proportion to the epochs"),
        "stage1.epochs": Change(8, "minutes instead of hours"),
        "stage1.warmup_epochs": Change(1, "in proportion to the epochs"),
        "stage1.learning_rate": Change(1e-3, "goes on as fast as before, in few epochs"),
        "loss.ramp_epochs": Change(1, "in proportion to the epochs"),
        "temperature.decay": Change(0.9, "the temperature reaches its end"),
        "freeze_codebook_epochs": Change(2, "in proportion to the epochs"),
        "reseed_dead_codes": Change(True, "more codes in use"),
    },
}


def preset(name: str) -> TrainConfig:
    """The settings of a preset: "published" (all defaults), "recommended" or "small".

    Change some of them with `dataclasses.replace`. Raises ConfigError for another name.
    """
    if name not in PRESETS:
        listed = ", ".join(map(repr, get_args(Preset)))
        raise ConfigError(f"preset is {shown(name)}, but must be one of {listed}")
    values: dict[str, Any] = {}
    for setting, change in PRESETS[name].items():
        *groups, last = setting.split(".")
        reduce(lambda group, part: group.setdefault(part, {}), groups, values)[last] = change.value
    return from_dict(TrainConfig, values)
