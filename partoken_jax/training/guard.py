"""What the host does about a training step that is not finite: it says so, saves it, and runs it again.

The compiled step itself keeps its state (`step.apply_gradients`); the host hears of it `epochs.LAG` steps
later.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from partoken_jax.config import ConfigError, TrainConfig, from_dict, to_dict
from partoken_jax.graphs.types import NeighbourEdges, PackedGraph, ProteinGlobals, ResidueNodes
from partoken_jax.training.devices import is_first_process
from partoken_jax.training.epochs import TakenStep, TrainingError
from partoken_jax.training.examination import Finding, examine, first_offender
from partoken_jax.training.objective import LossWeights
from partoken_jax.training.report import environment
from partoken_jax.training.schedules import StepSettings
from partoken_jax.training.state import TrainState, abstract_state
from partoken_jax.training.step import make_train_step
from partoken_jax.training.step_file import FORMAT, StepAbout, read_step_file, write_step_file

MAX_FILES = 3
"""Files of a run that skips steps; a run that stops always writes its one."""
SHOWN = 5
"""Proteins that a message names."""


def non_finite_step(
    taken: TakenStep,
    state: TrainState,
    *,
    config: TrainConfig,
    graphdef: nnx.GraphDef,
    bypass_codebook: bool,
    description: str,
    num_steps: int,
    name_of: Callable[[int], str],
    whole_batch: Callable[[int], PackedGraph] | None = None,
) -> None:
    """Saves and reports a step that was not finite: a warning where the run skips it.

    Args:
      taken: the step.
      state: the newest one; where the run stops, that is the one before the step.
      config: of the run.
      graphdef, bypass_codebook: as for `make_train_step`.
      description: stage and epoch in words.
      num_steps: steps of the epoch.
      name_of: the name of a training protein by its number.
      whole_batch: the batch of a step of the epoch, by its number; None where `taken` holds it, and not the
        shards of it.

    Raises TrainingError where the run stops.
    """
    graph = jax.device_get(taken.graph if whole_batch is None else whole_batch(taken.number))
    stop = config.non_finite == "stop"
    before = state if stop else taken.before
    # A copy, so that what follows concerns one device of one process alone.
    data = jax.device_get(before._replace(key=jax.random.key_data(before.key)))
    state = jax.tree.map(jnp.array, data)
    state = state._replace(key=jax.random.wrap_key_data(state.key), stopped=jnp.bool_(False))
    path = Path(config.run_dir) / f"non_finite_step_{int(state.step) + 1}.npz"
    names = [name_of(int(number)) if number >= 0 else "" for number in graph.globals.protein[:-1]]
    said = f"{description}: {_values(taken)} at step {taken.number + 1} of {num_steps}"
    batch = f"the batch holds {_listed([name for name in names if name])}"
    if not stop and len(list(path.parent.glob("non_finite_step_*.npz"))) >= MAX_FILES:
        warnings.warn(
            f"{said}; the step is skipped; {batch}; it is not saved, because {path.parent} holds {MAX_FILES} "
            "such steps already",
            stacklevel=2,
        )
        return
    offender = first_offender(
        examine(
            graphdef,
            state,
            graph,
            taken.settings,
            bypass_codebook=bypass_codebook,
            label_smoothing=config.label_smoothing,
            freeze_encoder=config.freeze_encoder,
        )
    )
    about = StepAbout(
        format=FORMAT,
        config=to_dict(config),
        bypass_codebook=bypass_codebook,
        where=f"{description}, step {taken.number + 1} of {num_steps}",
        proteins=names,
        loss=float(taken.metrics.losses.total),
        gradient_norm=float(taken.metrics.gradient_norm),
        component=offender.component if offender else "",
        environment={"partoken_jax": version("partoken_jax"), **environment()},
    )
    arrays = {
        **_named("state/", state._replace(key=jax.random.key_data(state.key))),
        **_named("batch/", graph),
        **_named("settings/", taken.settings),
    }
    try:
        if is_first_process():
            write_step_file(path, arrays, about)
        saved = f"`partoken replay {path}` shows the step again"
    except OSError as error:
        saved = f"{path} could not be written ({error.strerror or error})"
    where = f"first not finite: {_place(offender, names)}" if offender else "computed again, all is finite"
    sentence = f"{said}; {where}; {batch}; {saved}"
    if stop:
        raise TrainingError(f"{sentence}; {_remedy(offender)}")
    warnings.warn(f"{sentence}; the step is skipped", stacklevel=2)


class Replay(NamedTuple):
    """A step that was run again."""

    about: StepAbout
    loss: float
    gradient_norm: float
    finite: bool
    findings: list[Finding]
    """Every part of the step, in order."""

    @property
    def offender(self) -> str:
        """The first part that is not finite, in words; empty where there is none."""
        found = first_offender(self.findings)
        return _place(found, self.about["proteins"]) if found else ""


def replay(path: str | Path) -> Replay:
    """Runs the step of a file again.

    Raises ConfigError for a file that holds none, or one of another version.
    """
    arrays, about = read_step_file(path)
    try:
        config = from_dict(TrainConfig, about["config"])
        graphdef, abstract = abstract_state(config)
        abstract = abstract._replace(key=jax.eval_shape(jax.random.key_data, abstract.key))
        state = _filled("state/", abstract, arrays)
        graph = _filled("batch/", _batch("batch/receivers" in arrays), arrays)
        weighted = 0 if "settings/class_weights" in arrays else None
        empty: Any = StepSettings(0, 0, LossWeights(0, 0, 0), 0, weighted)  # type: ignore[arg-type]
        settings = _filled("settings/", empty, arrays)
    except (ConfigError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{path}: the step in it does not fit this version of partoken_jax ({error}); replay it with the "
            f"version that saved it ({about['environment'].get('partoken_jax', 'unknown')})"
        ) from None
    state = state._replace(key=jax.random.wrap_key_data(jnp.asarray(state.key)))
    bypass = about["bypass_codebook"]
    findings = examine(
        graphdef,
        state,
        graph,
        settings,
        bypass_codebook=bypass,
        label_smoothing=config.label_smoothing,
        freeze_encoder=config.freeze_encoder,
    )
    step = make_train_step(
        graphdef,
        bypass_codebook=bypass,
        label_smoothing=config.label_smoothing,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        non_finite=config.non_finite,
        freeze_encoder=config.freeze_encoder,
    )
    _, metrics = step(jax.tree.map(jnp.array, state), graph, settings)
    return Replay(
        about=about,
        loss=float(metrics.losses.total),
        gradient_norm=float(metrics.gradient_norm),
        finite=bool(metrics.finite),
        findings=findings,
    )


def _values(taken: TakenStep) -> str:
    loss, norm = float(taken.metrics.losses.total), float(taken.metrics.gradient_norm)
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm):
        return f"the norm of the gradients is {norm}"
    return f"the learning rate is {float(taken.settings.learning_rate)}"


def _place(offender: Finding, names: Sequence[str]) -> str:
    return offender.component + (f" of protein {names[offender.slot]}" if offender.slot >= 0 else "")


def _remedy(offender: Finding | None) -> str:
    if offender and offender.component.startswith(("coordinates", "features")):
        return "look at the coordinates of this protein and leave it out, or skip such batches with "
        "--non-finite skip"
    return (
        "try a lower learning rate, or go on with --resume and --clip-norm (a largest norm of the gradients) "
        "or --non-finite skip (such steps are left out)"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} protein{'s' if len(names) > 1 else ''} ({', '.join(names[:SHOWN])}{more})"


def _named(prefix: str, tree: Any) -> dict[str, np.ndarray]:
    return {f"{prefix}{_path(path)}": np.asarray(x) for path, x in jax.tree.leaves_with_path(tree)}


def _filled(prefix: str, tree: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The tree with the arrays of its paths. Raises KeyError or ValueError where they do not fit."""

    def fill(path: Any, wanted: Any) -> np.ndarray:
        found = arrays[f"{prefix}{_path(path)}"]
        if hasattr(wanted, "shape") and (wanted.shape, wanted.dtype) != (found.shape, found.dtype):
            raise ValueError(f"{prefix}{_path(path)} is {found.dtype}{found.shape}, not {wanted}")
        return found

    return jax.tree.map_with_path(fill, tree)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _batch(has_receivers: bool) -> PackedGraph:
    """The structure of a packed batch."""
    return PackedGraph(
        nodes=ResidueNodes(*range(len(ResidueNodes._fields))),  # type: ignore[arg-type]
        edges=NeighbourEdges(0),  # type: ignore[arg-type]
        globals=ProteinGlobals(*range(len(ProteinGlobals._fields))),  # type: ignore[arg-type]
        senders=0,  # type: ignore[arg-type]
        receivers=0 if has_receivers else None,  # type: ignore[arg-type]
        n_node=0,  # type: ignore[arg-type]
        n_edge=0,  # type: ignore[arg-type]
    )
