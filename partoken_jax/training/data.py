"""From the data settings of a run to its batches.

Importing this does not import JAX, so that what is wrong with the proteins is said at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from partoken_jax.config import RESIDUE_TASK, DataConfig, TrainConfig
from partoken_jax.proteins import (
    DataError,
    ProteinDataset,
    limit_lengths,
    load_splits,
    require_classes,
    subset,
)

if TYPE_CHECKING:
    from partoken_jax.graphs import BatchLoader, BatchPlan

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
EVALUATION_SEED = 0
"""Draws the validation and test proteins of `max_eval`: runs with other seeds are scored on the same ones."""


@dataclass(frozen=True)
class RunData:
    """The proteins of a run and the batches they come in."""

    datasets: dict[Split, ProteinDataset]
    loaders: "dict[Split, BatchLoader]"
    plan: "BatchPlan"
    cropped: dict[Split, list[str]]
    """Names of the proteins that were cut to `max_length`."""
    fingerprint: str
    """Checksum of the file or prepared set that the proteins come from."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.datasets["train"].class_names


def load_run_data(config: TrainConfig, num_shards: int = 1) -> RunData:
    """All three splits of the file or prepared set, read once, and their batches in `num_shards` parts each.

    Raises DataError as `load_data` and `prepare` do.
    """
    return prepare(config, load_data(config.data), num_shards)


def load_data(config: DataConfig, splits: Sequence[Split] = SPLITS) -> dict[Split, ProteinDataset]:
    """Whole splits of the file of the settings. Raises DataError for data that cannot be read."""
    found = load_splits(config.path, task=config.task, split_scheme=config.split_scheme, splits=splits)
    return {split: found[split] for split in splits}


def prepare(config: TrainConfig, datasets: Mapping[Split, ProteinDataset], num_shards: int = 1) -> RunData:
    """Applies the limits of the settings to the three splits, computes neighbour tables (once; a prepared set
    holds them) and plans all batches of the run.

    Raises DataError as `limited` does, for training proteins that are all of one class, and for a split
    without any label: training needs them, and so do the choice of the best epoch and the final scores.
    """
    from partoken_jax.graphs import BatchLoader, neighbour_tables, plan_batches

    require_classes(datasets["train"])
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
        num_shards=num_shards,
        residues_per_batch=config.data.residues_per_batch,
    )
    loaders = {
        split: BatchLoader(dataset, neighbour_tables(dataset, config.data.neighbours), plan)
        for split, dataset in chosen.items()
    }
    return RunData(chosen, loaders, plan, cropped, chosen["train"].fingerprint)


def checked_data(config: TrainConfig) -> dict[Split, ProteinDataset]:
    """All three splits, whole. Raises DataError where they or the settings' limits on them cannot be used."""
    datasets = load_data(config.data)
    require_classes(datasets["train"])
    for dataset in datasets.values():
        require_labels(limited(dataset, config.data, config.seed)[0])
    return datasets


def limited(dataset: ProteinDataset, config: DataConfig, seed: int) -> tuple[ProteinDataset, list[str]]:
    """The proteins of a split that the settings leave, and the names of those that were cropped.

    Training proteins are drawn by `seed`, others by `EVALUATION_SEED`. Raises DataError for proteins that are
    refused as too long, or exceed the budget of a batch.
    """
    if dataset.split == "train":
        dataset = subset(dataset, config.max_train, seed)
    else:
        dataset = subset(dataset, config.max_eval, EVALUATION_SEED)
    dataset, cropped = limit_lengths(dataset, config.max_length, config.too_long)
    budget, lengths = config.residues_per_batch, dataset.lengths
    if budget is not None and len(dataset) and lengths.max() > budget:
        longest = int(lengths.argmax())
        raise DataError(
            f"{dataset.source}: {dataset.names[longest]} has {lengths[longest]} residues, more than a "
            f"whole batch may have (data.residues_per_batch = {budget}); raise that, or lower "
            "data.max_length to it and set data.too_long to crop"
        )
    return dataset, cropped


def require_labels(dataset: ProteinDataset) -> None:
    """Raises DataError where no protein has a label, unless the task needs none."""
    if dataset.task == RESIDUE_TASK:
        return
    if len(dataset) and (dataset.labels < 0).all():
        raise DataError(
            f"{dataset.source}: none of the {len(dataset)} proteins of split {dataset.split!r} has a label, "
            "so there is nothing to train on or to score; give data with labels"
        )


def describe(data: RunData) -> list[str]:
    """What a run says about its data before it starts: sizes, limits, padding; one line each."""
    train = data.datasets["train"]
    pretraining = train.task == RESIDUE_TASK
    lines = [f"{train.source}: task {train.task}, {len(train.class_names)} classes"]
    for split, dataset in data.datasets.items():
        line = f"{split}: {len(dataset)} proteins, {int(dataset.lengths.sum())} residues"
        if missing := dataset.num_incomplete:
            line += f", {missing} of them masked for missing atoms"
        if (unlabelled := int((dataset.labels < 0).sum())) and not pretraining:
            line += f"; {unlabelled} proteins have no label and count neither in cross entropy nor in scores"
        lines.append(line)
        if names := data.cropped[split]:
            shown = ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
            lines.append(f"{split}: {len(names)} proteins cropped to max_length: {shown}")
    if train.left_out:
        also = "kept by another for validation or test" if pretraining else "in a class of too few chains"
        number = len(train.left_out)
        lines.append(f"{number} chains of the task are in no split of the chosen scheme, or {also}")
    budget = data.plan.residues_per_batch
    within = "" if budget is None else f", or {budget} residues if that is less,"
    lines.append(
        f"batches of {data.plan.batch_size}{within} padded to {list(data.plan.node_counts)} residues, "
        f"{data.plan.padding_share:.1%} padding"
    )
    return lines
