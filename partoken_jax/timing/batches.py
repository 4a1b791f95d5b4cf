"""The batches that are timed: real proteins as a training run packs them, or synthetic ones of one length."""

from typing import NamedTuple

import numpy as np

from partoken_jax.graphs import BatchLoader, neighbour_tables, plan_batches
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.proteins import ProteinDataset, ProteinList, load_dataset
from partoken_jax.proteins.tasks import EC_CLASSES
from partoken_jax.timing.synthetic import synthetic_protein
from partoken_jax.timing_config import TimingConfig

DISTINCT = 64
"""Synthetic proteins that are made; a larger batch repeats them."""
SYNTHETIC_BATCHES = 8
"""Batches of an epoch of synthetic proteins."""


class TimingData(NamedTuple):
    dataset: ProteinDataset
    loader: BatchLoader
    batch: PackedGraph
    """The batch of the first epoch whose number of residues is the median."""
    residues: int
    """Real residues in `batch`."""
    edges: int
    """Real edges in `batch`."""

    @property
    def proteins(self) -> int:
        """In `batch`: the batch size, or all there are if they are fewer."""
        return int(self.batch.globals.mask.sum())

    @property
    def padding_share(self) -> float:
        """Of the rows of `batch`."""
        return 1.0 - self.residues / len(self.batch.nodes.mask)


def timing_data(config: TimingConfig) -> TimingData:
    """Proteins, their neighbour tables and the batches. Raises DataError for a file that cannot be read."""
    if config.residues is None:
        dataset = load_dataset(config.path, task=config.task, split="train", split_scheme=config.split_scheme)
        tables = neighbour_tables(dataset, config.neighbours)
    else:
        names = tuple(EC_CLASSES)
        made = [
            synthetic_protein(config.residues, seed, label=seed % len(names))
            for seed in range(min(config.batch_size, DISTINCT))
        ]
        count = config.batch_size * (SYNTHETIC_BATCHES if "epoch" in config.passes else 1)
        proteins = ProteinList(made[i % len(made)] for i in range(count))
        dataset = ProteinDataset(
            proteins, names, config.task, "train", f"synthetic, {config.residues} residues"
        )
        distinct = neighbour_tables(made, config.neighbours)
        tables = [distinct[i % len(made)] for i in range(count)]
    plan = plan_batches(
        train=dataset.lengths,
        validation=np.zeros(0, np.int64),
        test=np.zeros(0, np.int64),
        epochs=1,
        batch_size=config.batch_size,
        max_shapes=4,
        seed=config.seed,
    )
    loader = BatchLoader(dataset, tables, plan)
    # The last batch may have fewer proteins.
    batches = list(loader.epoch(0))[: max(1, len(dataset) // config.batch_size)]
    sizes = [int(batch.nodes.mask.sum()) for batch in batches]
    batch = batches[int(np.argsort(sizes, kind="stable")[len(sizes) // 2])]
    return TimingData(dataset, loader, batch, int(batch.nodes.mask.sum()), int(batch.edges.mask.sum()))
