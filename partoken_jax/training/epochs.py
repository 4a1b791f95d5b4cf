"""One pass over a split: training, or prediction.

Legend: P proteins, S clusters, C classes.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

import jax
import numpy as np
from tqdm import tqdm

from partoken_jax.graphs.types import PackedGraph
from partoken_jax.training.metrics import Classification, Clustering, classification, clustering
from partoken_jax.training.schedules import StepSettings
from partoken_jax.training.step import EvalStep, StepMetrics, TrainState, TrainStep

LAG = 3
"""Steps that may be under way before the host reads a loss: enough that the device never waits."""


class TrainingError(ValueError):
    """Training that cannot go on; the message says where it stopped and what to try."""


class TrainScores(TypedDict):
    """Means over the training proteins of an epoch, with dropout and sampling on. Cross entropy and accuracy
    are about those with a label."""

    loss: float
    cross_entropy: float
    vq: float
    coverage: float
    cardinality: float
    accuracy: float
    residue_coverage: float
    """Share of residues in a cluster."""
    codebook_perplexity: float
    """Of the codebook's moving counts after the last step; 0 when no codebook is in use."""


class TrainEpoch(NamedTuple):
    state: TrainState
    scores: TrainScores
    step_losses: list[float]
    """Total loss of every step."""
    seconds: float
    input_seconds: float
    """Of these, waited for the next batch."""
    step_seconds: float
    """Median time of a step; compilation does not touch it once an epoch has a few steps."""


def train_epoch(
    step: TrainStep,
    state: TrainState,
    batches: Iterable[PackedGraph],
    settings: Sequence[StepSettings],
    *,
    num_proteins: int,
    description: str,
    quiet: bool = False,
) -> TrainEpoch:
    """Trains on every batch once; the given state is consumed.

    Losses are read `LAG` steps late, for the progress bar, so that packing and dispatch run ahead of
    the device. Raises TrainingError when a loss is not finite.
    """
    history: list[StepMetrics] = []
    finished: list[float] = [time.perf_counter()]
    start = finished[0]
    waits: list[float] = []
    # disable=None: no bar where there is no terminal to draw it on.
    with tqdm(
        total=num_proteins, desc=description, unit=" proteins", leave=False, disable=quiet or None
    ) as bar:

        def read(metrics: StepMetrics):
            loss = float(metrics.losses.total)
            finished.append(time.perf_counter())
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(int(metrics.proteins))

        for graph, step_settings in zip(_timed(batches, waits), settings, strict=True):
            state, metrics = step(state, graph, step_settings)
            history.append(metrics)
            if len(history) > LAG:
                read(history[-1 - LAG])
        for metrics in history[-LAG:]:
            read(metrics)
    seconds = time.perf_counter() - start
    host: Any = jax.tree.map(lambda *x: np.array(x, np.float64), *jax.device_get(history))
    bad = np.flatnonzero(~np.isfinite(host.losses.total))
    if bad.size:
        raise TrainingError(
            f"{description}: the loss is {host.losses.total[bad[0]]} at step {bad[0] + 1} of {len(history)}; "
            "try a lower learning rate"
        )
    share = host.proteins / host.proteins.sum()
    labelled_share = host.labelled / max(host.labelled.sum(), 1)
    scores = TrainScores(
        loss=float(host.losses.total @ share),
        cross_entropy=float(host.losses.cross_entropy @ labelled_share),
        vq=float(host.losses.vq @ share),
        coverage=float(host.losses.coverage @ share),
        cardinality=float(host.losses.cardinality @ share),
        accuracy=float(host.correct.sum() / max(host.labelled.sum(), 1)),
        residue_coverage=float(host.assigned.sum() / max(host.residues.sum(), 1)),
        codebook_perplexity=float(host.perplexity[-1]),
    )
    step_losses = [float(loss) for loss in host.losses.total]
    step_seconds = float(np.median(np.diff(finished)))
    return TrainEpoch(state, scores, step_losses, seconds, sum(waits), step_seconds)


def _timed(batches: Iterable[PackedGraph], waits: list[float]) -> Iterator[PackedGraph]:
    """The batches; notes the seconds that each was waited for."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        graph = next(iterator, None)
        waits.append(time.perf_counter() - start)
        if graph is None:
            return
        yield graph


class Predictions(NamedTuple):
    """What a model says about the proteins of a split, in the order of the dataset."""

    labels: np.ndarray
    """int [P]: -1 where there is none."""
    logits: np.ndarray
    """float32 [P, C]"""
    cross_entropy: float
    """Mean over the proteins with a label, 0 when there are none."""
    cluster_sizes: np.ndarray
    """int [P, S]; S = 0 for the GVP baseline."""
    codes: np.ndarray
    """int [P, S]: -1 where there is none."""
    num_residues: int
    """Residues that could be in a cluster."""


def predict(
    step: EvalStep, params: Any, codebook: Any, batches: Iterable[PackedGraph], temperature: float
) -> Predictions:
    """Runs the model, without dropout or sampling, over batches that hold every protein once."""
    outputs, slots = [], []
    for graph in batches:
        out = step(params, codebook, graph, np.float32(temperature))
        outputs.append((out.logits, out.cluster_sizes, out.codes, out.cross_entropy, out.residues))
        slots.append(graph.globals)
    logits, sizes, codes, cross_entropy, residues = zip(*jax.device_get(outputs), strict=True)
    slots = [jax.tree.map(lambda x: x[:-1], slot) for slot in jax.device_get(slots)]
    mask = np.concatenate([slot.mask for slot in slots])
    labelled = np.array([np.sum(slot.mask & (slot.label >= 0)) for slot in slots])
    order = np.argsort(np.concatenate([slot.protein for slot in slots])[mask])

    def flat(parts):
        return np.concatenate(parts)[mask][order]

    return Predictions(
        labels=flat([slot.label for slot in slots]),
        logits=flat(logits),
        cross_entropy=float(np.dot(cross_entropy, labelled) / max(labelled.sum(), 1)),
        cluster_sizes=flat(sizes),
        codes=flat(codes),
        num_residues=int(sum(residues)),
    )


class Evaluation(TypedDict):
    """The scores of a split."""

    cross_entropy: float
    classification: Classification
    clustering: Clustering | None
    """None for the GVP baseline."""


def score(predictions: Predictions, class_names: tuple[str, ...]) -> Evaluation:
    """Accuracy and F1 over the proteins with a label; use of clusters and codes over all of them.

    Raises ValueError as `metrics.classification`.
    """
    return Evaluation(
        cross_entropy=predictions.cross_entropy,
        classification=classification(predictions.labels, predictions.logits.argmax(axis=-1), class_names),
        clustering=clustering(predictions.cluster_sizes, predictions.codes, predictions.num_residues)
        if predictions.cluster_sizes.shape[1]
        else None,
    )
