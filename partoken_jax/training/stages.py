"""The two stages of a run, and how the codebook comes to life between them."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from partoken_jax.config import TrainConfig
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.nn.codebook import Codebook, reseed_dead
from partoken_jax.nn.kmeans import codebook_from_samples
from partoken_jax.training.devices import AXIS, on_mesh_by_rows, replicate
from partoken_jax.training.epochs import TrainingError
from partoken_jax.training.schedules import Stage
from partoken_jax.training.step import ADAM, EvalStep, TrainState, run_keys


def stage_of(config: TrainConfig, epoch: int) -> tuple[Stage, int]:
    """Stage of an epoch (counted from 0 over both), and its number within that stage."""
    return (0, epoch) if epoch < config.stage0.epochs else (1, epoch - config.stage0.epochs)


def has_codebook(config: TrainConfig) -> bool:
    """Whether stage 1 trains a codebook; otherwise both stages are plain training."""
    return config.model.kind == "partoken" and config.model.codebook.enabled


def begin_stage(state: TrainState, mesh: Mesh | None = None) -> TrainState:
    """A stage starts with fresh Adam moments, as its learning rate warms up anew."""
    params = state.params if mesh is None else jax.device_get(state.params)
    return state._replace(moments=replicate(ADAM.init(params), mesh))


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
        order = np.argsort(out.proteins.protein, kind="stable")  # the same for any number of devices
        samples.append(np.asarray(out.cluster_features)[order][np.asarray(out.cluster_sizes)[order] > 0])
    if sum(map(len, samples)) == 0:
        raise TrainingError(
            "no clusters to start the codebook from; kmeans_batches must be at least 1 and proteins must "
            "have residues with all atoms"
        )
    return np.concatenate(samples)


def initialise_codebook(
    graphdef: nnx.GraphDef, state: TrainState, samples: np.ndarray, seed: int, mesh: Mesh | None = None
) -> TrainState:
    """k-means on cluster features [M, D], split over a mesh, makes the codes (REFERENCE.md section 5)."""
    model = _with_local_codebook(graphdef, state, mesh)
    size, key = model.codebook.config.size, run_keys(seed).codebook
    if mesh is None:
        codes = codebook_from_samples(jnp.asarray(samples), size, key)
    else:
        codes = jax.device_get(
            on_mesh_by_rows(
                lambda part: codebook_from_samples(part, size, key, num_samples=len(samples), axis_name=AXIS),
                samples,
                mesh,
            )
        )
    model.codebook.set_state(codes)
    return _with_codebook(state, model, mesh)


def reseed_codebook(
    graphdef: nnx.GraphDef,
    state: TrainState,
    samples: np.ndarray,
    seed: int,
    epoch: int,
    mesh: Mesh | None = None,
) -> tuple[TrainState, int]:
    """Moves codes that no cluster chose since the last re-seeding (or since k-means) onto cluster features
    [M, D]; also returns how many it moved."""
    model = _with_local_codebook(graphdef, state, mesh)
    key = jax.random.fold_in(run_keys(seed).codebook, epoch)
    reseeded, moved = reseed_dead(model.codebook.state, jnp.asarray(samples), key)
    model.codebook.set_state(reseeded)
    return _with_codebook(state, model, mesh), int(moved)


def _with_local_codebook(graphdef: nnx.GraphDef, state: TrainState, mesh: Mesh | None) -> Any:
    """The model, with a codebook that this process can change by itself."""
    codebook = state.codebook if mesh is None else jax.tree.map(jnp.asarray, jax.device_get(state.codebook))
    return nnx.merge(graphdef, state.params, codebook, copy=True)


def _with_codebook(state: TrainState, model: nnx.Module, mesh: Mesh | None) -> TrainState:
    # Copies: codes and sums start as one array, and a step cannot donate one buffer twice.
    codebook = jax.tree.map(jnp.copy, nnx.state(model, Codebook))
    return state._replace(codebook=replicate(codebook, mesh))
