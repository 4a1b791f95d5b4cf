"""From the data settings of a run to its batches."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from partoken_jax.config import DataConfig, TrainConfig
from partoken_jax.graphs import BatchLoader, BatchPlan, neighbour_tables, plan_batches
from partoken_jax.proteins import DataError, ProteinDataset, limit_lengths, load_splits, subset

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
EVALUATION_SEED = 0
"""Draws the validation and test proteins of `max_eval`: runs with other seeds are scored on the same ones."""


@dataclass(frozen=True)
class RunData:
    """The proteins of a run and the batches they come in."""

    datasets: dict[Split, ProteinDataset]
    loaders: dict[Split, BatchLoader]
    plan: BatchPlan
    cropped: dict[Split, list[str]]
    """Names of the proteins that were cut to `max_length`."""
    fingerprint: str
    """SHA-256 of the file that the proteins come from."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.datasets["train"].class_names


def load_run_data(config: TrainConfig) -> RunData:
    """All three splits of the file, read once, and their batches.

    Raises DataError for data that cannot be read, and as `prepare` does.
    """
    return prepare(config, load_data(config.data))


def load_data(config: DataConfig, splits: Sequence[Split] = SPLITS) -> dict[Split, ProteinDataset]:
    """Whole splits of the file of the settings. Raises DataError for data that cannot be read."""
    found = load_splits(config.path, task=config.task, split_scheme=config.split_scheme, splits=splits)
    return {split: found[split] for split in splits}


def prepare(config: TrainConfig, datasets: Mapping[Split, ProteinDataset]) -> RunData:
    """Applies the limits of the settings to the three splits, computes neighbour tables (once) and plans all
    batches of the run.

    Raises DataError as `limited` does, and for a split without any label: training needs them, and so do the
    choice of the best epoch and the final scores.
    """
    chosen: dict[Split, ProteinDataset] = {}
    cropped: dict[Split, list[str]] = {}
    for split, dataset in datasets.items():
        chosen[split], cropped[split] = limited(dataset, config.data, config.seed)
        require_labels(chosen[split])
    plan = plan_batches(
        train=chosen["train"].lengths,
        validation=chosen["val"].lengths,
        test=chosen["test"].lengths,
        epochs=config.stage0.epochs + config.stage1.epochs,
        batch_size=config.data.batch_size,
        max_shapes=config.data.max_shapes,
        seed=config.seed,
    )
    loaders = {
        split: BatchLoader(dataset, neighbour_tables(dataset.proteins, config.data.neighbours), plan)
        for split, dataset in chosen.items()
    }
    with open(chosen["train"].source, "rb") as file:
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    return RunData(chosen, loaders, plan, cropped, fingerprint)


def limited(dataset: ProteinDataset, config: DataConfig, seed: int) -> tuple[ProteinDataset, list[str]]:
    """The proteins of a split that the settings leave, and the names of those that were cropped.

    Training proteins are drawn by `seed`, others by `EVALUATION_SEED`. Raises DataError for proteins that are
    refused as too long.
    """
    if dataset.split == "train":
        dataset = subset(dataset, config.max_train, seed)
    else:
        dataset = subset(dataset, config.max_eval, EVALUATION_SEED)
    return limit_lengths(dataset, config.max_length, config.too_long)


def require_labels(dataset: ProteinDataset) -> None:
    """Raises DataError where no protein has a label."""
    if len(dataset) and (dataset.labels < 0).all():
        raise DataError(
            f"{dataset.source}: none of the {len(dataset)} proteins of split {dataset.split!r} has a label, "
            "so there is nothing to train on or to score; give data with labels"
        )


def describe(data: RunData) -> list[str]:
    """What a run says about its data before it starts: sizes, limits, padding; one line each."""
    train = data.datasets["train"]
    lines = [f"{train.source}: task {train.task}, {len(train.class_names)} classes"]
    for split, dataset in data.datasets.items():
        line = f"{split}: {len(dataset)} proteins, {int(dataset.lengths.sum())} residues"
        missing = sum(int((~protein.complete).sum()) for protein in dataset.proteins)
        if missing:
            line += f", {missing} of them masked for missing atoms"
        if unlabelled := int((dataset.labels < 0).sum()):
            line += f"; {unlabelled} proteins have no label and count neither in cross entropy nor in scores"
        lines.append(line)
        if names := data.cropped[split]:
            shown = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
            lines.append(f"{split}: {len(names)} proteins cropped to max_length: {shown}")
    if train.left_out:
        lines.append(f"{len(train.left_out)} chains of the task are in no split of the chosen scheme")
    lines.append(
        f"batches of {data.plan.batch_size} padded to {list(data.plan.node_counts)} residues, "
        f"{data.plan.padding_share:.1%} padding"
    )
    return lines
