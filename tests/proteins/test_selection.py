import dataclasses

import numpy as np
import pytest

from partoken_jax.proteins import (
    DataError,
    LabelColumn,
    Protein,
    ProteinDataset,
    limit_lengths,
    load_dataset,
    subset,
    write_prepared,
)


def dataset_of(lengths):
    rng = np.random.default_rng(0)
    proteins = tuple(
        Protein(f"p{i}", "A" * n, rng.normal(size=(n, 4, 3)), label=i % 3) for i, n in enumerate(lengths)
    )
    return ProteinDataset(proteins, ("a", "b", "c"), "ec-class", "train", "some.npz")


def names(dataset):
    return [protein.name for protein in dataset.proteins]


def test_subset_depends_on_the_seed_alone_and_keeps_the_order():
    dataset = dataset_of(range(1, 41))
    chosen = names(subset(dataset, 10, seed=3))
    assert chosen == names(subset(dataset, 10, seed=3))
    assert chosen != names(subset(dataset, 10, seed=4))
    assert len(set(chosen)) == 10
    assert chosen == [name for name in names(dataset) if name in chosen]


def test_a_larger_subset_contains_the_smaller():
    dataset = dataset_of(range(1, 41))
    assert set(names(subset(dataset, 10, seed=0))) < set(names(subset(dataset, 20, seed=0)))


@pytest.mark.parametrize("count", [None, 5, 6])
def test_subset_of_all_is_all(count):
    assert names(subset(dataset_of([1, 2, 3, 4, 5]), count, seed=0)) == ["p0", "p1", "p2", "p3", "p4"]


@pytest.mark.parametrize("count", [0, -1])
def test_subset_of_nothing_is_refused(count):
    with pytest.raises(DataError, match=f"some.npz: cannot use {count} proteins"):
        subset(dataset_of([1, 2]), count, seed=0)


def test_long_proteins_are_refused_by_name():
    dataset = dataset_of([10, 11, 12])
    with pytest.raises(DataError) as caught:
        limit_lengths(dataset, 10)
    assert str(caught.value) == (
        "some.npz: 2 proteins are longer than max_length = 10 residues: p1 (11), p2 (12); "
        "set too_long: crop, or max_length to at least 12"
    )


def test_at_most_ten_names_are_listed():
    with pytest.raises(DataError, match=r"13 proteins .* p9 \(5\) and 3 more; .*at least 5$") as caught:
        limit_lengths(dataset_of([5] * 13), 4)
    assert "p10" not in str(caught.value)


def test_long_proteins_are_cropped_by_choice():
    dataset = dataset_of([10, 14, 9])
    cropped, who = limit_lengths(dataset, 10, "crop")
    assert who == ["p1"]
    assert cropped.lengths.tolist() == [10, 10, 9]
    np.testing.assert_array_equal(cropped[1].backbone, dataset[1].backbone[:10])
    assert cropped[1].residue_numbers.tolist() == list(range(1, 11))
    assert cropped[1].label == dataset[1].label
    assert cropped[0] is dataset[0]
    assert dataset.lengths.tolist() == [10, 14, 9]


def test_nothing_changes_within_the_limit():
    dataset = dataset_of([10, 4])
    assert limit_lengths(dataset, 10, "crop") == (dataset, [])
    assert limit_lengths(dataset, 10, "refuse") == (dataset, [])


def test_unknown_choices_are_refused():
    with pytest.raises(DataError, match="unknown too_long 'drop'; choose one of refuse, crop"):
        limit_lengths(dataset_of([3]), 5, "drop")
    with pytest.raises(DataError, match="max_length is 0"):
        limit_lengths(dataset_of([3]), 0, "crop")


def masked_beginning(count):
    """A dataset whose second protein has 14 residues, the first `count` of which lack an atom."""
    proteins = list(dataset_of([10, 14, 9]).proteins)
    backbone = proteins[1].backbone.copy()
    backbone[:count, 3] = np.nan
    proteins[1] = dataclasses.replace(proteins[1], backbone=backbone)
    return dataclasses.replace(dataset_of([1]), proteins=tuple(proteins))


def on_disk(dataset, folder):
    column = LabelColumn(dataset.class_names, dataset.labels)
    splits = {"mine": np.zeros(len(dataset), np.int8)}
    write_prepared(folder, dataset.proteins, labels={"kind": column}, splits=splits, neighbours=4)
    return load_dataset(folder, task="kind", split_scheme="mine")


@pytest.mark.parametrize("prepared", [False, True])
def test_a_protein_of_which_cropping_leaves_nothing_is_named_at_once(prepared, tmp_path):
    none, one = masked_beginning(11), masked_beginning(9)
    if prepared:
        none, one = on_disk(none, tmp_path / "none"), on_disk(one, tmp_path / "one")
    with pytest.raises(DataError) as caught:
        limit_lengths(none, 10, "crop")
    assert str(caught.value) == (
        f"{none.source}: none of the first 10 residues of p1 has all four atoms; "
        "set max_length to at least 12, or leave that protein out"
    )
    assert limit_lengths(none, 12, "crop")[0].num_incomplete == 11
    assert limit_lengths(one, 10, "crop")[0].num_incomplete == 9
