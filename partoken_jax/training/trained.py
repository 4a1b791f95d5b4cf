"""A trained model with all that using it needs, wherever it comes from: a run, or a file of a model.

Legend: L residues of a protein, S clusters, C classes, D channels.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy.special import softmax

from partoken_jax.config import TrainConfig
from partoken_jax.graphs import neighbour_tables
from partoken_jax.graphs.batching import evaluation_batches
from partoken_jax.graphs.neighbours import check_proteins
from partoken_jax.graphs.packing import ROUND_TO, flatten, pack_flat
from partoken_jax.graphs.segments import first_node
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.models import ParTokenOutput, ResidueOutput
from partoken_jax.proteins import DataError, Protein, ProteinDataset
from partoken_jax.training.checkpoints import Which, restore
from partoken_jax.training.objective import Model, Output, forward
from partoken_jax.training.prefetch import prefetch
from partoken_jax.training.summary import read_summary

SLOTS = 16
"""Proteins of a batch of `TrainedModel.predict`, at most."""
RESIDUES = 16_384
"""Residues of such a batch, at most, unless one protein has more."""


class Prediction(NamedTuple):
    """What a model says of one protein."""

    name: str
    """Of the protein."""
    label: str
    """Name of the most probable class."""
    probabilities: np.ndarray
    """float32 [C]: softmax(logits / calibration), in the order of the model's class names."""
    logits: np.ndarray
    """float32 [C]"""
    clusters: np.ndarray
    """int32 [L]: cluster 0 … S-1 of each residue, -1 where it is in none."""
    seeds: np.ndarray
    """int32 [S]: the residue, from 0, that each cluster grew from; -1 where there is no such cluster. S is 0
    for the GVP baseline, which has no clusters."""
    codes: np.ndarray
    """int32 [S]: token of each cluster; -1 where there is none, or the codebook is not in use."""
    importances: np.ndarray
    """float32 [S]: attention weight of each cluster; they sum to 1."""


