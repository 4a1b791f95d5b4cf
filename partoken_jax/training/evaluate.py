"""Evaluates a trained model on a split: a checkpoint, with nothing but its run directory, or any other."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from partoken_jax.config import DataConfig
from partoken_jax.files import write_whole
from partoken_jax.graphs import BatchLoader, neighbour_tables, plan_batches
from partoken_jax.proteins import DataError, ProteinDataset
from partoken_jax.training.calibration import negative_log_likelihood
from partoken_jax.training.checkpoints import Which
from partoken_jax.training.data import Split, limited, load_data, require_labels
from partoken_jax.training.devices import data_mesh, num_shards, put_batch, replicate
from partoken_jax.training.epochs import Evaluation, Predictions, check_finite, predict, score
from partoken_jax.training.prefetch import prefetch
from partoken_jax.training.step import make_eval_step
from partoken_jax.training.trained import TrainedModel, trained_run


class ProteinPrediction(TypedDict):
    """What the model says about one protein."""

    name: str
    label: int
    """-1 where there is none."""
    predicted: int
    logits: list[float]


class ProteinRecovery(TypedDict):
    """How well a pretrained model tells the residue types of a protein, all of them hidden."""

    name: str
    residues: int
    """Those of a standard type, with all atoms."""
    recovery: float
    """Share of them given their type."""
    perplexity: float
    """exp of their mean cross entropy."""


class EvaluationReport(TypedDict):
    """RUN_DIR/evaluation_<split>.json"""

    run_dir: str
    """Directory of the run, or file of the model."""
    checkpoint: str
    epoch: int
    data: str
    """File that the proteins come from."""
    task: str
    split_scheme: str
    split: str
    cropped: list[str]
    """Proteins cut to the run's `max_length`, by name."""
    scores: Evaluation
    predictions: list[ProteinPrediction] | list[ProteinRecovery]


def evaluate(
    run_dir: str | Path,
    *,
    split: Split = "test",
    checkpoint: Which = "best",
    data: str | None = None,
    task: str | None = None,
    split_scheme: str | None = None,
) -> EvaluationReport:
    """Scores a checkpoint. Writes nothing; `write_evaluation` does.

    Proteins, limits and cropping are those of the run; `data` puts another file or prepared set in place of
    its own, `task` and `split_scheme` other columns of it. Proteins without a label are predicted, but not
    scored.

    Raises CheckpointError without such a checkpoint, DataError for data that do not fit or have no labels,
    TrainingError where the model's output is not finite.
    """
    model = trained_run(run_dir, checkpoint)
    return evaluate_model(
        model, split=split, checkpoint=checkpoint, data=data, task=task, split_scheme=split_scheme
    )


def evaluate_model(
    model: TrainedModel,
    *,
    split: Split = "test",
    checkpoint: Which = "best",
    data: str | None = None,
    task: str | None = None,
    split_scheme: str | None = None,
) -> EvaluationReport:
    """`evaluate` for a model that has been read; `checkpoint` says which one of its run it is.

    The data may have fewer classes than the model, as a file with few proteins has: labels go by the names of
    the classes. Raises DataError and TrainingError as `evaluate`.
    """
    config = data_settings(model, data, task, split_scheme)
    dataset, cropped = evaluation_data(model, split, config)
    class_numbers = _class_numbers(model, dataset)
    predictions = predict_all(model, dataset)
    check_finite(predictions, dataset)
    if dataset.class_names != model.class_names:
        predictions = _relabelled(predictions, class_numbers)
    return EvaluationReport(
        run_dir=model.source,
        checkpoint=checkpoint,
        epoch=model.epoch,
        data=Path(dataset.source).name,
        task=config.task,
        split_scheme=config.split_scheme,
        split=split,
        cropped=cropped,
        scores=score(predictions, model.class_names),
        predictions=_of_proteins(dataset.names, predictions),
    )


def data_settings(
    model: TrainedModel, data: str | None, task: str | None, split_scheme: str | None
) -> DataConfig:
    """The model's own, but for what is given."""
    own = model.config.data
    return dataclasses.replace(
        own,
        path=own.path if data is None else data,
        task=own.task if task is None else task,
        split_scheme=own.split_scheme if split_scheme is None else split_scheme,
    )


def evaluation_data(
    model: TrainedModel, split: Split, config: DataConfig
) -> tuple[ProteinDataset, list[str]]:
    """The proteins of a split as an evaluation of the model reads them, and the names of those that were cut
    to its `max_length`. Raises DataError for data that cannot be used or have no labels."""
    dataset, cropped = limited(load_data(config, (split,))[split], config, model.config.seed)
    require_labels(dataset)
    return dataset, cropped


def predict_all(model: TrainedModel, dataset: ProteinDataset) -> Predictions:
    """What a model says of the proteins of a data set, in batches as its training had them."""
    config, mesh = model.config, data_mesh(None)
    plan = plan_batches(
        test=dataset.lengths,
        epochs=0,
        batch_size=config.data.batch_size,
        max_shapes=config.data.max_shapes,
        seed=config.seed,
        residues_per_batch=config.data.residues_per_batch,
        num_shards=num_shards(mesh),
    )
    tables = neighbour_tables(dataset, config.data.neighbours)
    return predict(
        make_eval_step(model.graphdef, bypass_codebook=model.bypass_codebook, mesh=mesh),
        *replicate((model.params, model.codebook), mesh),
        prefetch(BatchLoader(dataset, tables, plan).evaluation(), put=put_batch(mesh)),
        model.temperature,
    )


def _of_proteins(
    names: Sequence[str], predictions: Predictions
) -> list[ProteinPrediction] | list[ProteinRecovery]:
    if predictions.told is not None:
        confusion, cross_entropy = (np.asarray(scores)[:, 0] for scores in predictions.told)
        residues = confusion.sum(axis=(1, 2))
        right, counted = np.einsum("pii->p", confusion), np.maximum(residues, 1)
        return [
            ProteinRecovery(name=name, residues=int(n), recovery=float(share), perplexity=float(unsure))
            for name, n, share, unsure in zip(
                names, residues, right / counted, np.exp(cross_entropy / counted), strict=True
            )
        ]
    return [
        ProteinPrediction(
            name=name, label=int(label), predicted=int(logits.argmax()), logits=[float(x) for x in logits]
        )
        for name, label, logits in zip(names, predictions.labels, predictions.logits, strict=True)
    ]


def _class_numbers(model: TrainedModel, dataset: ProteinDataset) -> np.ndarray:
    """int [classes of the data]: the number that each of them has in the model."""
    if not set(dataset.class_names) <= set(model.class_names):
        raise DataError(
            f"{dataset.source} has the classes {list(dataset.class_names)}, but {model.source} was trained "
            f"on {list(model.class_names)}; give data of the same task"
        )
    return np.array([model.class_names.index(name) for name in dataset.class_names])


def _relabelled(predictions: Predictions, class_numbers: np.ndarray) -> Predictions:
    """With labels that count the classes as the model does."""
    labels = np.where(predictions.labels >= 0, class_numbers[predictions.labels], -1)
    return predictions._replace(
        labels=labels, cross_entropy=negative_log_likelihood(predictions.logits, labels)
    )


def write_evaluation(report: EvaluationReport) -> Path:
    """Writes RUN_DIR/evaluation_<split>.json, whole or not at all, and returns its path.

    Raises OSError, as in a directory that may only be read.
    """
    path = Path(report["run_dir"]) / f"evaluation_{report['split']}.json"
    write_whole(path, json.dumps(report, indent=1) + "\n")
    return path
