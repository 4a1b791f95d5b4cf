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
from partoken_jax.nn.codebook import Codebook, CodebookState, VQCodebook, grid_state, reseed_dead
from partoken_jax.nn.kmeans import codebook_from_samples
from partoken_jax.nn.residual_codebook import ResidualCodebook
from partoken_jax.training.devices import AXIS, on_mesh_by_rows, replicate
from partoken_jax.training.epochs import TrainingError
from partoken_jax.training.optimiser import ADAM
from partoken_jax.training.schedules import Stage
from partoken_jax.training.state import TrainState, run_keys
from partoken_jax.training.step import EvalStep


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
    """Cluster features [M, D], split over a mesh, make the codes (`begin_codebook`)."""
    model = _with_local_codebook(graphdef, state, mesh)
    begin_codebook(model.codebook, samples, run_keys(seed).codebook, mesh)
    return _with_codebook(state, model, mesh)


def renew_codebook(
    graphdef: nnx.GraphDef,
    state: TrainState,
    samples: np.ndarray,
    seed: int,
    epoch: int,
    mesh: Mesh | None = None,
    *,
    dead_share: float | None,
) -> tuple[TrainState, int]:
    """Fits the codebook to cluster features [M, D] after an epoch (`follow`); also returns how many codes
    moved."""
    model = _with_local_codebook(graphdef, state, mesh)
    key = jax.random.fold_in(run_keys(seed).codebook, epoch)
    moved = follow(model.codebook, samples, key, dead_share=dead_share)
    return _with_codebook(state, model, mesh), moved


def begin_codebook(
    codebook: VQCodebook | ResidualCodebook, samples: np.ndarray, key: jax.Array, mesh: Mesh | None = None
) -> None:
    """First codes from cluster features [M, D]: by k-means (REFERENCE.md section 5), or the cells of a grid.

    Every further codebook of residual VQ gets what those before it leave over.
    """
    for number, book in enumerate(codebook.levels):
        book.fit_space(samples, first=True)
        book.set_state(_first_codes(book, samples, _of_level(key, number), mesh))
        samples = _left_over(book, samples)


def follow(
    codebook: VQCodebook | ResidualCodebook,
    samples: np.ndarray,
    key: jax.Array,
    *,
    dead_share: float | None,
) -> int:
    """Fits the space in which codes are chosen, if there is one, to cluster features [M, D], and moves dead
    codes onto some of them: those that clusters chose, since the last re-seeding or since k-means, at most
    `dead_share` as often as each code if all were chosen alike. None moves no code; the fixed cells of a grid
    never need it. Returns how many codes moved."""
    moved = 0
    for number, book in enumerate(codebook.levels):
        book.fit_space(samples, first=False)
        if dead_share is not None and book.grid is None:
            key_of_level = _of_level(key, number)
            reseeded, count = reseed_dead(book.state, jnp.asarray(samples), key_of_level, dead_share)
            book.set_state(reseeded)
            moved += int(count)
        samples = _left_over(book, samples)
    return moved


def _first_codes(book: VQCodebook, samples: np.ndarray, key: jax.Array, mesh: Mesh | None) -> CodebookState:
    size, whitening = book.config.size, book.whitening
    if whitening is not None and book.grid is not None:
        return grid_state(jnp.asarray(samples), whitening, book.grid)
    # As published, k-means goes by the L2 distance of the vectors as they are, whatever the metric.
    metric = "l2" if whitening is None else book.config.metric
    if mesh is None:
        return codebook_from_samples(jnp.asarray(samples), size, key, metric=metric, whitening=whitening)
    whitening = jax.device_get(whitening)
    return jax.device_get(
        on_mesh_by_rows(
            lambda part: codebook_from_samples(
                part,
                size,
                key,
                metric=metric,
                whitening=whitening,
                num_samples=len(samples),
                axis_name=AXIS,
            ),
            samples,
            mesh,
        )
    )


def _left_over(book: VQCodebook, samples: np.ndarray) -> np.ndarray:
    """[M, D]: what the next codebook names."""
    return samples - np.asarray(book.embeddings[...][book.choose(jnp.asarray(samples))])


def _of_level(key: jax.Array, number: int) -> jax.Array:
    return key if number == 0 else jax.random.fold_in(key, 10**6 + number)  # beyond all numbers of epochs


def _with_local_codebook(graphdef: nnx.GraphDef, state: TrainState, mesh: Mesh | None) -> Any:
    """The model, with a codebook that this process can change by itself."""
    codebook = state.codebook if mesh is None else jax.tree.map(jnp.asarray, jax.device_get(state.codebook))
    return nnx.merge(graphdef, state.params, codebook, copy=True)


def _with_codebook(state: TrainState, model: nnx.Module, mesh: Mesh | None) -> TrainState:
    # Copies: codes and sums start as one array, and a step cannot donate one buffer twice.
    codebook = jax.tree.map(jnp.copy, nnx.state(model, Codebook))
    return state._replace(codebook=replicate(codebook, mesh))
