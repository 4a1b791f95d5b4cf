"""The two stages of a run, and how the codebook comes to life between them."""

from collections.abc import Iterable
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from partoken_jax.config import TrainConfig
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.nn.codebook import Codebook, reseed_dead
from partoken_jax.nn.kmeans import codebook_from_samples
from partoken_jax.training.epochs import TrainingError
from partoken_jax.training.schedules import Stage
from partoken_jax.training.step import ADAM, EvalStep, TrainState, run_keys


def stage_of(config: TrainConfig, epoch: int) -> tuple[Stage, int]:
    """Stage of an epoch (counted from 0 over both), and its number within that stage."""
    return (0, epoch) if epoch < config.stage0.epochs else (1, epoch - config.stage0.epochs)


def has_codebook(config: TrainConfig) -> bool:
    """Whether stage 1 trains a codebook; otherwise both stages are plain training."""
    return config.model.kind == "partoken" and config.model.codebook.enabled


def begin_stage(state: TrainState) -> TrainState:
    """A stage starts with fresh Adam moments, as its learning rate warms up anew."""
    return state._replace(moments=ADAM.init(state.params))


def cluster_samples(
    eval_step: EvalStep,
    state: TrainState,
    batches: Iterable[PackedGraph],
    *,
    temperature: float,
    max_batches: int,
) -> np.ndarray:
    """float32 [M, D]: the features of all M clusters in the first `max_batches` batches.

    Raises TrainingError when there are none.
    """
    samples: list[np.ndarray] = []
    for graph in islice(batches, max_batches):
        out = eval_step(state.params, state.codebook, graph, np.float32(temperature))
        samples.append(np.asarray(out.cluster_features)[np.asarray(out.cluster_sizes) > 0])
    if sum(map(len, samples)) == 0:
        raise TrainingError(
            "no clusters to start the codebook from; kmeans_batches must be at least 1 and proteins must "
            "have residues with all atoms"
        )
    return np.concatenate(samples)


def initialise_codebook(
    graphdef: nnx.GraphDef, state: TrainState, samples: np.ndarray, seed: int
) -> TrainState:
    """k-means on cluster features [M, D] makes the codes (REFERENCE.md section 5)."""
    model = nnx.merge(graphdef, state.params, state.codebook, copy=True)
    key = run_keys(seed).codebook
    model.codebook.set_state(codebook_from_samples(jnp.asarray(samples), model.codebook.config.size, key))
    return _with_codebook(state, model)


def reseed_codebook(
    graphdef: nnx.GraphDef, state: TrainState, samples: np.ndarray, seed: int, epoch: int
) -> tuple[TrainState, int]:
    """Moves codes that no cluster chose since the last re-seeding (or since k-means) onto cluster features
    [M, D]; also returns how many it moved."""
    model = nnx.merge(graphdef, state.params, state.codebook, copy=True)
    key = jax.random.fold_in(run_keys(seed).codebook, epoch)
    reseeded, moved = reseed_dead(model.codebook.state, jnp.asarray(samples), key)
    model.codebook.set_state(reseeded)
    return _with_codebook(state, model), int(moved)


def _with_codebook(state: TrainState, model: nnx.Module) -> TrainState:
    # Copies: codes and sums start as one array, and a step cannot donate one buffer twice.
    return state._replace(codebook=jax.tree.map(jnp.copy, nnx.state(model, Codebook)))
