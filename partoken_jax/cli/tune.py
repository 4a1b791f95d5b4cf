"""`partoken tune`: which form of the training step is right and fastest on this device."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from partoken_jax.cli.files import check_output_files, save_json
from partoken_jax.cli.flags import checked
from partoken_jax.config import ConfigError, ModelConfig
from partoken_jax.timing_config import TuneConfig

COUNT = ("node_hidden", "edge_hidden", "num_layers", "precision")
LEFT_OUT = [(ModelConfig, field.name) for field in dataclasses.fields(ModelConfig) if field.name not in COUNT]
"""Flags that would change nothing: forms are what is tried, and the encoder is where they differ."""


def verb(args: list[str]) -> Callable[..., Callable[[], None]]:
    """The flags of `partoken tune ARGS`, as a function that tyro reads."""
    defaults = TuneConfig()

    def tune(
        tuned: Annotated[TuneConfig, arg(name="")] = defaults,
        json: Annotated[
            Path | None,
            arg(
                help="File for everything that was measured, whose fields experiments/results/README.md "
                "describes.",
                metavar="FILE",
            ),
        ] = None,
    ) -> Callable[[], None]:
        """Compare and time every way to compute the training step on this device, and keep the fastest that
        is right for later runs, where their settings are "auto"."""
        return partial(_tune, checked(TuneConfig, tuned), json, " ".join(["partoken", *args]))

    return tune


def _tune(config: TuneConfig, json_file: Path | None, command: str) -> None:
    check_output_files(json_file)
    from partoken_jax.timing.tune import tune
    from partoken_jax.training.tuned_forms import store_choice

    found = tune(config, command=command)
    save_json(json_file, found.result)
    if found.form is None:
        raise ConfigError(
            f"no form of the training step could be compared on {found.device}; lower batch_size or residues"
        )
    stored = store_choice(found.device, found.shape, found.form)
    if stored is None:
        print("there is no home directory to keep the choice in; set XDG_CACHE_HOME")
    else:
        print(f"kept for training on this device in {stored}")
