"""What stands behind an encoder that does not learn: residue features computed once, and models on them.

The encoder is nearly all of the time of both models (docs/TIMING.md). With its features kept, a run of what
follows it (pooling, or partition, codebook and attention, and the classifier) takes seconds an epoch on a
CPU, so that many seeds can be compared. `experiments.same_features` does that. Steps, losses, schedules, the
start of clusters and the codebook are those of `partoken train`.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from partoken_jax.config import TrainConfig
from partoken_jax.graphs.features import featurise
from partoken_jax.graphs.types import FeaturisedGraph, NodeFeatures, PackedGraph
from partoken_jax.models import build_model, matmul_precision
from partoken_jax.nn.forms import Target
from partoken_jax.nn.platform import target_platform
from partoken_jax.progress import progress
from partoken_jax.training.cluster_start import (
    ResidueFeatures,
    StartProgram,
    start_clusters,
    start_program,
    starts_from_data,
)
from partoken_jax.training.data import RunData
from partoken_jax.training.epochs import Evaluation, Predictions, predict, score, train_epoch
from partoken_jax.training.prefetch import prefetch
from partoken_jax.training.run import bypass_codebook, make_program, settings_of
from partoken_jax.training.stages import (
    cluster_samples,
    initialise_codebook,
    renew_codebook,
)
from partoken_jax.training.state import TrainState, initial_state
from partoken_jax.training.trained import TrainedModel


class GivenFeatures(nnx.Module):
    """In the place of an encoder: the nodes of the graph are residue features [N, D] already."""

    def __call__(self, graph: FeaturisedGraph, *, key: Any = None, form: Any = None) -> jax.Array:
        return graph.nodes.scalars


def headed(config: Any, *, rngs: nnx.Rngs) -> nnx.Module:
    """The model of the settings on given features."""
    model: Any = build_model(config, rngs=rngs)
    model.encoder = GivenFeatures()
    return model


class Features(NamedTuple):
    """Of the residues of a split, protein after protein."""

    x: np.ndarray
    """float16 [residues, D]"""
    first: np.ndarray
    """int64 [proteins]: where those of a protein begin."""


def encoded(model: TrainedModel, data: RunData, folder: Path) -> dict[str, Features]:
    """What the encoder of a model makes of the residues of all splits, kept in a file of a folder, which is
    read where it is there. Its name follows from the weights and the proteins."""
    network: Any = model.model
    graphdef, arrays = nnx.split(network.encoder)
    what = hashlib.sha256(data.fingerprint.encode())
    for array in (*jax.tree.leaves(arrays), *(dataset.lengths for dataset in data.datasets.values())):
        what.update(np.asarray(array).tobytes())
    cache = folder / f"{what.hexdigest()[:16]}.npz"
    if cache.is_file():
        with np.load(cache) as kept:
            return {s: Features(kept[f"{s}_x"], kept[f"{s}_first"]) for s in data.loaders}

    @jax.jit
    def encode(arrays: nnx.State, graph: PackedGraph) -> jax.Array:
        with jax.default_matmul_precision(matmul_precision(model.config.model)):
            return nnx.merge(graphdef, arrays, copy=True)(featurise(graph)).astype(jnp.float16)

    found: dict[str, Features] = {}
    for split, loader in data.loaders.items():
        lengths = data.datasets[split].lengths
        first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        x = np.zeros((int(lengths.sum()), model.config.model.node_hidden[0]), np.float16)
        with progress(len(lengths), f"encoding {split}") as advance:
            for graph in prefetch(loader.evaluation()):
                rows = places(graph, first)
                features = np.asarray(encode(arrays, graph))
                x[rows[rows >= 0]] = features[: len(rows)][rows >= 0]
                advance(int(np.sum(graph.globals.mask)))
        found[split] = Features(x, first)
    cache.parent.mkdir(parents=True, exist_ok=True)
    unfinished = cache.with_suffix(f".{os.getpid()}")
    with unfinished.open("wb") as file:  # another name, so that what is found is whole
        np.savez(file, **{f"{s}_{n}": a for s, f in found.items() for n, a in f._asdict().items()})
    unfinished.replace(cache)
    return found


def places(graph: PackedGraph, first: np.ndarray) -> np.ndarray:
    """int64 [N]: where the features of every residue of a batch are, -1 of padding."""
    sizes, proteins = np.asarray(graph.n_node), np.asarray(graph.globals.protein)
    rows = np.full(int(sizes.sum()), -1, np.int64)
    start = 0
    for size, protein in zip(sizes, proteins, strict=True):
        if protein >= 0:
            rows[start : start + size] = first[protein] + np.arange(size)
        start += size
    return rows


def with_features(graph: PackedGraph, features: Features) -> FeaturisedGraph:
    """A batch whose residues have the given features for scalars."""
    rows = places(graph, features.first)
    x = np.where(rows[:, None] >= 0, features.x[np.maximum(rows, 0)], 0).astype(np.float32)
    empty = np.zeros((len(rows), 0, 3), np.float32)
    nodes: Any = NodeFeatures(x, empty, graph.nodes.residue_type, graph.nodes.mask)  # type: ignore[arg-type]
    return FeaturisedGraph(*graph._replace(nodes=nodes))


class Trained(NamedTuple):
    """A run on given features, at the epoch that was best on validation."""

    epoch: int
    validation: Evaluation
    test: Evaluation
    predictions: Predictions
    """Of the test proteins."""


def train_on_features(config: TrainConfig, data: RunData, features: dict[str, Features]) -> Trained:
    """Trains what follows the encoder as `partoken train` does, and predicts the test proteins.

    The best epoch is the one with the best macro-F1 on validation, of stage 1 where there is a codebook.
    """
    model = dataclasses.replace(config.model, num_classes=len(data.class_names))
    config = dataclasses.replace(config, model=model)
    graphdef, state = initial_state(config, headed)
    program = make_program(config, graphdef, None, Target(target_platform()), quiet=True)
    loader, best = data.loaders["train"], None

    def batches(split: str, epoch: int | None) -> Iterator[Any]:
        found: Iterable[PackedGraph] = (
            data.loaders[split].evaluation() if epoch is None else loader.epoch(epoch)  # type: ignore[index]
        )
        return prefetch(with_features(graph, features[split]) for graph in found)

    def scored(split: str, state: TrainState, bypass: bool, temperature: float) -> tuple[Evaluation, Any]:
        step = program.evaluate[bypass]
        predictions = predict(step, state.params, state.codebook, batches(split, None), temperature)
        return score(predictions, data.class_names), predictions

    def samples(state: TrainState, bypass: bool, epoch: int) -> Any:
        step, read, most = program.evaluate[bypass], batches("train", epoch), config.kmeans_batches
        return cluster_samples(step, state, read, temperature=config.temperature.at(epoch), max_batches=most)

    for epoch in range(config.stage0.epochs + config.stage1.epochs):
        bypass, settings = bypass_codebook(config, epoch), settings_of(config, data, epoch)
        temperature = float(np.float32(config.temperature.at(epoch)))

        if epoch == 0 and starts_from_data(config):
            state, _ = start_clusters(config, _start(graphdef), state, batches("train", 0))
        if not bypass and epoch == config.stage0.epochs:
            state = initialise_codebook(graphdef, state, samples(state, True, epoch), config.seed)
            best = None
        state = train_epoch(
            program.train[bypass],
            state,
            batches("train", epoch),
            settings,
            num_proteins=len(data.datasets["train"]),
            description=f"epoch {epoch + 1}",
            quiet=True,
        ).state
        if config.reseed_dead_codes and not bypass and not settings[-1].frozen:
            found = samples(state, bypass, epoch)
            share = config.dead_code_share
            state, _ = renew_codebook(graphdef, state, found, config.seed, epoch, dead_share=share)
        validation, _ = scored("val", state, bypass, temperature)
        reached = validation["classification"]["macro_f1"]
        if best is None or reached > best[0]:
            copied = jax.tree.map(jnp.copy, state)  # the next step is given the buffers of this one
            best = (reached, epoch, copied, bypass, temperature, validation)
    assert best is not None
    _, epoch, state, bypass, temperature, validation = best
    test, predictions = scored("test", state, bypass, temperature)
    return Trained(epoch + 1, validation, test, predictions)


def _start(graphdef: nnx.GraphDef) -> StartProgram:
    """Of clusters, from features that are there."""

    def features(params: Any, codebook: Any, graph: FeaturisedGraph, temperature: Any) -> ResidueFeatures:
        x = graph.nodes.scalars
        return ResidueFeatures(x[None], jnp.sum(jnp.where(graph.nodes.mask[:, None], x, 0.0), axis=0))

    return start_program(graphdef)._replace(features=jax.jit(features))
