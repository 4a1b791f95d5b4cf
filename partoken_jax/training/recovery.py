"""How well residue types are told from the backbone: recovery and perplexity, as for inverse folding.

The unit is the protein: its residues resemble each other more than those of others, so that intervals come
from a bootstrap over proteins (Efron, 1979).

Legend: B or P proteins, N residues, M ways of hiding types, T = 20 residue types.
"""

from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax

from partoken_jax.graphs.features import featurise
from partoken_jax.graphs.segments import graph_index, segment_mean, segment_sum
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.models import ResidueModel, ResidueOutput
from partoken_jax.nn.noise import residue_noise
from partoken_jax.nn.residue_types import NUM_TYPES, chosen_residues
from partoken_jax.proteins import RESIDUE_TYPES

FEW = 0.15
"""Share of residues that evaluation hides, beside all of them, from a model that sees residue types."""
SAMPLES = 1000
"""Of the bootstrap; the same ones in every call."""


class ResidueScores(NamedTuple):
    """What evaluation counts of each protein, for each way of hiding types: all of them, then `FEW`."""

    confusion: jax.Array | np.ndarray
    """int32 [B, M, T, T]: residues of a type (row) that were told to be of a type (column)."""
    cross_entropy: jax.Array | np.ndarray
    """float32 [B, M]: -Σ log p(type) over the residues asked for, in nats."""


class TypeRecovery(TypedDict):
    """How well one residue type is told."""

    name: str
    residues: int
    recovery: float
    """Share of them given their type; 0 where there are none."""
    low: float
    high: float
    """Ends of the 95% interval."""


class Recovery(TypedDict):
    """How well the hidden residue types of a split are told."""

    hidden: float
    """Share of residues whose types were hidden; only they count. At 1 the model saw the backbone alone."""
    proteins: int
    residues: int
    recovery: float
    """Share of residues given their type."""
    recovery_low: float
    recovery_high: float
    """Ends of the 95% interval, over proteins, as those of perplexity."""
    median_recovery: float
    """Median over proteins of the share within one."""
    perplexity: float
    """exp of the mean cross entropy: as unsure as if it chose between so many types evenly."""
    perplexity_low: float
    perplexity_high: float
    majority_share: float
    """Recovery of always giving the most frequent type of the split."""
    types: list[TypeRecovery]


def protein_scores(
    model: ResidueModel, graph: PackedGraph, told: ResidueOutput
) -> tuple[jax.Array, ResidueScores]:
    """Mean logits [B, T] and scores of the proteins of a batch, on the device.

    Args:
      told: what the model says where all types are hidden. Where it sees types, it is asked once more with
        `FEW` of them hidden, the same ones in every call whatever the batch.
    """
    index, num_graphs = graph_index(graph), graph.n_node.shape[0]
    asked = [told]
    if model.config.residue_types:
        hidden = chosen_residues(residue_noise(jax.random.key(0), graph), FEW)
        asked.append(model(featurise(graph), hidden=hidden))
    scores = [residue_scores(out.logits, out.targets, index, num_graphs) for out in asked]
    mean = segment_mean(told.logits, jnp.asarray(graph.nodes.mask), index, num_graphs)[:-1]
    return mean, ResidueScores(*(jnp.stack(parts, axis=1)[:-1] for parts in zip(*scores, strict=True)))


def residue_scores(
    logits: jax.Array,  # [N, T]
    targets: jax.Array,  # int32 [N], -1 where the residue does not count
    index: jax.Array,  # int32 [N], the graph of each residue
    num_graphs: int,
) -> ResidueScores:
    """Confusion [G, T, T] and summed cross entropy [G] of each graph, the padding graph included."""
    counts, types = targets >= 0, jnp.maximum(targets, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, types)
    confusion = jnp.zeros((num_graphs, NUM_TYPES, NUM_TYPES), jnp.int32)
    return ResidueScores(
        confusion.at[index, types, jnp.argmax(logits, axis=-1)].add(counts.astype(jnp.int32)),
        segment_sum(jnp.where(counts, losses, 0.0), index, num_graphs),
    )


def recoveries(scores: ResidueScores) -> list[Recovery]:
    """Recovery and perplexity over P proteins, for each way of hiding types; a way that asked for no residue
    is left out.

    REFERENCE.md section 5, recovery and perplexity.
    """
    return [
        _recovery(hidden, np.asarray(scores.confusion)[:, way], np.asarray(scores.cross_entropy)[:, way])
        for way, hidden in zip(range(scores.confusion.shape[1]), (1.0, FEW), strict=False)
        if scores.confusion[:, way].any()
    ]


def _recovery(hidden: float, confusion: np.ndarray, cross_entropy: np.ndarray) -> Recovery:
    asked = confusion.sum(axis=(1, 2)) > 0
    confusion, cross_entropy = confusion[asked], cross_entropy[asked].astype(np.float64)
    right, of_type = np.einsum("pii->pi", confusion), confusion.sum(axis=2)  # [P, T]
    residues = of_type.sum(axis=1)
    proteins = len(residues)
    drawn = np.random.default_rng(0).multinomial(proteins, np.full(proteins, 1 / proteins), size=SAMPLES)
    drawn = drawn.astype(np.float64)  # for a fast product
    recovered = _interval(right.sum(axis=1), residues, drawn)
    unsure = np.exp(_interval(cross_entropy, residues, drawn))
    types = [
        TypeRecovery(name=name, residues=int(of_type[:, i].sum()), recovery=share, low=low, high=high)
        for i, name in enumerate(RESIDUE_TYPES)
        for share, low, high in [_interval(right[:, i], of_type[:, i], drawn).tolist()]
    ]
    return Recovery(
        hidden=hidden,
        proteins=proteins,
        residues=int(residues.sum()),
        recovery=float(recovered[0]),
        recovery_low=float(recovered[1]),
        recovery_high=float(recovered[2]),
        median_recovery=float(np.median(right.sum(axis=1) / residues)),
        perplexity=float(unsure[0]),
        perplexity_low=float(unsure[1]),
        perplexity_high=float(unsure[2]),
        majority_share=float(of_type.sum(axis=0).max() / residues.sum()),
        types=types,
    )


def _interval(part: np.ndarray, whole: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """[3]: Σ part / Σ whole over P proteins, and what lies between 2.5% and 97.5% of its bootstrap samples,
    which hold each protein as often as `drawn` [samples, P] says; 0 where nothing is counted."""
    sampled = (drawn @ part) / np.maximum(drawn @ whole, 1)
    return np.array([part.sum() / max(whole.sum(), 1), *np.quantile(sampled, (0.025, 0.975))])
