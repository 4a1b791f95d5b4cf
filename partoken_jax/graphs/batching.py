"""Which proteins share a batch, and the few node counts that a run's batches are padded to.

Every batch of a run is known in advance: training batches from the seed and the epoch, evaluation
batches from the lengths. So the node counts can be chosen to waste least.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from partoken_jax.graphs.packing import ROUND_TO, FlatProteins, flatten, pack_flat
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.proteins import DataError, ProteinDataset


@dataclass(frozen=True)
class BatchPlan:
    """How a run batches its proteins. Made by `plan_batches`."""

    batch_size: int
    """B: proteins per training batch; the last of an epoch has the remainder."""
    seed: int
    node_counts: tuple[int, ...]
    """The padded sizes of the run, ascending; one compilation each."""
    padding_share: float
    """Padding residues / all rows, over all batches of the run."""

    def node_count(self, total: int) -> int:
        """The smallest size that holds `total` residues and a padding residue.

        Raises DataError if none does.
        """
        for count in self.node_counts:
            if count > total:
                return count
        raise DataError(
            f"a batch of {total} residues does not fit the planned node counts {self.node_counts}; "
            "plan with this dataset and all its epochs"
        )


def plan_batches(
    *,
    train: np.ndarray | Sequence[int] = (),
    validation: np.ndarray | Sequence[int] = (),
    test: np.ndarray | Sequence[int] = (),
    epochs: int,
    batch_size: int,
    max_shapes: int,
    seed: int,
) -> BatchPlan:
    """Chooses the node counts of a run by dynamic programming over the totals of all its batches.

    Totals are rounded up to multiples of 64. Least rows over the first j sizes with s shapes:
    rows_s(j) = min_i rows_{s-1}(i) + size_j * batches(i+1..j).

    Args:
      train, validation, test: lengths of the proteins in residues; empty where not used.
      epochs: epochs of training, all stages; each is followed by one validation.
      batch_size: B.
      max_shapes: most node counts.
      seed: the seed of `training_batches`.

    Raises DataError if there are no batches, or batch_size or max_shapes is below 1.
    """
    if batch_size < 1 or max_shapes < 1:
        raise DataError(
            f"batch_size is {batch_size} and max_shapes {max_shapes}, but both must be at least 1"
        )
    train, validation, test = (np.asarray(lengths, np.int64) for lengths in (train, validation, test))
    parts = [_totals(train, training_batches(len(train), batch_size, seed, epoch)) for epoch in range(epochs)]
    times = [1] * epochs
    # Training proteins may be evaluated too: that must fit (times 0), but does not count.
    for lengths, repeats in ((train, 0), (validation, max(epochs, 1)), (test, 1)):
        parts.append(_totals(lengths, evaluation_batches(lengths, batch_size)))
        times.append(repeats)
    totals = np.concatenate(parts)
    weights = np.repeat(times, [len(part) for part in parts])
    if totals.size == 0:
        raise DataError("there are no proteins to plan batches for; give lengths of at least one split")
    counts = _choose_counts((totals // ROUND_TO + 1) * ROUND_TO, weights, max_shapes)
    rows = int(np.sum(weights * np.array(counts)[np.searchsorted(counts, totals, side="right")]))
    share = 1 - float(np.sum(weights * totals)) / rows if rows else 0.0
    return BatchPlan(batch_size=batch_size, seed=seed, node_counts=counts, padding_share=share)


def training_batches(num_proteins: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """All proteins once, shuffled by (seed, epoch), `batch_size` at a time; the last has the rest."""
    order = np.random.default_rng((seed, epoch)).permutation(num_proteins)
    return [order[i : i + batch_size] for i in range(0, num_proteins, batch_size)]


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """All proteins once, in as few batches as possible, of nearly equal size and residue total.

    Proteins are dealt from longest to shortest, to and fro over the batches; numbers ascend within a batch.
    """
    num_batches = -(-len(lengths) // batch_size)
    if num_batches == 0:
        return []
    order = np.argsort(-np.asarray(lengths), kind="stable")
    round_, place = np.divmod(np.arange(len(order)), num_batches)
    batch = np.where(round_ % 2 == 0, place, num_batches - 1 - place)
    return [np.sort(order[batch == b]) for b in range(num_batches)]


class BatchLoader:
    """Packs one dataset into the batches of a plan: NumPy `PackedGraph`s as in graphs/types.py."""

    def __init__(self, dataset: ProteinDataset, tables: Sequence[np.ndarray], plan: BatchPlan):
        """Copies the residues into flat arrays.

        Args:
          tables: neighbour table of every protein, int32 [L, K] (`neighbours.neighbour_tables`).
        """
        self.plan = plan
        self.flat: FlatProteins = flatten(dataset, tables)

    def __len__(self) -> int:
        """Batches per epoch, and per evaluation."""
        return -(-len(self.flat.length) // self.plan.batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[PackedGraph]:
        """The training batches of an epoch, counted from 0 over all stages, from batch `first` on."""
        batches = training_batches(len(self.flat.length), self.plan.batch_size, self.plan.seed, epoch)
        yield from self._pack(batches[first:])

    def evaluation(self) -> Iterator[PackedGraph]:
        """All proteins once, in an order that never changes; `globals.protein` tells which is where."""
        yield from self._pack(evaluation_batches(self.flat.length, self.plan.batch_size))

    def _pack(self, batches: list[np.ndarray]) -> Iterator[PackedGraph]:
        for indices in batches:
            num_nodes = self.plan.node_count(int(self.flat.length[indices].sum()))
            yield pack_flat(self.flat, indices, num_nodes=num_nodes, batch_size=self.plan.batch_size)


def _totals(lengths: np.ndarray, batches: list[np.ndarray]) -> np.ndarray:
    return np.array([lengths[batch].sum() for batch in batches], np.int64)


def _choose_counts(sizes: np.ndarray, weights: np.ndarray, max_shapes: int) -> tuple[int, ...]:
    """At most `max_shapes` of the sizes, the largest among them, that cost the fewest rows."""
    size, place = np.unique(sizes, return_inverse=True)
    num = len(size)
    batches = np.concatenate([[0], np.cumsum(np.bincount(place, weights, num))])
    # cost[i, j]: rows if sizes i..j are all padded to size j.
    cost = np.where(np.tri(num, dtype=bool).T, size * (batches[1:] - batches[:-1, None]), np.inf)
    rows, choices = cost[0], []
    for _ in range(min(max_shapes, num) - 1):
        options = np.concatenate([[0.0], rows[:-1]])[:, None] + cost  # option i: the last shape covers i..j
        choices.append(options.argmin(axis=0))
        rows = options.min(axis=0)
    counts, last = [], num - 1
    for choice in reversed(choices):
        counts.append(int(size[last]))
        last = int(choice[last]) - 1
        if last < 0:
            return tuple(reversed(counts))
    return (int(size[last]), *reversed(counts))
