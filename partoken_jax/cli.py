"""The `partoken` command. Thin: every verb is one call into the library.

JAX is imported by the verbs, so that --help and mistakes answer at once.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import sys
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from partoken_jax.config import (
    ConfigError,
    DataConfig,
    ModelConfig,
    Precision,
    Task,
    TemperatureConfig,
    TimingConfig,
    TrainConfig,
    load_yaml,
)


def main(args: list[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0, 2 for a mistake (one sentence on stderr), 130 on Ctrl-C."""
    words = sys.argv[1:] if args is None else args
    try:
        parse(words)()
    except OSError as error:
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except ValueError as error:
        if not isinstance(error, _user_errors()):
            raise  # a fault of ours keeps its traceback
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resume = "; after a whole epoch `partoken train --resume` with the same --run-dir goes on"
        print("interrupted" + (resume if words[:1] == ["train"] else ""), file=sys.stderr)
        return 130
    return 0


def parse(args: list[str]) -> Callable[[], None]:
    """The call that a command line stands for.

    Raises ConfigError for settings that cannot be used; exits with code 2 for flags that do not exist.
    """
    defaults = _defaults(args)

    def train(
        run: Annotated[TrainConfig, tyro.conf.arg(name="")] = defaults,
        config: Path | None = None,
        model: Annotated[Literal["gvp", "partoken"] | None, tyro.conf.arg(name="model")] = None,
    ) -> Callable[[], None]:
        """Train a model, evaluate it on the test proteins and write a report.

        Args:
          run: Settings of the run.
          config: YAML file with settings; flags override it. With --resume, the run's own config.yaml
            is the default.
          model: Short for --model.kind.
        """
        if model is not None:
            run = dataclasses.replace(run, model=dataclasses.replace(run.model, kind=model))
        return partial(_train, run)

    def evaluate(
        run_dir: tyro.conf.Positional[Path],
        split: Literal["train", "val", "test"] = "test",
        checkpoint: Literal["best", "last"] = "best",
        data: Path | None = None,
    ) -> Callable[[], None]:
        """Evaluate a checkpoint of a run and write RUN_DIR/evaluation_<split>.json.

        Args:
          run_dir: Directory of the run.
          split: Proteins to evaluate on.
          checkpoint: Highest validation accuracy, or the end of the run.
          data: Another .npz file than the run's own.
        """
        return partial(_evaluate, run_dir, split, checkpoint, data)

    def params(num_classes: int = 2) -> Callable[[], None]:
        """Print the trainable parameters of both models, component by component.

        Args:
          num_classes: Classes that the models tell apart.
        """
        return partial(_params, num_classes)

    def time(
        models: str = "gvp,partoken",
        batch_size: int = 16,
        residues: int | None = None,
        passes: str = "forward,forward_backward,train_step",
        repeats: int = 10,
        neighbours: int = 30,
        precision: Precision = "float32",
        data: Path | None = None,
        task: Task = "ec-class",
        epoch_batches: int | None = None,
        gap: bool = True,
        sweeps: str = "",
        seed: int = 0,
        json: Path | None = None,
        markdown: Path | None = None,
    ) -> Callable[[], None]:
        """Time both models and say where the time goes, component by component.

        Args:
          models: gvp, partoken, or both with a comma between.
          batch_size: Proteins per step.
          residues: Length of synthetic proteins; without it, real ones.
          passes: Any of forward, forward_backward, train_step and epoch, with commas between.
          repeats: Timed runs of every program.
          neighbours: Nearest CA atoms per residue.
          precision: Of products.
          data: A .npz with the real proteins; without it, the embedded set.
          task: Which of them take part.
          epoch_batches: Cut the epoch pass to so many batches.
          gap: Also time models that grow from the baseline to ParToken part by part.
          sweeps: How the training step scales, and what settings cost: any of batch, length, clusters,
            rematerialisation, backward, precision and plain, with commas between.
          seed: Of weights and batches.
          json: File for the results (fields: docs/TIMING.md); written again after every part of them.
          markdown: File for the report; plots are written beside it.
        """
        config = TimingConfig(
            models=_listed(models),
            passes=_listed(passes),
            batch_size=batch_size,
            residues=residues,
            path=None if data is None else str(data),
            task=task,
            neighbours=neighbours,
            repeats=repeats,
            epoch_batches=epoch_batches,
            gap=gap,
            sweeps=_listed(sweeps),
            model=ModelConfig(precision=precision),
            seed=seed,
        )
        return partial(_time, config, json, markdown, " ".join(["partoken", *args]))

    def convert(
        source: tyro.conf.Positional[Path],
        target: tyro.conf.Positional[Path],
        model: ModelConfig = defaults.model,
        data: DataConfig = defaults.data,
        temperature: TemperatureConfig = defaults.temperature,
        config: Path | None = None,
        checkpoint: Literal["best", "last"] = "best",
        trust_pickle: bool = False,
        overwrite: bool = False,
    ) -> Callable[[], None]:
        """Turn a file of the PyTorch original's weights into a run directory, or a run into such a file.

        Args:
          source: File (.pt, .pth, .ckpt, .safetensors or .npz) or directory of a run.
          target: Directory of a run, or file.
          model: What a file does not say of the model.
          data: The task, for the names of the classes, and the proteins to evaluate on.
          temperature: Of the partitioner, by epoch.
          config: YAML file with such settings; flags override it.
          checkpoint: Of the run that is written to a file.
          trust_pickle: Read a PyTorch file that holds more than weights, which can run any code it carries.
          overwrite: Replace the target.
        """
        settings = _listed_settings(config, args, {"model": model, "data": data, "temperature": temperature})
        return partial(_convert, source, target, settings, checkpoint, trust_pickle, overwrite)

    verbs: dict[str, Callable[..., Any]] = {
        "train": train,
        "evaluate": evaluate,
        "params": params,
        "time": time,
        "convert": convert,
    }
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            return tyro.extras.subcommand_cli_from_dict(
                verbs,
                prog="partoken",
                description="Train, evaluate, time and convert GVP and ParToken on protein structures.",
                args=args,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as exit_:
        # tyro turns errors of our settings into a box of its own; say them as we say all others.
        if (error := _cause(exit_, ConfigError)) is not None:
            raise error from None
        sys.stderr.write(complaints.getvalue())
        raise


def _train(config: TrainConfig) -> None:
    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.loop import train

    use_compilation_cache()
    train(config)


def _evaluate(run_dir: Path, split, checkpoint, data: Path | None) -> None:
    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.evaluate import evaluate
    from partoken_jax.training.report import classification_table, clustering_summary

    use_compilation_cache()
    report = evaluate(run_dir, split=split, checkpoint=checkpoint, data=None if data is None else str(data))
    print(f"{run_dir}: {checkpoint} checkpoint (epoch {report['epoch']}) on {report['data']}, {split}")
    if report["cropped"]:
        print(f"{len(report['cropped'])} proteins cropped: {', '.join(report['cropped'][:10])}")
    print(classification_table(report["scores"]["classification"]))
    if (clusters := report["scores"]["clustering"]) is not None:
        print(clustering_summary(clusters))


def _convert(
    source: Path, target: Path, settings: dict[str, Any], checkpoint, trust_pickle: bool, overwrite: bool
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
        lines = export_weights(source, target, checkpoint=checkpoint, overwrite=overwrite)
    print("\n".join(lines))


def _listed_settings(config: Path | None, args: list[str], groups: dict[str, Any]) -> dict[str, Any]:
    """By dotted name, what a YAML file and the flags set, and nothing that is a default."""
    settings: dict[str, Any] = {}
    if config is not None:
        load_yaml(TrainConfig, config)  # says what is wrong with it
        settings = _flat(yaml.safe_load(config.read_text()) or {})
    for arg in args:
        name = arg.removeprefix("--").partition("=")[0].replace("-", "_").replace(".no_", ".")
        group, _, rest = name.partition(".")
        if arg.startswith("--") and group in groups:
            settings[name] = reduce(getattr, rest.split("."), groups[group])
    return settings


def _flat(values: dict, where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{where}{name}.") if isinstance(value, dict) else {f"{where}{name}": value}
    return flat


def _time(config: TimingConfig, json_file: Path | None, markdown_file: Path | None, command: str) -> None:
    import jax

    from partoken_jax import timing

    _check_files(json_file, markdown_file)
    try:
        result = timing.analyse(config, command=command, save=partial(_save, json_file))
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


def _check_files(*paths: Path | None) -> None:
    """A mistake in where results go must not cost the measurement."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no directory {path.parent}; make it first")
        if path is not None and path.is_dir():
            raise ConfigError(f"{path}: is a directory; name a file in it")


def _save(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _params(num_classes: int) -> None:
    from flax import nnx

    from partoken_jax.config import ModelConfig
    from partoken_jax.models import build_model, parameter_table

    for kind in ("gvp", "partoken"):
        config = ModelConfig(kind=kind, num_classes=num_classes)
        rows = parameter_table(nnx.eval_shape(lambda config=config: build_model(config, rngs=nnx.Rngs(0))))
        print(f"{kind}, {num_classes} classes")
        for component, count in rows:
            print(f"  {component:<28}{count:>9,}")


def _defaults(args: list[str]) -> TrainConfig:
    """What flags are measured against: --config, else the stored settings of a run to resume."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--run-dir", "--run_dir", type=Path)
    first.add_argument("--resume", action="store_true")
    if args[:1] not in (["train"], ["convert"]):
        return TrainConfig()
    known, _ = first.parse_known_args(args[1:])
    if known.config is not None:
        return load_yaml(TrainConfig, known.config)
    if args[:1] == ["convert"]:
        return TrainConfig()
    stored = (known.run_dir or Path(TrainConfig.run_dir)) / "config.yaml"
    return load_yaml(TrainConfig, stored) if known.resume and stored.is_file() else TrainConfig()


def _user_errors() -> tuple[type[ValueError], ...]:
    from partoken_jax.convert import ConvertError
    from partoken_jax.proteins import DataError
    from partoken_jax.training.checkpoints import CheckpointError
    from partoken_jax.training.epochs import TrainingError

    return ConfigError, ConvertError, DataError, CheckpointError, TrainingError


def _cause(error: BaseException, kind: type[ConfigError]) -> ConfigError | None:
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, kind):
        seen = seen.__context__
    return seen


if __name__ == "__main__":
    sys.exit(main())
