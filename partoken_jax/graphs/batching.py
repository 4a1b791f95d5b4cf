"""Which proteins share a batch, and the few node counts that a run's batches are padded to.

Every batch of a run is known in advance: training batches from the seed and the epoch, evaluation
batches from the lengths. So the node counts can be chosen to waste least.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partoken_jax.graphs.packing import ROUND_TO, padded_count
from partoken_jax.proteins import DataError

PLANNED_PROTEINS = 10_000_000
"""Proteins of all epochs that a plan looks at (half a second); of a longer run it looks at some epochs."""
PLANNED_EPOCHS = 1000


@dataclass(frozen=True)
class BatchPlan:
    """How a run batches its proteins. Made by `plan_batches`."""

    batch_size: int
    """B: proteins per training batch; the last of an epoch has the remainder. With a budget, the most."""
    seed: int
    node_counts: tuple[int, ...]
    """The padded sizes of the run, of a shard where there are several; ascending, one compilation each."""
    padding_share: float
    """Padding residues / all rows, over all batches of the run."""
    num_shards: int = 1
    """D: parts of a batch, one for each device. Every shard of a batch has the same node count."""
    residues_per_batch: int | None = None
    """Budget: the most residues of a batch. None: a batch takes as many proteins as `batch_size` says."""
    growth: int = 0
    """Residues by which the largest size grows for a batch that it does not hold; 0: such a batch is refused.
    Only the plan of a run too long to look at every epoch grows."""

    @property
    def slots(self) -> int:
        """Proteins that a shard has room for: ceil(B / D)."""
        return -(-self.batch_size // self.num_shards)

    def node_count(self, total: int) -> int:
        """The smallest size that holds `total` residues and a padding residue.

        Raises DataError if none does.
        """
        for count in self.node_counts:
            if count > total:
                return count
        largest = self.node_counts[-1]
        if self.growth:
            return largest + (total - largest + self.growth) // self.growth * self.growth
        raise DataError(
            f"a batch of {total} residues does not fit the planned node counts {self.node_counts}; "
            "plan with this dataset and all its epochs"
        )

    def training(self, lengths: np.ndarray, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, as numbers of proteins (`training_batches`)."""
        return training_batches(
            len(lengths), self.batch_size, self.seed, epoch, lengths, self.residues_per_batch
        )

    def evaluation(self, lengths: np.ndarray) -> list[np.ndarray]:
        """The batches of an evaluation, as numbers of proteins (`evaluation_batches`)."""
        return evaluation_batches(lengths, self.batch_size, self.residues_per_batch)


