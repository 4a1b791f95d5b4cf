"""`partoken train`: a whole run."""

import shlex
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from partoken_jax.cli.files import check_input
from partoken_jax.cli.flags import checked, stored_settings
from partoken_jax.config import TrainConfig
from partoken_jax.training.run_directory import check_run_dir, with_absolute_paths


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
        quiet: Annotated[
            bool,
            arg(
                help="Whether to print nothing but warnings and errors. Switch it on where nobody reads "
                "along; the results are in the directory of the run all the same."
            ),
        ] = False,
    ) -> Callable[[threading.Event | None], None]:
        """Train a model, evaluate it on the test proteins and write a report. Without flags this is the
        published configuration on the proteins that come with the package."""
        command = shlex.join(["partoken", *args])
        return partial(_train, checked(TrainConfig, run), quiet=quiet, command=command)

    return train


def _train(
    config: TrainConfig,
    stop: threading.Event | None = None,
    *,
    quiet: bool,
    command: str,
) -> None:
    from partoken_jax.training.data import checked_data

    # Before JAX is imported, which takes long.
    check_input(config.data.path)
    check_input(config.init_from)
    config = with_absolute_paths(config)
    check_run_dir(config)
    datasets = checked_data(config)

    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.loop import train

    weights = None
    if config.init_from is not None and not Path(config.init_from).is_dir():
        from partoken_jax.convert import read_initial_weights

        weights = read_initial_weights(config.init_from)
    use_compilation_cache()
    train(config, quiet=quiet, stop=stop, datasets=datasets, weights=weights, command=command)
