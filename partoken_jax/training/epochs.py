"""One pass over a split: training, or prediction.

Legend: P proteins, S clusters, C classes.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import jax
import numpy as np

from partoken_jax.graphs.types import PackedGraph
from partoken_jax.progress import progress
from partoken_jax.proteins import ProteinDataset
from partoken_jax.training.metrics import (
    Classification,
    Clustering,
    classification,
    classification_of_confusion,
    clustering,
)
from partoken_jax.training.objective import LossTerms
from partoken_jax.training.recovery import Recovery, ResidueScores, recoveries
from partoken_jax.training.schedules import StepSettings
from partoken_jax.training.state import TrainState
from partoken_jax.training.step import EvalOutput, EvalStep, StepMetrics, TrainStep

LAG = 3
"""Steps that may be under way before the host reads a loss: enough that the device never waits."""


class TrainingError(ValueError):
    """Training that cannot go on; the message says where it stopped and what to try."""


class TrainScores(TypedDict):
    """Means over the training proteins of an epoch, with dropout and sampling on. Cross entropy and accuracy
    are about those with a label; in pretraining they are about the residues whose types were hidden."""

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
    gradient_norm: float
    """Global norm of the gradients before clipping, mean over the steps."""
    largest_gradient_norm: float


class SoFar(TypedDict):
    """What is known of an epoch that is under way, so that its record comes out whole."""

    steps: list[list[float]]
    """The numbers of `StepMetrics` for every step done, in the order of its leaves."""
    step_seconds: list[float]
    """Time of every step done, but for those that were under way while the host compiled."""
    seconds: float
    """Training so far."""
    input_seconds: float
    """Of these, waited for the next batch."""


def nothing_yet() -> SoFar:
    """The start of an epoch."""
    return SoFar(steps=[], step_seconds=[], seconds=0.0, input_seconds=0.0)


class TrainEpoch(NamedTuple):
    state: TrainState
    scores: TrainScores
    step_losses: list[float | None]
    """Total loss of every step; None where the step was skipped."""
    so_far: SoFar
    """All of the epoch."""

    @property
    def steps_timed(self) -> int:
        """Steps that `step_seconds` is about; 0 where all were under way while the host compiled."""
        return len(self.so_far["step_seconds"])

    @property
    def step_seconds(self) -> float:
        """Median time of a step without compilation; with it, and the mean, where no step was timed."""
        times = self.so_far["step_seconds"]
        return float(np.median(times)) if times else self.so_far["seconds"] / len(self.step_losses)

    @property
    def steps_per_second(self) -> float:
        """Of the steps that were timed; of all, compilation included, where none was."""
        times = self.so_far["step_seconds"]
        return len(times) / sum(times) if times else len(self.step_losses) / self.so_far["seconds"]


_METRICS = jax.tree.structure(
    StepMetrics._make([LossTerms._make(LossTerms._fields), *range(1, len(StepMetrics._fields))])
)


class TakenStep(NamedTuple):
    """A step that was sent to the device."""

    number: int
    """Within the epoch, from 0."""
    before: TrainState
    """The state before it; donated, and not to be read, unless `TrainConfig.non_finite` is "skip"."""
    graph: PackedGraph
    settings: StepSettings
    metrics: StepMetrics


NonFiniteStep = Callable[[TakenStep, TrainState], None]
"""Called for a step that was not finite, with the newest state. Raises TrainingError, or the step is left
out."""

AfterStep = Callable[[TrainState, Callable[[], SoFar]], None]
"""Called after each step was sent to the device, with the state after it and a function that waits for the
steps under way and says what is known of the epoch."""
OnResult = Callable[[StepMetrics, StepSettings], None]
"""Called with what each step reported, on the host, and its settings: in order, up to `LAG` steps late."""


def train_epoch(
    step: TrainStep,
    state: TrainState,
    batches: Iterable[PackedGraph],
    settings: Sequence[StepSettings],
    *,
    num_proteins: int,
    description: str,
    quiet: bool = False,
    so_far: SoFar | None = None,
    after_step: AfterStep | None = None,
    on_result: OnResult | None = None,
    non_finite: NonFiniteStep | None = None,
) -> TrainEpoch:
    """Trains on every batch once; the given state is consumed.

    An epoch that was interrupted goes on with `so_far`, the rest of its `batches` and all its `settings`.
    Losses are read `LAG` steps late, to show progress, so that packing and dispatch run ahead of the device.
    Raises TrainingError when a step is not finite and `non_finite` does not leave it out, or when every step
    of the epoch was left out; and what `after_step` and `on_result` raise.
    """
    earlier = so_far or nothing_yet()
    done = len(earlier["steps"])
    history: list[StepMetrics] = []
    under_way: deque[TakenStep] = deque()
    programs = getattr(step, "_cache_size", lambda: 0)  # a plain function compiles nothing
    compiled = -1  # the last step for which the host compiled
    start = read = time.perf_counter()
    times: list[float] = []
    waits: list[float] = []

    def read_until(left: int) -> None:
        nonlocal read
        while len(under_way) > left:
            taken = under_way.popleft()
            metrics = jax.device_get(taken.metrics)
            last, read = read, time.perf_counter()
            # While the host compiled it saw no step end, so nothing is known of those that were under way.
            if taken.number > compiled:
                times.append(read - last)
            update(int(metrics.proteins), loss=f"{float(metrics.losses.total):.3f}")
            if on_result is not None:
                on_result(metrics, taken.settings)
            if not metrics.finite:
                (non_finite or _refuse)(taken, state)

    def known() -> SoFar:
        read_until(0)  # nothing may be saved before these are known to be finite
        rows = [[float(x) for x in jax.tree.leaves(metrics)] for metrics in jax.device_get(history)]
        return SoFar(
            steps=earlier["steps"] + rows,
            step_seconds=earlier["step_seconds"] + times,
            seconds=earlier["seconds"] + time.perf_counter() - start,
            input_seconds=earlier["input_seconds"] + sum(waits),
        )

    proteins_done = int(sum(jax.tree.unflatten(_METRICS, row).proteins for row in earlier["steps"]))
    with progress(num_proteins, description, done=proteins_done, quiet=quiet) as update:
        for graph, step_settings in zip(_timed(batches, waits), settings[done:], strict=True):
            before, known_programs, number = state, programs(), done + len(history)
            state, metrics = step(before, graph, step_settings)
            if programs() > known_programs:
                compiled = number
            history.append(metrics)
            under_way.append(TakenStep(number, before, graph, step_settings, metrics))
            read_until(LAG)
            if after_step is not None:
                after_step(state, known)
        whole = known()
    steps: Any = jax.tree.unflatten(_METRICS, list(np.array(whole["steps"], np.float64).T))
    finite = steps.finite == 1
    if not finite.any():
        raise TrainingError(
            f"{description}: all of its {len(settings)} steps were skipped because they were not finite, so "
            "the run learns nothing; start anew with a lower learning rate"
        )
    losses = [float(loss) if ok else None for loss, ok in zip(steps.losses.total, finite, strict=True)]
    host: Any = jax.tree.map(lambda x: x[finite], steps)  # of skipped steps nothing else is known
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
        gradient_norm=float(host.gradient_norm.mean()),
        largest_gradient_norm=float(host.gradient_norm.max()),
    )
    return TrainEpoch(state, scores, losses, whole)


def _refuse(taken: TakenStep, state: TrainState) -> None:
    raise TrainingError(
        f"the loss is {float(taken.metrics.losses.total)} at step {taken.number + 1}; "
        "try a lower learning rate"
    )


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
    """float32 [P, C]; in pretraining the mean over the residues of a protein."""
    cross_entropy: float
    """Mean over the proteins with a label, 0 when there are none; in pretraining over all residues."""
    cluster_sizes: np.ndarray
    """int [P, S]; S = 0 for the GVP baseline."""
    codes: np.ndarray
    """int [P, S]: -1 where there is none."""
    num_residues: int
    """Residues that could be in a cluster."""
    cluster_features: np.ndarray | None = None
    """float32 [P, S, D]; None where nobody asks for them, as the next."""
    squared_errors: np.ndarray | None = None
    """float32 [P, S]: squared distance of cluster features from what their codes stand for."""
    num_codes: int = 0
    """Size of the codebook; 0 for the GVP baseline."""
    told: ResidueScores | None = None
    """[P, M, ...]: how well residue types were told; None of a model that classifies proteins."""


def predict(
    step: EvalStep, params: Any, codebook: Any, batches: Iterable[PackedGraph], temperature: float
) -> Predictions:
    """Runs the model, without dropout or sampling, over batches that hold every protein once."""
    outputs = []
    for graph in batches:
        out = step(params, codebook, graph, np.float32(temperature))
        outputs.append(out)
    found: Any = EvalOutput._make(zip(*jax.device_get(outputs), strict=True))  # of every field, its batches
    slots = found.proteins
    mask = np.concatenate([slot.mask for slot in slots])
    labelled = np.array([np.sum(slot.mask & (slot.label >= 0)) for slot in slots])
    order = np.argsort(np.concatenate([slot.protein for slot in slots])[mask])

    def flat(parts):
        return np.concatenate(parts)[mask][order]

    scores = None
    if found.told[0] is not None:
        scores = ResidueScores(*map(flat, zip(*found.told, strict=True)))
        labelled = np.array([part.confusion[:, 0].sum() for part in found.told])
    return Predictions(
        labels=flat([slot.label for slot in slots]),
        logits=flat(found.logits),
        cross_entropy=float(np.dot(found.cross_entropy, labelled) / max(labelled.sum(), 1)),
        cluster_sizes=flat(found.cluster_sizes),
        codes=flat(found.codes),
        num_residues=int(sum(found.residues)),
        cluster_features=flat(found.cluster_features),
        squared_errors=flat(found.squared_errors),
        num_codes=int(found.num_codes[0]),
        told=scores,
    )


def check_finite(predictions: Predictions, dataset: ProteinDataset) -> None:
    """Raises TrainingError that names the proteins for which the model gives no finite numbers."""
    bad = np.flatnonzero(~np.isfinite(predictions.logits).all(axis=1))
    if bad.size:
        shown = ", ".join(dataset[int(i)].name for i in bad[:5]) + (" ..." if bad.size > 5 else "")
        raise TrainingError(
            f"split {dataset.split!r}: the model's output is not finite for {bad.size} of {len(dataset)} "
            f"proteins ({shown}); the weights or the coordinates of these proteins are beyond all bounds, so "
            "take an earlier checkpoint, train with a lower learning rate, or leave the proteins out"
        )


class Evaluation(TypedDict):
    """The scores of a split."""

    cross_entropy: float
    classification: Classification
    """Of the residues with all types hidden, in pretraining."""
    clustering: Clustering | None
    """None for the GVP baseline, and in pretraining."""
    recovery: NotRequired[list[Recovery]]
    """In pretraining alone: with all types hidden, then with a share of them where the model sees types."""


def score(predictions: Predictions, class_names: tuple[str, ...]) -> Evaluation:
    """Accuracy and F1 over the proteins with a label; use of clusters and codes over all of them. In
    pretraining accuracy and F1 over residues, and recovery.

    Raises ValueError as `metrics.classification`.
    """
    if predictions.told is not None:
        confusion = np.asarray(predictions.told.confusion)[:, 0].sum(axis=0)
        return Evaluation(
            cross_entropy=predictions.cross_entropy,
            classification=classification_of_confusion(confusion, class_names),
            clustering=None,
            recovery=recoveries(predictions.told),
        )
    return Evaluation(
        cross_entropy=predictions.cross_entropy,
        classification=classification(predictions.labels, predictions.logits.argmax(axis=-1), class_names),
        clustering=clustering(
            predictions.cluster_sizes,
            predictions.codes,
            predictions.num_residues,
            num_codes=predictions.num_codes,
            features=predictions.cluster_features,
            squared_errors=predictions.squared_errors,
        )
        if predictions.cluster_sizes.shape[1]
        else None,
    )