def plan_batches(
    *,
    train: np.ndarray | Sequence[int] = (),
    validation: np.ndarray | Sequence[int] = (),
    test: np.ndarray | Sequence[int] = (),
    epochs: int,
    batch_size: int,
    max_shapes: int,
    seed: int,
    num_shards: int = 1,
    residues_per_batch: int | None = None,
) -> BatchPlan:
    """Chooses the node counts of a run by dynamic programming over the totals of all its batches, or of their
    largest shards.

    Totals are rounded up to multiples of 64. Least rows over the first j sizes with s shapes:
    rows_s(j) = min_i rows_{s-1}(i) + size_j * batches(i+1..j).

    Of a run of more than `PLANNED_EPOCHS` epochs or `PLANNED_PROTEINS` proteins over all of them, some epochs
    stand for all; the largest size then has room to spare and may grow.

    Args:
      train, validation, test: lengths of the proteins in residues; empty where not used.
      epochs: epochs of training, all stages; each is followed by one validation.
      batch_size: B.
      max_shapes: most node counts; with a budget of residues there is one.
      seed: the seed of `training_batches`.
      num_shards: D, parts of a batch.
      residues_per_batch: the budget of a batch, or None.

    Raises DataError if there are no batches, batch_size, max_shapes or num_shards is below 1, or a protein is
    longer than the budget.
    """
    if batch_size < 1 or max_shapes < 1 or num_shards < 1:
        raise DataError(
            f"batch_size is {batch_size}, max_shapes {max_shapes} and num_shards {num_shards}, "
            "but all must be at least 1"
        )
    train, validation, test = (np.asarray(lengths, np.int64) for lengths in (train, validation, test))
    planned: Sequence[int] = range(epochs)
    if epochs > PLANNED_EPOCHS or epochs * len(train) > PLANNED_PROTEINS:
        count = min(PLANNED_EPOCHS, max(1, PLANNED_PROTEINS // max(len(train), 1)))
        planned = np.unique(np.linspace(0, epochs - 1, count).astype(int)).tolist()
    parts = []
    for epoch in planned:
        batches = training_batches(len(train), batch_size, seed, epoch, train, residues_per_batch)
        parts.append(_totals(train, batches, num_shards))
    times: list[float] = [epochs / max(len(planned), 1)] * len(planned)
    # Training proteins may be evaluated too: that must fit (times 0), but does not count.
    for lengths, repeats in ((train, 0), (validation, max(epochs, 1)), (test, 1)):
        batches = evaluation_batches(lengths, batch_size, residues_per_batch)
        parts.append(_totals(lengths, batches, num_shards))
        times.append(repeats)
    totals, largest = np.concatenate(parts, axis=1)
    weights = np.repeat(times, [part.shape[1] for part in parts])
    if totals.size == 0:
        raise DataError("there are no proteins to plan batches for; give lengths of at least one split")
    shapes = 1 if residues_per_batch is not None else max_shapes
    counts = _choose_counts((largest // ROUND_TO + 1) * ROUND_TO, weights, shapes)
    growth = 0
    if residues_per_batch is not None and num_shards == 1 and 8 * largest.max() >= 7 * residues_per_batch:
        # Up to the budget: runs with other seeds then share their compiled programs.
        counts = (padded_count(residues_per_batch),)
    elif len(planned) < epochs:
        spare = (int(largest.max()) - int(largest.mean())) // 8
        counts = (*counts[:-1], padded_count(counts[-1] - 1 + spare))
        growth = padded_count(counts[-1] // 8)
    padded = num_shards * np.array(counts)[np.searchsorted(counts, largest, side="right")]
    rows = float(np.sum(weights * padded))
    return BatchPlan(
        batch_size=batch_size,
        seed=seed,
        node_counts=counts,
        padding_share=1 - float(np.sum(weights * totals)) / rows if rows else 0.0,
        num_shards=num_shards,
        residues_per_batch=residues_per_batch,
        growth=growth,
    )


def training_batches(
    num_proteins: int,
    batch_size: int,
    seed: int,
    epoch: int,
    lengths: np.ndarray | None = None,
    residues_per_batch: int | None = None,
) -> list[np.ndarray]:
    """All proteins once, shuffled by (seed, epoch), `batch_size` at a time; the last has the rest.

    With a budget of residues, which needs the lengths (int [P]), a batch takes proteins in that order until
    the next one would exceed the budget, and `batch_size` at most. Raises DataError if a protein alone does.
    """
    order = np.random.default_rng((seed, epoch)).permutation(num_proteins)
    if residues_per_batch is None or num_proteins == 0:
        return [order[i : i + batch_size] for i in range(0, num_proteins, batch_size)]
    assert lengths is not None
    _check_budget(lengths, residues_per_batch)
    ends = np.cumsum(np.asarray(lengths)[order])
    batches, start, before = [], 0, 0
    while start < num_proteins:
        full = int(np.searchsorted(ends, before + residues_per_batch, side="right"))
        stop = min(start + batch_size, full)
        batches.append(order[start:stop])
        start, before = stop, int(ends[stop - 1])
    return batches


def evaluation_batches(
    lengths: np.ndarray, batch_size: int, residues_per_batch: int | None = None
) -> list[np.ndarray]:
    """All proteins once, in as few batches as possible, of nearly equal size and residue total.

    Proteins are dealt to and fro over the batches (`deal`); numbers ascend within a batch. With a budget of
    residues there are so many batches that each keeps to it. Raises DataError if a protein alone does not.
    """
    num_batches = -(-len(lengths) // batch_size)
    if num_batches == 0:
        return []
    batches = deal(lengths, num_batches)
    if residues_per_batch is not None:
        _check_budget(lengths, residues_per_batch)
        while (most := _totals(lengths, batches, 1)[0].max()) > residues_per_batch:
            more = max(len(batches) + 1, int(len(batches) * min(most / residues_per_batch, 1.1)))
            batches = deal(lengths, min(more, len(lengths)))
    return batches


def deal(lengths: np.ndarray, num_groups: int) -> list[np.ndarray]:
    """Numbers 0 to P - 1 in groups of nearly equal count and total length: dealt from the longest to the
    shortest, to and fro over the groups, so that no group has more than ceil(P / num_groups). They ascend
    within a group."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    round_, place = np.divmod(np.arange(len(order)), num_groups)
    group = np.where(round_ % 2 == 0, place, num_groups - 1 - place)
    ends = np.cumsum(np.bincount(group, minlength=num_groups))
    return np.split(order[np.lexsort((order, group))], ends[:-1])


def _check_budget(lengths: np.ndarray, residues_per_batch: int) -> None:
    longest = int(np.max(lengths))
    if longest > residues_per_batch:
        raise DataError(
            f"a protein of {longest} residues does not fit residues_per_batch = {residues_per_batch}; "
            "raise it, or leave out or crop longer proteins"
        )


def _totals(lengths: np.ndarray, batches: list[np.ndarray], num_shards: int) -> np.ndarray:
    """int64 [2, batches]: residues of each batch, and of its largest shard."""
    if not batches:
        return np.zeros((2, 0), np.int64)
    sizes = np.array([len(batch) for batch in batches])
    totals = np.add.reduceat(np.asarray(lengths)[np.concatenate(batches)], np.cumsum(sizes) - sizes)
    if num_shards == 1:
        return np.stack([totals, totals])
    largest = [
        max(int(lengths[batch[shard]].sum()) for shard in deal(lengths[batch], num_shards))
        for batch in batches
    ]
    return np.stack([totals, largest])


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
