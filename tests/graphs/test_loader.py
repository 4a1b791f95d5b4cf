"""Batches of a dataset, whether it is in memory or on disk, in one part or in several."""

import os
import threading
import time
from dataclasses import replace

import jax
import numpy as np
import pytest

from partoken_jax.graphs import BatchLoader, neighbour_tables, plan_batches
from partoken_jax.graphs.batching import evaluation_batches, training_batches
from partoken_jax.graphs.loader import PackedBatches
from partoken_jax.proteins import DataError, ProteinDataset, load_dataset, load_splits, subset
from tests.helpers import prepared_set


@pytest.fixture(scope="module")
def small():
    dataset = subset(load_dataset(task="cath-class", split="val"), 37, seed=0)
    return dataset, neighbour_tables(dataset, 8)


def test_the_loader_yields_the_planned_batches(small):
    dataset, tables = small
    lengths = dataset.lengths
    plan = plan_batches(train=lengths, validation=lengths, epochs=2, batch_size=8, max_shapes=2, seed=1)
    loader = BatchLoader(dataset, tables, plan)
    assert len(loader) == 5
    shapes = set()
    for graphs, batches in (
        (loader.epoch(0), training_batches(37, 8, 1, 0)),
        (loader.epoch(1), training_batches(37, 8, 1, 1)),
        (loader.evaluation(), evaluation_batches(lengths, 8)),
    ):
        for graph, batch in zip(graphs, batches, strict=True):
            assert graph.globals.protein[: len(batch)].tolist() == batch.tolist()
            assert graph.globals.mask.sum() == len(batch)
            assert len(graph.n_node) == 9
            assert graph.n_node[:-1].sum() == lengths[batch].sum()
            np.testing.assert_array_equal(graph.globals.label[: len(batch)], dataset.labels[batch])
            shapes.add(len(graph.nodes.mask))
    assert shapes == set(plan.node_counts)


def test_every_residue_comes_once_in_an_epoch_with_its_neighbours(small):
    dataset, tables = small
    plan = plan_batches(train=dataset.lengths, epochs=1, batch_size=8, max_shapes=2, seed=0)
    seen = []
    for graph in BatchLoader(dataset, tables, plan).epoch(0):
        start = 0
        senders, masks = graph.senders, graph.edges.mask
        for index, length in zip(graph.globals.protein, graph.n_node, strict=True):
            rows = slice(start, start + length)
            start += length
            if index < 0:
                continue
            seen.append(index)
            np.testing.assert_array_equal(graph.nodes.backbone[rows], dataset[index].backbone)
            np.testing.assert_array_equal(graph.nodes.residue_type[rows], dataset[index].residue_types)
            np.testing.assert_array_equal(
                np.where(masks[rows], senders[rows] - rows.start, -1), tables[index]
            )
    assert sorted(seen) == list(range(len(dataset)))


def test_the_same_epoch_comes_out_the_same(small):
    dataset, tables = small
    plan = plan_batches(train=dataset.lengths, epochs=2, batch_size=8, max_shapes=2, seed=0)
    for one, other in zip(
        BatchLoader(dataset, tables, plan).epoch(1), BatchLoader(dataset, tables, plan).epoch(1), strict=True
    ):
        np.testing.assert_array_equal(one.globals.protein, other.globals.protein)
        np.testing.assert_array_equal(one.senders, other.senders)
        np.testing.assert_array_equal(one.nodes.backbone, other.nodes.backbone)


def test_tables_must_fit_the_dataset(small):
    dataset, tables = small
    plan = plan_batches(train=dataset.lengths, epochs=1, batch_size=8, max_shapes=2, seed=0)
    shorter = replace(dataset, proteins=dataset.proteins[:-1])
    with pytest.raises(DataError, match="37 neighbour tables for 36 proteins"):
        BatchLoader(shorter, tables, plan)


def equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    """(dataset read from a prepared set, the same in memory)."""
    path, proteins = prepared_set(tmp_path_factory.mktemp("prepared"))
    dataset = load_splits(path, task="kind", split_scheme="random")["train"]
    by_name = {protein.name: protein for protein in proteins}
    return dataset, replace(dataset, proteins=tuple(by_name[name] for name in dataset.names))


def both(on_disk, k=6, change=lambda dataset: dataset, **settings):
    loaders = []
    for dataset in map(change, on_disk):
        given = {"epochs": 2, "batch_size": 4, "max_shapes": 2, "seed": 0} | settings
        plan = plan_batches(train=dataset.lengths, **given)
        loaders.append(BatchLoader(dataset, neighbour_tables(dataset, k), plan))
    return loaders


@pytest.mark.parametrize(
    ("k", "change", "settings"),
    [
        (6, lambda dataset: dataset, {}),
        (2, lambda dataset: dataset, {}),
        (4, lambda dataset: dataset.cropped(15), {}),
        (6, lambda dataset: subset(dataset, 7, seed=1).cropped(9), {"num_shards": 3}),
        (6, lambda dataset: dataset, {"residues_per_batch": 90}),
    ],
    ids=["whole", "fewer neighbours", "cropped", "a few in shards", "budget"],
)
def test_batches_from_disk_are_those_from_memory(on_disk, k, change, settings):
    disk, memory = both(on_disk, k, change, **settings)
    assert not isinstance(disk.proteins, type(memory.proteins))
    count = 0
    for one, other in zip(
        [*disk.epoch(0), *disk.epoch(1), *disk.evaluation()],
        [*memory.epoch(0), *memory.epoch(1), *memory.evaluation()],
        strict=True,
    ):
        equal(one, other)
        count += 1
    assert count == disk.num_batches(0) + disk.num_batches(1) + len(list(disk.evaluation())) > 5


