"""`partoken convert`: weights of the PyTorch original to a run directory, and back."""

from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from partoken_jax.cli.flags import SHORT, stored_settings
from partoken_jax.config import (
    ConfigError,
    DataConfig,
    ModelConfig,
    TemperatureConfig,
    TrainConfig,
    load_yaml,
)
from partoken_jax.settings import read_yaml
from partoken_jax.training.run_directory import check_checkpoint

Checkpoint = Literal["best", "last"]


def verb(args: list[str]) -> Callable[..., Callable[[], None]]:
    """The flags of `partoken convert ARGS`, as a function that tyro reads."""
    defaults = stored_settings(args[1:]) if args[:1] == ["convert"] else TrainConfig()

    def convert(
        source: Annotated[
            Positional[Path],
            arg(
                help="File of weights (.pt, .pth, .ckpt, .safetensors or .npz), or directory of a run.",
                metavar="SOURCE",
            ),
        ],
        target: Annotated[
            Positional[Path],
            arg(
                help="Directory for the run that a file becomes, or file for the weights of a run.",
                metavar="TARGET",
            ),
        ],
        model: Annotated[
            ModelConfig,
            arg(
                help="The model, as far as the file does not say it. What neither the file, a flag nor "
                "--config says is as published, and the command lists it."
            ),
        ] = defaults.model,
        data: Annotated[
            DataConfig, arg(help="The task, which names the classes, and the proteins to evaluate on later.")
        ] = defaults.data,
        temperature: TemperatureConfig = defaults.temperature,
        config: Annotated[
            Path | None,
            arg(help="YAML file with such settings; flags override what it says.", metavar="FILE"),
        ] = None,
        checkpoint: Annotated[
            Checkpoint,
            arg(
                help="Weights of a run that are written to a file: those of the epoch with the highest "
                'accuracy in validation ("best"), or those of the last epoch ("last").'
            ),
        ] = "best",
        trust_pickle: Annotated[
            bool,
            arg(
                help="Whether to read also a PyTorch file that holds more than weights. Such a file can run "
                "any code that it carries, so switch it on only if you trust whoever made the file."
            ),
        ] = False,
        overwrite: Annotated[
            bool, arg(help="Whether to replace what is at the target. Switch it on to convert once more.")
        ] = False,
    ) -> Callable[[], None]:
        """Turn a file of the PyTorch original's weights into a run directory, or a run into such a file."""
        said = {} if config is None else _said_by_file(config)
        said |= _said_by_flags(args, {"model": model, "data": data, "temperature": temperature})
        return partial(_convert, source, target, said, checkpoint, trust_pickle, overwrite)

    return convert


def _convert(
    source: Path,
    target: Path,
    settings: dict[str, Any],
    checkpoint: Checkpoint,
    trust_pickle: bool,
    overwrite: bool,
) -> None:
    from partoken_jax.convert import export_weights, import_weights

    if not source.is_dir():
        lines = import_weights(
            source, target, settings=settings, trust_pickle=trust_pickle, overwrite=overwrite
        )
    elif settings:
        raise ConfigError(
            f"{source} is a run, which has settings of its own; leave out {', '.join(settings)}"
        )
    else:
        check_checkpoint(source, checkpoint)  # before JAX is imported, which takes long
        lines = export_weights(source, target, checkpoint=checkpoint, overwrite=overwrite)
    print("\n".join(lines))


def _said_by_file(path: Path) -> dict[str, Any]:
    """By dotted name, what a YAML file sets. Raises ConfigError for what it must not."""
    load_yaml(TrainConfig, path)
    return _flat(read_yaml(path))


def _said_by_flags(args: list[str], groups: dict[str, Any]) -> dict[str, Any]:
    """By dotted name, what flags set, a default that was written out included."""
    long = {short: f"--model.{name}" for (cls, name), short in SHORT.items() if cls is ModelConfig}
    said: dict[str, Any] = {}
    for word in args:
        flag = word.partition("=")[0]
        name = long.get(flag, flag).removeprefix("--").replace("-", "_").replace(".no_", ".")
        group, _, rest = name.partition(".")
        if flag.startswith("--") and group in groups:
            said[name] = reduce(lambda values, part: values[part], rest.split("."), groups[group])
    return said


def _flat(values: dict[str, Any], where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{where}{name}.") if isinstance(value, dict) else {f"{where}{name}": value}
    return flat
