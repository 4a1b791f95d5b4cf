"""Batches of a dataset, packed as they are asked for: a source that Grain reads ahead, in threads."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import grain
import jax
import numpy as np

from partoken_jax.graphs.batching import BatchPlan, deal
from partoken_jax.graphs.packing import FlatProteins, pack_flat, padded_count
from partoken_jax.graphs.streaming import StreamedProteins, residues
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.proteins import ProteinDataset

READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
"""Threads that pack, and batches that wait on the host."""


class PackedBatches:
    """The batches of one pass over a dataset, any of them by number; what `grain` calls a data source."""

    def __init__(
        self,
        proteins: FlatProteins | StreamedProteins,
        plan: BatchPlan,
        batches: list[np.ndarray],
        shards: Sequence[int] | None,
    ):
        """`batches`: numbers of proteins; `shards`: those to pack, None for all."""
        self.proteins, self.plan, self.batches = proteins, plan, batches
        self.shards = range(plan.num_shards) if shards is None else shards

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> PackedGraph:
        """A batch; with several shards every array has an axis of shards first."""
        places = self.batches[number]
        lengths = self.proteins.length[places]
        if self.plan.num_shards == 1:
            return _pack(self.proteins, places, self.plan.node_count(int(lengths.sum())), self.plan.slots)
        dealt = deal(lengths, self.plan.num_shards)
        num_nodes = self.plan.node_count(max(int(lengths[shard].sum()) for shard in dealt))
        packed = [
            _pack(self.proteins, places[dealt[shard]], num_nodes, self.plan.slots) for shard in self.shards
        ]
        return jax.tree.map(lambda *arrays: np.stack(arrays), *packed)


class BatchLoader:
    """Packs one dataset into the batches of a plan: NumPy `PackedGraph`s as in graphs/types.py.

    Where the plan has several shards, every array of a batch has an axis of shards in front. Each shard is a
    batch of its own, of `plan.slots` slots, to which the proteins are dealt by length (`deal`); all shards of
    a batch have one node count. `globals.protein` is the number in the dataset, whatever the shard.
    """

    def __init__(self, dataset: ProteinDataset, tables: Sequence[np.ndarray], plan: BatchPlan):
        """Copies the residues into flat arrays; those of a prepared set stay on disk and are read batch by
        batch.

        Args:
          tables: neighbour table of every protein, int32 [L, K] (`neighbours.neighbour_tables`).
        """
        self.plan = plan
        self.proteins = residues(dataset, tables)

    def __len__(self) -> int:
        """Batches per epoch, and per evaluation; with a budget of residues `num_batches` tells them."""
        return self.num_batches(0)

    def num_batches(self, epoch: int) -> int:
        """Batches of an epoch of training; without a budget of residues the same for every epoch."""
        if self.plan.residues_per_batch is None:
            return -(-len(self.proteins.length) // self.plan.batch_size)
        return len(self.plan.training(self.proteins.length, epoch))

    def epoch(
        self, epoch: int, first: int = 0, shards: Sequence[int] | None = None
    ) -> "grain.DatasetIterator[PackedGraph]":
        """The training batches of an epoch, counted from 0 over all stages, from batch `first` on.

        `shards` are those to pack and give, by default all: a process of several reads only its share.
        `get_state` of the iterator tells the next batch, and `set_state` goes there.
        """
        return self._stream(self.plan.training(self.proteins.length, epoch), first, shards)

    def whole_batch(self, epoch: int, number: int) -> PackedGraph:
        """A training batch by its number, in one piece whatever the number of shards."""
        places = self.plan.training(self.proteins.length, epoch)[number]
        return _pack(
            self.proteins, places, padded_count(int(self.proteins.length[places].sum())), len(places)
        )

    def evaluation(self, shards: Sequence[int] | None = None) -> "grain.DatasetIterator[PackedGraph]":
        """All proteins once, in an order that never changes; `globals.protein` tells which is where."""
        return self._stream(self._evaluation_batches, 0, shards)

    @cached_property
    def _evaluation_batches(self) -> list[np.ndarray]:
        return self.plan.evaluation(self.proteins.length)

    def _stream(self, batches: list[np.ndarray], first: int, shards: Sequence[int] | None) -> Any:
        source = PackedBatches(self.proteins, self.plan, batches, shards)
        stream = iter(grain.MapDataset.source(source).to_iter_dataset(READ_AHEAD))
        stream.set_state({"next_index": first})
        return stream


def _pack(
    proteins: FlatProteins | StreamedProteins, places: np.ndarray, num_nodes: int, slots: int
) -> PackedGraph:
    if isinstance(proteins, StreamedProteins):
        proteins, places = proteins.some(places), np.arange(len(places))
    return pack_flat(proteins, places, num_nodes=num_nodes, batch_size=slots)
