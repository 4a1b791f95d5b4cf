import itertools
from pathlib import Path

import numpy as np
import pytest

from partoken_jax.graphs import batching, plan_batches
from partoken_jax.graphs.batching import deal, evaluation_batches, training_batches
from partoken_jax.proteins import DataError, load_splits

CHAINS = Path(__file__).parents[2] / "experiments" / "data" / "pdb_chains.npz"


def some_lengths(num, seed=0):
    return np.random.default_rng(seed).integers(40, 600, num)


@pytest.mark.parametrize(("num", "batch_size", "last"), [(64, 16, 16), (65, 16, 1), (10, 16, 10), (1, 1, 1)])
def test_an_epoch_holds_every_protein_once_in_full_batches(num, batch_size, last):
    batches = training_batches(num, batch_size, seed=0, epoch=3)
    assert [len(batch) for batch in batches] == [batch_size] * ((num - 1) // batch_size) + [last]
    assert sorted(np.concatenate(batches)) == list(range(num))


def test_the_shuffle_depends_on_seed_and_epoch():
    def order(seed, epoch):
        return np.concatenate(training_batches(100, 10, seed, epoch)).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("num", [1, 15, 16, 17, 33, 500])
def test_evaluation_batches_hold_every_protein_once_and_balance(num):
    lengths = some_lengths(num)
    batches = evaluation_batches(lengths, 16)
    assert len(batches) == -(-num // 16)
    assert sorted(np.concatenate(batches)) == list(range(num))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= 16
    assert max(sizes) - min(sizes) <= 1
    # Dealing to and fro leaves a difference of at most one longest protein.
    totals = [lengths[batch].sum() for batch in batches]
    assert max(totals) - min(totals) <= lengths.max()
    assert all((np.diff(batch) > 0).all() for batch in batches)


@pytest.mark.parametrize("max_shapes", [1, 2, 3, 4])
def test_node_counts_waste_least_of_all_choices(max_shapes):
    lengths, epochs, batch_size = some_lengths(23), 3, 4
    plan = plan_batches(train=lengths, epochs=epochs, batch_size=batch_size, max_shapes=max_shapes, seed=5)
    totals = np.array(
        [lengths[b].sum() for e in range(epochs) for b in training_batches(23, batch_size, 5, e)]
    )
    sizes = np.unique((totals // 64 + 1) * 64)
    best = min(
        np.array(choice)[np.searchsorted(choice, totals, side="right")].sum()
        for count in range(1, max_shapes + 1)
        for choice in itertools.combinations(sizes, count)
        if choice[-1] > totals.max()
    )
    assert len(plan.node_counts) <= max_shapes
    assert plan.padding_share == pytest.approx(1 - totals.sum() / best)


def test_the_plan_counts_every_batch_of_the_run():
    train, validation, test = some_lengths(50, 1), some_lengths(20, 2), some_lengths(30, 3)
    plan = plan_batches(
        train=train, validation=validation, test=test, epochs=4, batch_size=8, max_shapes=3, seed=0
    )
    totals = [train[b].sum() for e in range(4) for b in training_batches(50, 8, 0, e)]
    totals += [validation[b].sum() for b in evaluation_batches(validation, 8)] * 4
    totals += [test[b].sum() for b in evaluation_batches(test, 8)]
    rows = sum(plan.node_count(total) for total in totals)
    assert plan.padding_share == pytest.approx(1 - sum(totals) / rows)
    assert all(plan.node_count(total) > total for total in totals)
    assert all(count % 64 == 0 for count in plan.node_counts)


def test_training_proteins_can_be_evaluated_too():
    lengths = some_lengths(40)
    for epochs in (0, 1):
        plan = plan_batches(train=lengths, epochs=epochs, batch_size=16, max_shapes=2, seed=0)
        for batch in evaluation_batches(lengths, 16):
            assert plan.node_count(lengths[batch].sum()) in plan.node_counts


@pytest.mark.parametrize("length", [63, 64, 65])
def test_there_is_room_for_a_padding_residue(length):
    plan = plan_batches(test=[length], epochs=0, batch_size=1, max_shapes=4, seed=0)
    assert plan.node_counts == (64 if length < 64 else 128,)


def test_padding_on_the_ec_task():
    lengths = {split: dataset.lengths for split, dataset in load_splits(CHAINS).items()}
    assert len(lengths["train"]) == 6654
    plan = plan_batches(
        train=lengths["train"],
        validation=lengths["val"],
        test=lengths["test"],
        epochs=150,
        batch_size=64,
        max_shapes=4,
        seed=0,
    )
    assert len(plan.node_counts) <= 4
    assert plan.padding_share < 0.05  # the agreed limit is 0.08


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "there are no proteins to plan batches for"),
        ({"train": [50], "batch_size": 0}, "batch_size is 0"),
        ({"train": [50], "max_shapes": 0}, "max_shapes 0"),
    ],
)
def test_plans_of_nothing_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        plan_batches(**({"epochs": 1, "batch_size": 4, "max_shapes": 4, "seed": 0} | settings))


def test_a_batch_outside_the_plan_is_refused():
    plan = plan_batches(train=[50, 60], epochs=1, batch_size=2, max_shapes=4, seed=0)
    with pytest.raises(DataError, match="a batch of 500 residues does not fit the planned node counts"):
        plan.node_count(500)


@pytest.mark.parametrize("num_groups", [1, 2, 3, 8])
@pytest.mark.parametrize("num", [1, 7, 16, 61])
def test_dealt_groups_hold_every_protein_once_and_are_even(num, num_groups):
    lengths = some_lengths(num, seed=num_groups)
    groups = deal(lengths, num_groups)
    assert len(groups) == num_groups
    assert sorted(np.concatenate(groups)) == list(range(num))
    assert max(map(len, groups)) <= -(-num // num_groups)
    totals = [lengths[group].sum() for group in groups]
    assert max(totals) - min(totals) <= lengths.max()
    assert all((np.diff(group) > 0).all() for group in groups)


@pytest.mark.parametrize("num_shards", [2, 8])
def test_node_counts_of_shards_fit_the_largest_of_every_batch(num_shards):
    train, test = some_lengths(75, 1), some_lengths(21, 2)
    settings = {"epochs": 3, "batch_size": 16, "max_shapes": 2, "seed": 0}
    plan = plan_batches(train=train, test=test, num_shards=num_shards, **settings)
    assert plan.slots == 16 // num_shards
    rows = real = 0
    runs = [(train, plan.training(train, epoch)) for epoch in range(3)] + [(test, plan.evaluation(test))]
    for lengths, batches in runs:
        for batch in batches:
            totals = [lengths[batch[shard]].sum() for shard in deal(lengths[batch], num_shards)]
            rows += num_shards * plan.node_count(max(totals))
            real += sum(totals)
    assert plan.padding_share == pytest.approx(1 - real / rows)
    assert plan.node_counts[-1] < plan_batches(train=train, test=test, **settings).node_counts[-1]


@pytest.mark.parametrize("budget", [700, 1500, 10**6])
@pytest.mark.parametrize("num_shards", [1, 4])
def test_a_batch_keeps_to_its_budget_and_uses_it(budget, num_shards):
    lengths, batch_size = some_lengths(90), 6
    plan = plan_batches(
        train=lengths, validation=lengths[:50], epochs=4, batch_size=batch_size, max_shapes=4, seed=3,
        num_shards=num_shards, residues_per_batch=budget,
    )  # fmt: skip
    assert len(plan.node_counts) == 1 and plan.node_counts[0] <= (budget // 64 + 1) * 64
    for epoch in range(4):
        batches = plan.training(lengths, epoch)
        order = np.concatenate(training_batches(90, batch_size, 3, epoch))
        np.testing.assert_array_equal(np.concatenate(batches), order)  # the order is that without a budget
        for batch, following in itertools.pairwise(batches):
            total = lengths[batch].sum()
            assert total <= budget and len(batch) <= batch_size
            assert len(batch) == batch_size or total + lengths[following[0]] > budget
    evaluation = plan.evaluation(lengths[:50])
    assert sorted(np.concatenate(evaluation)) == list(range(50))
    assert max(lengths[batch].sum() for batch in evaluation) <= budget
    assert max(map(len, evaluation)) <= batch_size
    if budget == 10**6:  # then the slots decide
        assert [len(batch) for batch in batches] == [6] * 15


def test_a_protein_longer_than_the_budget_is_refused():
    for split in ("train", "test"):
        with pytest.raises(DataError, match=r"a protein of 600 residues does not fit .* = 599"):
            plan_batches(
                **{split: [50, 600]}, epochs=1, batch_size=2, max_shapes=1, seed=0, residues_per_batch=599
            )


def test_a_run_too_long_to_look_at_is_planned_from_some_epochs(monkeypatch):
    lengths = some_lengths(64)
    settings = {"train": lengths, "batch_size": 8, "max_shapes": 3, "seed": 0}
    exact = plan_batches(epochs=200, **settings)
    assert exact.growth == 0
    monkeypatch.setattr(batching, "PLANNED_EPOCHS", 20)
    looked_at = []
    monkeypatch.setattr(
        batching,
        "training_batches",
        lambda *args: looked_at.append(args[3]) or training_batches(*args),
    )
    plan = plan_batches(epochs=200, **settings)
    assert len(looked_at) == 20 and looked_at[0] == 0 and looked_at[-1] == 199
    assert plan.padding_share == pytest.approx(exact.padding_share, abs=0.02)
    monkeypatch.setattr(batching, "PLANNED_PROTEINS", 64 * 5)
    looked_at.clear()
    plan = plan_batches(epochs=10**9, **settings)
    assert len(looked_at) == 5
    # A batch that no planned size holds gets one of few larger ones.
    largest = plan.node_counts[-1]
    grown = {plan.node_count(total) for total in range(largest, 2 * largest)}
    assert all(count % 64 == 0 for count in grown) and 1 < len(grown) <= 9
    assert all(plan.node_count(total) > total for total in range(largest - 70, 2 * largest))


def test_with_a_budget_runs_of_any_seed_share_one_shape():
    lengths = np.random.default_rng(0).integers(40, 90, 300)
    plans = [
        plan_batches(
            train=lengths, epochs=epochs, batch_size=16, max_shapes=4, seed=seed, residues_per_batch=600
        )
        for seed in range(4)
        for epochs in (1, 2000)
    ]
    assert {plan.node_counts for plan in plans} == {(640,)}
    assert all(plan.growth == 0 for plan in plans)
