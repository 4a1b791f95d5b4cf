"""`partoken train`: a whole run."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from partoken_jax.cli.flags import checked, stored_settings
from partoken_jax.config import TrainConfig


def verb(args: list[str]) -> Callable[..., Callable[[threading.Event | None], None]]:
    """The flags of `partoken train ARGS`, as a function that tyro reads."""
    defaults = stored_settings(args[1:]) if args[:1] == ["train"] else TrainConfig()

    def train(
        run: Annotated[TrainConfig, arg(name="")] = defaults,
        config: Annotated[
            Path | None,
            arg(
                help="YAML file with settings; flags override what it says. The config.yaml in the directory "
                "of a run is such a file.",
                metavar="FILE",
            ),
        ] = None,
    ) -> Callable[[threading.Event | None], None]:
        """Train a model, evaluate it on the test proteins and write a report. Without flags this is the
        published configuration on the proteins that come with the package."""
        return partial(_train, checked(TrainConfig, run))

    return train


def _train(config: TrainConfig, stop: threading.Event | None = None) -> None:
    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.loop import train

    weights = None
    if config.init_from is not None and not Path(config.init_from).is_dir():
        from partoken_jax.convert import read_initial_weights

        weights = read_initial_weights(config.init_from)
    use_compilation_cache()
    train(config, stop=stop, weights=weights)
