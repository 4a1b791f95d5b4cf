"""`partoken train`: a whole run."""

import dataclasses
import os
import shlex
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from partoken_jax.cli.errors import is_mistake
from partoken_jax.cli.files import check_input
from partoken_jax.cli.flags import checked, stored_settings
from partoken_jax.cli.stopping import EXIT_CODE
from partoken_jax.config import ConfigError, TrainConfig
from partoken_jax.presets import Preset
from partoken_jax.training.run_directory import (
    check_checkpoint,
    check_run_dir,
    has_checkpoint,
    with_absolute_paths,
)


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
        preset: Annotated[
            Preset,
            arg(
                help="Settings to begin with, which --config and flags override: those of the paper "
                '("published"), which are the defaults; our recipe for a pretrained encoder ("recommended"); '
                'or a narrow model that a laptop trains in minutes ("small"). docs/guide/train.md says what '
                "they change.",
            ),
        ] = "published",
        coordinator: Annotated[
            str | None,
            arg(
                help="Address of the first of several processes that train together, on one machine or "
                'many, or "auto" for what JAX finds by itself under SLURM, Open MPI and on TPU. Give it to '
                "all of them (docs/guide/devices.md).",
                metavar="HOST:PORT",
            ),
        ] = None,
        num_processes: Annotated[
            int | None, arg(help="How many processes train together; with --coordinator.", metavar="INT")
        ] = None,
        process_id: Annotated[
            int | None, arg(help="Which of them this one is, from 0; with --coordinator.", metavar="INT")
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
        settings = checked(TrainConfig, run)
        if coordinator is None and (num_processes, process_id) != (None, None):
            raise ConfigError("--num-processes and --process-id need --coordinator; give the three together")
        together = None if coordinator is None else (coordinator, num_processes, process_id)
        command = shlex.join(["partoken", *args])
        return partial(_train, settings, together, quiet=quiet, command=command)

    return train


def _train(
    config: TrainConfig,
    together: tuple[str, int | None, int | None] | None,
    stop: threading.Event | None = None,
    *,
    quiet: bool,
    command: str,
) -> None:
    from partoken_jax.pretrained import find_model, model_names
    from partoken_jax.training.data import checked_data

    # Before JAX is imported, which takes long.
    going_on = config.resume and has_checkpoint(config.run_dir)
    if config.init_from in model_names():
        config = dataclasses.replace(config, init_from=str(find_model(config.init_from)))
    source = None if going_on else config.init_from
    check_input(source)
    if source is not None and Path(source).is_dir():
        check_checkpoint(source, "best")
    config = with_absolute_paths(config)
    check_run_dir(config)
    datasets = checked_data(config)

    if together is not None:
        from partoken_jax.training.devices import start_processes

        start_processes(*together)
    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.loop import train

    weights = None
    if source is not None and not Path(source).is_dir():
        from partoken_jax.convert import read_initial_weights
        from partoken_jax.pretrained import model_arrays

        weights = model_arrays(source)
        if weights is None:
            weights = read_initial_weights(source)
    use_compilation_cache()
    run = partial(train, config, quiet=quiet, stop=stop, datasets=datasets, weights=weights, command=command)
    if together is None:
        run()
        return
    import jax

    try:
        run()
    except jax.errors.JaxRuntimeError as error:
        # Not by an exception: at its end jax would wait for the one that is lost.
        reason = str(error).splitlines()[0]
        line = f"another process of the run was lost ({reason[:200]}); the same command with --resume goes on"
        print(line, file=sys.stderr, flush=True)
        os._exit(EXIT_CODE)
    except (OSError, ValueError) as error:
        # Maybe of this process alone, while the others wait for it: again not by an exception.
        if not (isinstance(error, OSError) or is_mistake(error)):
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
