"""From the data settings of a run to its batches."""

from dataclasses import dataclass
from typing import Literal

from partoken_jax.config import DataConfig, TrainConfig
from partoken_jax.graphs import BatchLoader, BatchPlan, neighbour_tables, plan_batches
from partoken_jax.proteins import ProteinDataset, limit_lengths, load_dataset, subset

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class RunData:
    """The proteins of a run and the batches they come in."""

    datasets: dict[Split, ProteinDataset]
    loaders: dict[Split, BatchLoader]
    plan: BatchPlan
    cropped: dict[Split, list[str]]
    """Names of the proteins that were cut to `max_length`."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.datasets["train"].class_names


def load_split(config: DataConfig, split: Split, seed: int) -> tuple[ProteinDataset, list[str]]:
    """One split with the limits of the settings applied, and the names of the cropped proteins.

    Raises DataError for data that cannot be read or proteins that are refused as too long.
    """
    dataset = load_dataset(config.path, task=config.task, split=split, split_scheme=config.split_scheme)
    dataset = subset(dataset, config.max_train if split == "train" else config.max_eval, seed)
    return limit_lengths(dataset, config.max_length, config.too_long)


def load_run_data(config: TrainConfig) -> RunData:
    """All three splits, their neighbour tables (computed once), and the plan of all batches of the run.

    Raises DataError as `load_split` does.
    """
    splits: tuple[Split, ...] = ("train", "val", "test")
    datasets, cropped = {}, {}
    for split in splits:
        datasets[split], cropped[split] = load_split(config.data, split, config.seed)
    plan = plan_batches(
        train=datasets["train"].lengths,
        validation=datasets["val"].lengths,
        test=datasets["test"].lengths,
        epochs=config.stage0.epochs + config.stage1.epochs,
        batch_size=config.data.batch_size,
        max_shapes=config.data.max_shapes,
        seed=config.seed,
    )
    loaders = {
        split: BatchLoader(dataset, neighbour_tables(dataset.proteins, config.data.neighbours), plan)
        for split, dataset in datasets.items()
    }
    return RunData(datasets, loaders, plan, cropped)


def describe(data: RunData) -> list[str]:
    """What a run says about its data before it starts: sizes, limits, padding; one line each."""
    train = data.datasets["train"]
    lines = [f"{train.source}: task {train.task}, {len(train.class_names)} classes"]
    for split, dataset in data.datasets.items():
        line = f"{split}: {len(dataset)} proteins, {int(dataset.lengths.sum())} residues"
        missing = sum(int((~protein.complete).sum()) for protein in dataset.proteins)
        if missing:
            line += f", {missing} of them masked for missing atoms"
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