def test_a_batch_from_disk_reads_its_own_proteins_alone(on_disk, monkeypatch):
    loader = both(on_disk)[0]
    batches = PackedBatches(
        loader.proteins, loader.plan, loader.plan.training(loader.proteins.length, 0), None
    )
    original, read = os.preadv, []
    monkeypatch.setattr(os, "preadv", lambda *args: read.append(original(*args)) or read[-1])
    graph = batches[1]
    residues = int(graph.n_node[:-1].sum())
    assert residues == graph.nodes.mask.size - graph.n_node[-1]
    assert sum(read) == residues * (4 * 3 * 4 + 1 + 6 * 2)  # coordinates, letter, neighbours


@pytest.mark.parametrize("num_shards", [2, 3, 4])
def test_the_shards_of_a_batch_are_together_the_batch(on_disk, num_shards):
    dataset = on_disk[1]
    whole = both(on_disk)[1]
    loader = both(on_disk, num_shards=num_shards)[1]
    for graph, sharded in zip(
        [*whole.epoch(1), *whole.evaluation()], [*loader.epoch(1), *loader.evaluation()], strict=True
    ):
        assert sharded.nodes.mask.shape[1] in loader.plan.node_counts
        assert sharded.globals.mask.shape == (num_shards, -(-4 // num_shards) + 1)
        seen = []
        for number in range(num_shards):
            shard = jax.tree.map(lambda x, number=number: x[number], sharded)
            assert shard.n_node.sum() == len(shard.nodes.mask)
            ends = np.cumsum(shard.n_node)
            for slot in np.flatnonzero(shard.globals.mask):
                protein = dataset[shard.globals.protein[slot]]
                rows = slice(ends[slot] - len(protein), ends[slot])
                seen.append(shard.globals.protein[slot])
                assert shard.globals.label[slot] == protein.label
                np.testing.assert_array_equal(shard.nodes.backbone[rows], protein.backbone)
                np.testing.assert_array_equal(shard.nodes.residue_type[rows], protein.residue_types)
        assert sorted(seen) == sorted(graph.globals.protein[graph.globals.mask])


def test_a_process_packs_its_own_shards(on_disk):
    loader = both(on_disk, num_shards=4)[0]
    for all_of_it, share in zip(loader.epoch(0), loader.epoch(0, shards=range(1, 3)), strict=True):
        equal(share, jax.tree.map(lambda x: x[1:3], all_of_it))


@pytest.mark.parametrize("settings", [{}, {"residues_per_batch": 90}, {"num_shards": 2}])
def test_an_epoch_goes_on_where_it_was_left(on_disk, settings):
    loader = both(on_disk, **settings)[0]
    whole = list(loader.epoch(1))
    assert len(whole) == loader.num_batches(1)
    for first in range(len(whole) + 1):
        rest = list(loader.epoch(1, first=first))
        assert len(rest) == len(whole) - first
        for one, other in zip(rest, whole[first:], strict=True):
            equal(one, other)
    stream = loader.epoch(1)
    next(stream)
    state = stream.get_state()
    another = loader.epoch(1)
    another.set_state(state)
    equal(next(another), whole[1])


def test_a_fault_in_a_batch_is_raised_in_its_place(on_disk, monkeypatch):
    loader = both(on_disk)[0]
    place = int(loader.plan.training(loader.proteins.length, 0)[2][1])
    rows, original = loader.proteins.proteins.prepared.rows["sequence"], os.preadv
    there = rows.offset + loader.proteins.proteins.start[place]

    def preadv(descriptor, buffers, offset):
        count = original(descriptor, buffers, offset)
        if (descriptor, offset) == (rows.descriptor, there):
            buffers[0][0] = ord("!")
        return count

    monkeypatch.setattr(os, "preadv", preadv)
    stream = loader.epoch(0)
    next(stream), next(stream)
    name = loader.proteins.proteins.name(place)
    with pytest.raises(DataError, match=f"set: {name}: its residue 1 has a letter or neighbours that cannot"):
        next(stream)


def test_the_threads_end_with_the_reader(on_disk):
    loader = both(on_disk)[0]
    before = set(threading.enumerate())
    stream = loader.epoch(0)
    next(stream)
    started = set(threading.enumerate()) - before
    assert started
    del stream
    end = time.monotonic() + 10
    while any(thread.is_alive() for thread in started) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(thread.is_alive() for thread in started)


def test_more_neighbours_than_a_set_holds_are_refused(on_disk):
    with pytest.raises(
        DataError, match=r"holds 6 neighbours .* 7 are asked for; lower data\.neighbours to 6"
    ):
        neighbour_tables(on_disk[0], 7)


def test_tables_of_a_prepared_set_can_be_used_like_those_computed(on_disk):
    disk, memory = on_disk
    for one, other in zip(neighbour_tables(disk, 5), neighbour_tables(memory, 5), strict=True):
        np.testing.assert_array_equal(one, other)
    loaders = [BatchLoader(memory, neighbour_tables(d, 5), both(on_disk)[0].plan) for d in on_disk]
    for one, other in zip(*(loader.epoch(0) for loader in loaders), strict=True):
        equal(one, other)
    assert isinstance(memory, ProteinDataset)
