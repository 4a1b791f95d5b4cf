"""Where a run starts from that does not start from random weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from partoken_jax.config import ConfigError, TrainConfig
from partoken_jax.training.checkpoints import restore
from partoken_jax.training.objective import named_arrays
from partoken_jax.training.run_directory import CheckpointError
from partoken_jax.training.state import TrainState

HEAD = "classifier"
OWN_PARTS = {"residues": "residue_head.", "partoken": "fusion."}
"""By kind of model what only it has, and has under all settings; GVP has nothing of its own."""
ENCODER = "encoder."
READS_TYPES = ("encoder.residue_embedding.", "encoder.node_norm.", "encoder.node_gvp.")
"""Parts of the encoder that are of another size, or missing, where the model does not see residue types."""


class InitialWeights(NamedTuple):
    """A fresh state with weights from elsewhere."""

    state: TrainState
    lines: list[str]
    """What there is to say about it."""
    encoder_alone: bool
    """Whether all but the encoder is still random."""


def initial_weights(
    source: str, state: TrainState, weights: Mapping[str, np.ndarray] | None, config: TrainConfig
) -> InitialWeights:
    """A fresh state with the weights of a run, or with `weights`.

    Args:
      source: the directory of a run, whose best checkpoint is taken, or the file that `weights` are from.
      state: the fresh state.
      weights: arrays by dotted names; None where `source` is a directory.
      config: of the run that starts. Where the run in a directory had another number of neighbours or another
        activation, which its weights fit as well, the lines say so.

    A layer of the classifier, and a codebook, of another size stay fresh. Between models of two kinds only
    the encoder is taken, but for the layers that read residue types where one of both sees them and the other
    does not. Raises CheckpointError for a source that is neither, or any other weight that is missing or of
    another shape.
    """
    if weights is None:
        if Path(source).is_file():
            raise ConfigError(
                f"init_from is {source}, a file; read it with partoken_jax.pretrained.model_arrays (a model) "
                "or partoken_jax.convert.read_initial_weights (weights of the original) and pass it as "
                "`weights`"
            )
        restored = restore(source, "best")
        weights = named_arrays(restored.state.params, restored.state.codebook)
        taken = initial_weights(source, state, weights, config)
        return taken._replace(lines=taken.lines + _other_inputs(restored.config, config))
    here = named_arrays(state.params, state.codebook)
    if _kind(weights) != _kind(here):
        return _with_encoder(source, state, weights)
    fresh: list[str] = []
    problems: list[str] = []
    started = state._replace(
        params=_filled(state.params, weights, (HEAD,), fresh, problems),
        codebook=_filled(state.codebook, weights, ("codebook",), fresh, problems),
    )
    _refuse(source, problems)
    lines = [f"weights from {source}"]
    if fresh:
        lines.append(f"not there, or of another size, so they start fresh: {', '.join(fresh)}")
    return InitialWeights(started, lines, encoder_alone=False)


def _other_inputs(there: TrainConfig, here: TrainConfig) -> list[str]:
    """What the weights were trained with and this run does otherwise, though they fit it."""
    pairs = {
        "data.neighbours": (there.data.neighbours, here.data.neighbours),
        "model.output_activation": (there.model.output_activation, here.model.output_activation),
    }
    return [
        f"the weights were trained with {name} {old}, but this run has {new}; set it as it was there"
        for name, (old, new) in pairs.items()
        if old != new
    ]


def _with_encoder(source: str, state: TrainState, weights: Mapping[str, np.ndarray]) -> InitialWeights:
    """The state with the encoder of another model, and nothing else of it."""
    here = named_arrays(state.params)
    seen_there, seen_here = (
        any(name.startswith(READS_TYPES[0]) for name in names) for names in (weights, here)
    )
    rest = tuple({f"{name.split('.')[0]}." for name in here} - {ENCODER})
    fresh: list[str] = []
    problems: list[str] = []
    left = () if seen_there == seen_here else READS_TYPES
    taken = {n: array for n, array in weights.items() if n.startswith(ENCODER) and not n.startswith(left)}
    params = _filled(state.params, taken, (*rest, *left), fresh, problems)
    _refuse(source, problems)
    lines = [f"encoder from {source}"]
    if seen_there != seen_here:
        does = "did, and this one does not" if seen_there else "did not, and this one does"
        lines.append(f"the model there {does} see residue types, so what reads them starts fresh")
    parts = dict.fromkeys(".".join(name.split(".")[: 1 + name.startswith(ENCODER)]) for name in fresh)
    parts |= dict.fromkeys(str(path[0]) for path, _ in nnx.to_flat_state(state.codebook))
    lines.append(f"starts fresh: {', '.join(parts)}")
    return InitialWeights(state._replace(params=params), lines, encoder_alone=True)


def _kind(weights: Mapping[str, np.ndarray]) -> str:
    """Which kind of model the weights are of."""
    return next(
        (kind for kind, part in OWN_PARTS.items() if any(name.startswith(part) for name in weights)), "gvp"
    )


def _filled(
    part: nnx.State,
    weights: Mapping[str, np.ndarray],
    may_differ: tuple[str, ...],
    fresh: list[str],
    problems: list[str],
) -> nnx.State:
    """The part with the weights of its names. Those that are missing or do not fit are added to `fresh` where
    they begin with one of `may_differ`, otherwise to `problems`, in words."""
    found = []
    for path, variable in nnx.to_flat_state(part):
        name = ".".join(map(str, path))
        value = weights.get(name)
        if value is not None and value.shape == variable.shape:
            variable = variable.replace(jnp.array(value, variable.dtype))
        elif name == "codebook.uses":
            pass  # counted anew, and no array of the original's
        elif name.startswith(may_differ):
            fresh.append(name)
        else:
            problems.append(
                f"{name} is missing" if value is None
                else f"{name} is {value.shape}, expected {variable.shape}"
            )  # fmt: skip
        found.append((path, variable))
    return nnx.from_flat_state(found)


def _refuse(source: str, problems: list[str]) -> None:
    if problems:
        shown = "; ".join(problems[:5]) + (f" and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(
            f"{source}: its weights do not fit the model of this run: {shown}; set the model as it was there"
        )