class ProteinOutput(NamedTuple):
    """All that a model makes of one protein; what `Prediction` has as well is said there."""

    logits: np.ndarray
    probabilities: np.ndarray
    """float64 [C]"""
    clusters: np.ndarray
    seeds: np.ndarray
    codes: np.ndarray
    importances: np.ndarray
    cluster_features: np.ndarray
    """float32 [S, D]: mean of the members' features, 0 where there is no cluster."""
    squared_errors: np.ndarray
    """float32 [S]: squared distance of a cluster's features from what its codes stand for."""
    residue_features: np.ndarray
    """float32 [L, D]: of the encoder."""
    protein_features: np.ndarray
    """float32 [D]: the protein as the classifier reads it."""


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """Weights, their settings, and what they were trained for. `load_model` makes one."""

    source: str
    """Directory or file that it comes from."""
    config: TrainConfig
    """Of its training."""
    class_names: tuple[str, ...]
    """Names of the C classes."""
    graphdef: nnx.GraphDef
    params: nnx.State
    codebook: nnx.State
    temperature: float
    """Of the partitioner; the last of its training."""
    bypass_codebook: bool
    """Whether the codebook was not in use yet, so that there are no tokens."""
    epoch: int
    """Epochs it was trained for."""
    fingerprint: str
    """Checksum of the data it was trained on; empty where they are not known."""
    calibration: float = 1.0
    """What logits are divided by before they become probabilities; 1 where it was not fitted."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """What is known of its training: the summary of the run; empty where there is none."""

    @property
    def task(self) -> str:
        """The question that it answers, such as "cath-architecture"."""
        return self.config.data.task

    @property
    def model(self) -> Model:
        """A module of its own, to be called with a featurised batch (`partoken_jax.models`)."""
        return nnx.merge(self.graphdef, self.params, self.codebook, copy=True)

    def predict(self, proteins: ProteinDataset | Sequence[Protein]) -> list[Prediction]:
        """What the model says of each protein, in their order; the labels they carry are not read.

        Nothing is random, and a protein gets the same answer in any order and company, up to the rounding
        of float32; only random clusters (`PartitionerConfig.kind`) go by its place. Batches are padded to few
        sizes, so that later calls seldom compile again.

        Raises DataError, naming the protein, for one whose coordinates give no finite numbers, for what are
        no proteins (`annotate` reads files), and for a model that was only pretrained.
        """
        found = [
            (
                place,
                Prediction(
                    name=proteins[place].name,
                    label=self.class_names[int(out.logits.argmax())],
                    probabilities=out.probabilities.astype(np.float32),
                    logits=out.logits,
                    clusters=out.clusters,
                    seeds=out.seeds,
                    codes=out.codes,
                    importances=out.importances,
                ),
            )
            for place, out in self.outputs(proteins)
        ]
        return [prediction for _, prediction in sorted(found, key=lambda pair: pair[0])]

    def outputs(self, proteins: ProteinDataset | Sequence[Protein]) -> Iterator[tuple[int, ProteinOutput]]:
        """All that the model makes of each protein, with its place among them: batch after batch, in no order
        that a caller can count on. Answers and errors are those of `predict`."""
        self.require_classifier()
        check_proteins(proteins, "predict")
        if len(proteins) == 0:
            return
        flat = flatten(proteins, neighbour_tables(proteins, self.config.data.neighbours))
        places = evaluation_batches(flat.length, SLOTS, max(RESIDUES, int(flat.length.max())))
        batches = (
            pack_flat(flat, group, num_nodes=_padded(int(flat.length[group].sum())), batch_size=SLOTS)
            for group in places
        )
        step = make_predict_step(self.graphdef, bypass_codebook=self.bypass_codebook)
        for group, batch in zip(places, prefetch(batches), strict=True):
            out = jax.device_get(step(self.params, self.codebook, batch, np.float32(self.temperature)))
            for slot, place in enumerate(group.tolist()):
                yield place, self._of_protein(proteins[place], out, slot)

    def require_classifier(self) -> None:
        """Raises DataError for a model that was only pretrained."""
        if self.config.model.kind == "residues":
            raise DataError(
                f"{self.source}: this model was pretrained and classifies nothing yet; train one that starts "
                "from it, with --init-from"
            )

    def _of_protein(self, protein: Protein, out: "_Batch", slot: int) -> ProteinOutput:
        logits = out.of_protein["logits"][slot]
        if not np.isfinite(logits).all():
            raise DataError(
                f"{protein.name}: the model's output is not finite; its weights or the protein's coordinates "
                "are beyond all bounds, so leave the protein out"
            )
        residues = slice(int(out.first[slot]), int(out.first[slot]) + len(protein))
        return ProteinOutput(
            probabilities=softmax(logits.astype(np.float64) / self.calibration),
            **{name: array[slot] for name, array in out.of_protein.items()},
            **{name: array[residues] for name, array in out.of_residue.items()},
        )


class _Batch(NamedTuple):
    """Arrays of `ProteinOutput`, by name, for the B proteins and N residues of a batch."""

    first: Any
    """int32 [B]: place of the first residue of each protein."""
    of_protein: dict[str, Any]
    """[B, ...]"""
    of_residue: dict[str, Any]
    """[N, ...]"""


@functools.lru_cache(maxsize=16)
def make_predict_step(graphdef: nnx.GraphDef, *, bypass_codebook: bool) -> Callable[..., _Batch]:
    """`(params, codebook, graph, temperature) -> _Batch`, compiled once per shape of `graph`; one for all
    models of the same settings."""

    def predict_step(params: nnx.State, codebook: nnx.State, graph: PackedGraph, temperature: Any) -> _Batch:
        model = nnx.merge(graphdef, params, codebook, copy=True)
        out = forward(model, graph, temperature=temperature, bypass_codebook=bypass_codebook)
        return _Batch(first_node(graph)[:-1], *output_arrays(out, graph))

    return jax.jit(predict_step)


def output_arrays(out: Output, graph: PackedGraph) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The arrays of `ProteinOutput` but the probabilities, by name: those of proteins, those of residues. A
    GVP has no clusters, so S is 0."""
    assert not isinstance(out, ResidueOutput)  # `require_classifier` refuses such a model
    of_protein = {"logits": out.logits, "protein_features": out.protein_features}
    of_residue = {"residue_features": out.node_features}
    if isinstance(out, ParTokenOutput):
        of_residue["clusters"] = out.cluster_of_residue
        of_protein |= {
            "seeds": out.seeds,
            "codes": out.codes,
            "importances": out.importances,
            "cluster_features": out.cluster_features,
            "squared_errors": out.squared_errors,
        }
    else:
        num, width = out.protein_features.shape
        of_residue["clusters"] = jnp.full(graph.nodes.mask.shape, -1, jnp.int32)
        of_protein |= {name: jnp.zeros((num, 0), jnp.int32) for name in ("seeds", "codes")}
        of_protein |= {name: jnp.zeros((num, 0)) for name in ("importances", "squared_errors")}
        of_protein["cluster_features"] = jnp.zeros((num, 0, width))
    return of_protein, of_residue


def trained_run(run_dir: str | Path, checkpoint: Which = "best") -> TrainedModel:
    """The model of a run as one of its checkpoints has it.

    Raises CheckpointError without such a checkpoint.
    """
    restored = restore(run_dir, checkpoint)
    return TrainedModel(
        source=str(run_dir),
        config=restored.config,
        class_names=tuple(restored.meta["class_names"]),
        graphdef=restored.graphdef,
        params=restored.state.params,
        codebook=restored.state.codebook,
        temperature=restored.meta["temperature"],
        bypass_codebook=restored.meta["bypass_codebook"],
        epoch=restored.meta["epoch"],
        fingerprint=restored.meta["fingerprint"],
        training=_summary(run_dir),
    )


def _summary(run_dir: str | Path) -> Mapping[str, Any]:
    try:
        return read_summary(run_dir)
    except (OSError, ValueError):  # of weights that were converted there is none
        return {}


def _padded(total: int) -> int:
    """More than `total`: 64, 128, 192, 256, 384, 512, 768 ..., so few sizes that batches meet them again, of
    which from 192 on at least two thirds are filled."""
    size = ROUND_TO
    while size <= total:
        size *= 2
    smaller = size // 4 * 3
    return smaller if smaller > total and smaller % ROUND_TO == 0 else size
