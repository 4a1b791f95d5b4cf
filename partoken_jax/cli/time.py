"""`partoken time`: how long both models take, and where the time goes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from partoken_jax.cli.files import check_output_files, save_json
from partoken_jax.cli.flags import checked
from partoken_jax.config import ConfigError, DataConfig, ModelConfig
from partoken_jax.timing_config import TimingConfig

LEFT_OUT = ((ModelConfig, "kind"), (ModelConfig, "num_classes"))
"""Flags that would change nothing: --models and --task decide."""


def verb(args: list[str]) -> Callable[..., Callable[[], None]]:
    """The flags of `partoken time ARGS`, as a function that tyro reads."""
    defaults = TimingConfig()

    def time(
        measured: Annotated[TimingConfig, arg(name="")] = defaults,
        json: Annotated[
            Path | None,
            arg(
                help="File for the results, whose fields experiments/results/README.md describes. It is "
                "written again after every part of them, so that little is lost when a later part fails.",
                metavar="FILE",
            ),
        ] = None,
        markdown: Annotated[
            Path | None, arg(help="File for the report; its plots are written beside it.", metavar="FILE")
        ] = None,
    ) -> Callable[[], None]:
        """Time both models and say where the time goes, component by component."""
        return partial(_time, checked(TimingConfig, measured), json, markdown, " ".join(["partoken", *args]))

    return time


def _time(config: TimingConfig, json_file: Path | None, markdown_file: Path | None, command: str) -> None:
    check_output_files(json_file, markdown_file)
    from partoken_jax.training.data import load_data

    if config.path is not None:  # those that come with the package are good
        load_data(
            DataConfig(path=config.path, task=config.task, split_scheme=config.split_scheme), ("train",)
        )
    import jax

    from partoken_jax import timing

    try:
        result = timing.analyse(config, command=command, save=partial(save_json, json_file))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise ConfigError(
            f"batch_size {config.batch_size} does not fit into the memory of the device; try a smaller one"
        ) from None
    report = timing.markdown(result)
    if markdown_file is not None:
        for part, name, plot in (
            ("breakdown", "components", timing.plot_components),
            ("sweeps", "sweeps", timing.plot_sweeps),
        ):
            if part in result:
                picture = markdown_file.with_name(f"{markdown_file.stem}_{name}.png")
                plot(result, picture)
                report += f"\n![{name}]({picture.name})\n"
        markdown_file.write_text(report)
    print(report)
