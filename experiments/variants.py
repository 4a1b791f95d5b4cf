"""The runs of `experiments.does_it_pay`: every variant of the model, task and seed, made from one place.

    python -m experiments.variants --configs runs/pays/configs --runs runs/pays --epochs 30

writes CONFIGS/TASK/VARIANT/seedN.yaml and prints, one line per run, the command that trains it into
RUNS/TASK/VARIANT/seedN. Everything but the model is the same in all variants of a task.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.flags import Flags, count, run_script
from partoken_jax.config import StageConfig, TrainConfig, from_dict, save_yaml, to_dict
from partoken_jax.settings import read_yaml

TASKS = ("ec-class", "cath-architecture", "cath-class")
VARIANTS: dict[str, dict[str, Any]] = {
    "gvp": {"kind": "gvp"},
    # As many parameters as ParToken: 252 fewer of 706,414 with 7 classes, 1,072 more of 708,424 with 17.
    "gvp-wide": {"kind": "gvp", "node_hidden": [118, 18]},
    "partoken-whole": {"partitioner": {"kind": "whole"}},
    "partoken-random": {"partitioner": {"kind": "random"}},
    "partoken-published": {},
    "partoken-recommended": {},
    "gvp-recommended": {"kind": "gvp"},
}
"""The settings of the model in which each differs from the published ParToken. The recommended ones also have
those of the file with the recommended recipe: GVP too, because a recipe that helps both says nothing about
clusters and codes."""
NAMES = {
    "gvp": "GVP",
    "gvp-wide": "GVP, as many parameters as ParToken",
    "partoken-whole": "ParToken without partition",
    "partoken-random": "ParToken, random clusters",
    "partoken-published": "ParToken as published",
    "partoken-recommended": "ParToken, recommended recipe",
    "gvp-recommended": "GVP, recommended recipe",
}
BOTTOM = 0.3
"""Share of the published 150 epochs after which the temperature is at its lowest."""


def schedule(config: TrainConfig, epochs: int) -> TrainConfig:
    """The published schedule of 120 + 30 epochs, with everything in it shortened alike to `epochs` in all.

    Raises ConfigError where that leaves nothing of a stage.
    """
    share = epochs / (config.stage0.epochs + config.stage1.epochs)
    second = max(2, round(share * config.stage1.epochs))

    def stage(old: StageConfig, length: int) -> StageConfig:
        return dataclasses.replace(old, epochs=length, warmup_epochs=length * old.warmup_epochs / old.epochs)

    return dataclasses.replace(
        config,
        stage0=stage(config.stage0, epochs - second),
        stage1=stage(config.stage1, second),
        loss=dataclasses.replace(config.loss, ramp_epochs=max(1, round(share * config.loss.ramp_epochs))),
        temperature=dataclasses.replace(
            config.temperature, decay=config.temperature.final ** (1 / max(BOTTOM * epochs, 1))
        ),
        freeze_codebook_epochs=max(1, round(share * config.freeze_codebook_epochs)),
    )


def variant_config(
    task: str,
    variant: str,
    seed: int,
    *,
    runs: Path,
    epochs: int,
    common: Any = None,
    recommended: Any = None,
) -> TrainConfig:
    """The settings of one run.

    Args:
      task, variant, seed: which one; the variant is a key of `VARIANTS`.
      runs: folder of all runs.
      epochs: of both stages together.
      common: settings that all variants share (nested, as in YAML), such as those of the data.
      recommended: settings of the recommended recipe, for the variants that are called so.

    Raises ConfigError for settings that do not exist or do not fit.
    """
    base = to_dict(schedule(TrainConfig(), epochs))
    extra = (recommended or {}) if variant.endswith("recommended") else {}
    where = {"run_dir": str(runs / task / variant / f"seed{seed}"), "seed": seed, "data": {"task": task}}
    return from_dict(TrainConfig, _over(base, {"model": VARIANTS[variant]}, common or {}, extra, where))


def _over(settings: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with others put over them, in turn."""
    for other in others:
        settings = settings | {
            name: _over(settings[name], value) if isinstance(value, dict) and name in settings else value
            for name, value in other.items()
        }
    return settings


def write_configs(
    folder: Path,
    runs: Path,
    tasks: Sequence[str],
    seeds: Sequence[int],
    epochs: int,
    common: Any,
    recommended: Any,
) -> list[str]:
    """Writes the settings of every run and returns the commands. Without a recommended recipe its variants
    are left out."""
    commands = []
    for task in tasks:
        for seed in seeds:  # of one seed all variants, so that whatever is finished is paired
            for variant in VARIANTS:
                if variant.endswith("recommended") and recommended is None:
                    continue
                config = variant_config(
                    task, variant, seed, runs=runs, epochs=epochs, common=common, recommended=recommended
                )
                path = folder / task / variant / f"seed{seed}.yaml"
                path.parent.mkdir(parents=True, exist_ok=True)
                save_yaml(config, path)
                commands.append(f"partoken train --config {path} --resume")
    return commands


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--configs", type=Path, required=True, help="Folder for the settings.")
    flags.add_argument("--runs", type=Path, required=True, help="Folder that the runs will go to.")
    flags.add_argument("--tasks", default=",".join(TASKS), help="Tasks, with commas between them.")
    flags.add_argument("--seeds", type=count, default=3, help="Number of seeds: 0, 1, ...")
    flags.add_argument("--epochs", type=count, default=150, help="Epochs of every run, both stages together.")
    flags.add_argument("--common", type=Path, help="YAML with settings that all runs share.")
    flags.add_argument("--recommended", type=Path, help="YAML with the settings of the recommended recipe.")
    args = flags.parse_args()
    common, recommended = (
        None if path is None else read_yaml(path) for path in (args.common, args.recommended)
    )
    tasks, seeds = args.tasks.split(","), range(args.seeds)
    commands = write_configs(args.configs, args.runs, tasks, seeds, args.epochs, common, recommended)
    print("\n".join(commands))


if __name__ == "__main__":
    run_script(main)
