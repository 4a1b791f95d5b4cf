"""The state of training: weights, moments and keys, fresh or as shapes alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from partoken_jax.config import TrainConfig
from partoken_jax.models import build_model
from partoken_jax.training.objective import split_model
from partoken_jax.training.optimiser import ADAM


class TrainState(NamedTuple):
    """All that training changes; enough to go on from exactly here."""

    params: nnx.State
    codebook: nnx.State
    """Moving averages of the codebook; empty without one."""
    moments: optax.OptState
    """Adam's moments."""
    key: jax.Array
    """Never changes: the step number is folded in for dropout and seed sampling."""
    step: jax.Array
    """int32 []: steps done, over both stages."""
    stopped: jax.Array
    """bool []: a step was not finite and nothing may change any more (`TrainConfig.non_finite` is "stop")."""


class RunKeys(NamedTuple):
    """Where all randomness on the device comes from."""

    model: jax.Array
    """Initial weights."""
    step: jax.Array
    """Dropout and seed sampling; the step number is folded in."""
    codebook: jax.Array
    """k-means, and re-seeding of codes; the epoch is folded in."""


def run_keys(seed: int) -> RunKeys:
    """The keys of a run."""
    model, step, codebook = jax.random.split(jax.random.key(seed), 3)
    return RunKeys(model, step, codebook)


def initial_state(
    config: TrainConfig, make_model: Callable[..., nnx.Module] = build_model
) -> tuple[nnx.GraphDef, TrainState]:
    """A fresh model, split, and its state. `make_model(config.model, rngs=...)` makes the model."""
    build, graphdefs = _builder(config, make_model)
    # One program instead of one per shape of weight, and no time spent on making it fast: it runs once.
    state = jax.jit(build, compiler_options={"xla_backend_optimization_level": 0})(
        np.uint32(config.seed)  # not a Python int, which jit takes for an int32
    )
    return graphdefs[0], state


def abstract_state(config: TrainConfig) -> tuple[nnx.GraphDef, TrainState]:
    """The shapes of `initial_state`, without computing anything."""
    build, graphdefs = _builder(config, build_model)
    state = jax.eval_shape(build, np.uint32(config.seed))
    return graphdefs[0], state


def _builder(
    config: TrainConfig, make_model: Callable[..., nnx.Module]
) -> tuple[Callable[[int], TrainState], list[nnx.GraphDef]]:
    graphdefs: list[nnx.GraphDef] = []  # not an array, so it cannot be returned by what jax traces

    def build(seed: int) -> TrainState:
        keys = run_keys(seed)
        model = make_model(config.model, rngs=nnx.Rngs(keys.model))
        graphdef, params, codebook = split_model(model)
        graphdefs.append(graphdef)
        return TrainState(params, codebook, ADAM.init(params), keys.step, jnp.int32(0), jnp.bool_(False))

    return build, graphdefs
