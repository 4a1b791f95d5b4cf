"""Where a run starts from that does not start from random weights."""

from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from partoken_jax.config import ConfigError
from partoken_jax.training.checkpoints import restore
from partoken_jax.training.objective import named_arrays
from partoken_jax.training.run_directory import CheckpointError
from partoken_jax.training.step import TrainState

HEAD = "classifier"


def initial_weights(
    source: str, state: TrainState, weights: Mapping[str, np.ndarray] | None
) -> tuple[TrainState, list[str]]:
    """A fresh state with the weights of a run, or with `weights`, and what there is to say about it.

    Args:
      source: the directory of a run, whose best checkpoint is taken, or the file that `weights` are from.
      state: the fresh state.
      weights: arrays by dotted names; None where `source` is a directory.

    A layer of the classifier, and a codebook, of another size stay fresh. Raises CheckpointError for a source
    that is neither, or any other weight that is missing or of another shape.
    """
    if weights is None:
        if Path(source).is_file():
            raise ConfigError(
                f"init_from is {source}, a file; read it with partoken_jax.convert.read_initial_weights and "
                "pass it as `weights`, or convert it to a run with `partoken convert`"
            )
        restored = restore(source, "best").state
        weights = named_arrays(restored.params, restored.codebook)
    fresh: list[str] = []
    problems: list[str] = []

    def filled(part: nnx.State, may_differ: tuple[str, ...]) -> nnx.State:
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

    started = state._replace(
        params=filled(state.params, (HEAD,)), codebook=filled(state.codebook, ("codebook",))
    )
    if problems:
        shown = "; ".join(problems[:5]) + (f" and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise CheckpointError(
            f"{source}: its weights do not fit the model of this run: {shown}; set the model as it was there"
        )
    lines = [f"weights from {source}"]
    if fresh:
        lines.append(f"not there, or of another size, so they start fresh: {', '.join(fresh)}")
    return started, lines
