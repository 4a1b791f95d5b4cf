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
    """What it bought over the published value, with the number. "alone": in runs that differ in nothing else
    (docs/LEARNING.md, single settings), with the 95% interval."""


PRESETS: dict[str, dict[str, Change]] = {
    "published": {},
    # The recipe of docs/LEARNING.md, to start from a pretrained encoder with init_from.
    "recommended": {
        "model.pooling": Change("mean", "alone: accuracy -0.020 (-0.083 to +0.043)"),
        "model.norm_pooled": Change(
            True, "alone: accuracy +0.033 (-0.020 to +0.086), macro-F1 +0.057 (+0.009 to +0.106)"
        ),
        "model.partitioner.start": Change(
            "data", "residues in clusters at step 0: 37% to 47%, instead of 4% to 72%"
        ),
        "model.codebook.size": Change(
            128, "with the next two, by task 73 to 88% of them in use at the end; of the published 512, 41%"
        ),
        "model.codebook.decay": Change(0.9, "codes that follow their clusters (docs/LEARNING.md)"),
        "reseed_dead_codes": Change(True, "codes that nobody chose come back (docs/LEARNING.md)"),
        "dead_code_share": Change(
            0.25, "codes that few chose, too: perplexity at the end 47% and 50%, not 34% and 32%"
        ),
        "data.neighbours": Change(
            16, "with the others 0.72 to 0.78 of a step's time; 30 alone: accuracy +0.008 (-0.040 to +0.056)"
        ),
        "one_schedule": Change(True, "alone: accuracy +0.005 (-0.012 to +0.022)"),
        "stage0.learning_rate": Change(5e-4, "alone, in both stages: accuracy +0.004 (-0.054 to +0.062)"),
        "stage0.epochs": Change(12, "fewer epochs, from a pretrained encoder"),
        "stage0.warmup_epochs": Change(1, "in proportion to the epochs"),
        "stage1.epochs": Change(8, "fewer epochs, from a pretrained encoder"),
        "freeze_codebook_epochs": Change(1, "in proportion to the epochs"),
        "loss.ramp_epochs": Change(2, "in proportion to the epochs"),
        "temperature.decay": Change(0.886, "the temperature reaches its end"),
        "weight_decay": Change(0.05, "alone: accuracy -0.013 (-0.079 to +0.054)"),
        "label_smoothing": Change(0.1, "alone: accuracy -0.002 (-0.012 to +0.007)"),
        "class_balance": Change(0.3, "alone: accuracy -0.001 (-0.049 to +0.047)"),
        "clip_norm": Change(5.0, "alone: accuracy +0.000 (-0.050 to +0.050)"),
    },
    # For a CPU, with the proteins that come with the package.
    "small": {
        "model.node_hidden": Change([32, 8], "speed: an eighth of the parameters"),
        "model.edge_hidden": Change([16, 1], "speed"),
        "model.partitioner.hidden": Change(16, "in proportion to the width"),
        "model.codebook.size": Change(32, "a size that the few clusters fill"),
        "data.neighbours": Change(16, "speed"),
        "data.batch_size": Change(16, "more steps from few proteins"),
        "data.max_shapes": Change(1, "one compilation"),
        "stage0.epochs": Change(16, "a fraction of the published 150 epochs"),
        "stage0.warmup_epochs": Change(1, "in proportion to the epochs"),
        "stage1.epochs": Change(8, "a fraction of the published 150 epochs"),
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
    return from_dict(TrainConfig, changes(name))


def changes(name: str) -> dict[str, Any]:
    """The settings that a preset changes, nested as in YAML."""
    values: dict[str, Any] = {}
    for setting, change in PRESETS[name].items():
        *groups, last = setting.split(".")
        reduce(lambda group, part: group.setdefault(part, {}), groups, values)[last] = change.value
    return values
