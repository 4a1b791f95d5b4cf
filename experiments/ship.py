"""Puts the model of a run into the package, with its card.

    python -m experiments.ship runs/architecture --name cath-architecture

Writes partoken_jax/pretrained/NAME.safetensors (the best checkpoint), experiments/results/models/NAME.json
(all that was measured of it) and, from these, docs/models/NAME.md and the other documents. A new card is to
be named in the `nav` of mkdocs.yml. Probabilities are calibrated on validation, which changes no prediction.
The model computes in float32, whatever it was trained in.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax

from experiments import docs
from experiments.flags import Flags, run_script
from experiments.model_card import MODELS, logits_and_labels, measure
from partoken_jax.config import ConfigError, TrainConfig
from partoken_jax.pretrained import write_model
from partoken_jax.pretrained.load import BOX
from partoken_jax.progress import say
from partoken_jax.training.calibration import fit_temperature
from partoken_jax.training.checkpoints import restore
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.evaluate import evaluate_model
from partoken_jax.training.report import accuracy_with_interval, environment
from partoken_jax.training.run_directory import check_checkpoint
from partoken_jax.training.state import abstract_state
from partoken_jax.training.trained import TrainedModel, trained_run

MAX_BYTES = 6_000_000
"""Of a model in the package."""


def ship(
    run_dir: str | Path, name: str, *, data: str | None = None, box: Path = BOX, results: Path = MODELS
) -> dict[str, Any]:
    """Writes the file of the model and what was measured of it, which it returns.

    Args:
      data: file of the run's proteins, if it has moved.
      box, results: directories of the two.

    Raises ConfigError for a name that is none, or a model too large for the package, and else as `evaluate`.
    """
    if not re.fullmatch("[a-z][a-z0-9-]*", name):
        raise ConfigError(f"name is {name!r}, but must be lower-case letters, digits and dashes")
    trained = in_float32(trained_run(run_dir))
    if (
        size := sum(array.nbytes for array in jax.tree.leaves((trained.params, trained.codebook)))
    ) > MAX_BYTES:
        raise ConfigError(
            f"{run_dir}: its model takes {size:,} bytes, but the package takes {MAX_BYTES:,} at most; train "
            "a narrower one"
        )
    validation, test = (evaluate_model(trained, split=split, data=data) for split in ("val", "test"))
    model = dataclasses.replace(
        trained,
        source=name,
        config=without_places(trained.config, name),
        calibration=fit_temperature(*logits_and_labels(validation)),
        training={key: value for key, value in trained.training.items() if key != "command"},
    )
    shown = Path(run_dir).name if Path(run_dir).is_absolute() else run_dir
    path = box / f"{name}.safetensors"
    write_model(path, model)
    result = {
        "schema": "partoken.model_card/1",
        "command": f"python -m experiments.ship {shown} --name {name}",
        "environment": environment(),
        "bytes": path.stat().st_size,
        "ancestry": ancestry(trained.config),
        **measure(model, validation, test, data if data is not None else trained.config.data.path),
    }
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def in_float32(trained: TrainedModel) -> TrainedModel:
    """The same weights, computed with in float32 as on any user's CPU; what they were trained in is noted."""
    model = dataclasses.replace(trained.config.model, precision="float32")
    config = dataclasses.replace(trained.config, model=model)
    return dataclasses.replace(
        trained,
        config=config,
        graphdef=abstract_state(config)[0],
        training={**trained.training, "precision": trained.config.model.precision},
    )


def ancestry(config: TrainConfig) -> list[str]:
    """The runs that a run's weights went through before it, the last one first."""
    found: list[str] = []
    source = config.init_from
    while source is not None and Path(source).is_dir():
        before = restore(source, "best")
        model, task = before.config.model.kind, before.config.data.task
        found.append(f"epoch {before.meta['epoch']} of a run of {model} on {task}, seed {before.config.seed}")
        source = before.config.init_from
    return found if source is None else [*found, Path(source).name]


def without_places(config: TrainConfig, name: str) -> TrainConfig:
    """Settings without the paths of the machine that trained: they mean nothing elsewhere."""
    path = config.data.path
    return dataclasses.replace(
        config,
        run_dir=f"runs/{name}",
        init_from=None if config.init_from is None else Path(config.init_from).name,
        data=dataclasses.replace(config.data, path=None if path is None else Path(path).name),
    )


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="Directory of the run.")
    flags.add_argument("--name", required=True, help="What the model is called, as in `load_model(NAME)`.")
    flags.add_argument("--data", help="File of the run's proteins, if it has moved.")
    args = flags.parse_args()
    check_checkpoint(args.run_dir, "best")
    use_compilation_cache()
    result = ship(args.run_dir, args.name, data=args.data)
    for path, text in docs.texts().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    after, scores = result["calibration"]["test"]["after"], result["test"]["classification"]
    say(f"{args.name}: {result['bytes']:,} bytes, test accuracy {accuracy_with_interval(scores)}")
    say(f"calibration error on test {after['ece_10']:.3f}; see docs/models/{args.name}.md")


if __name__ == "__main__":
    run_script(main)
