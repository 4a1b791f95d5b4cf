from pathlib import Path

import numpy as np
import pytest

from partoken_jax.graphs import neighbour_table, neighbour_tables
from partoken_jax.proteins import DataError, Protein, load_dataset

GOLDEN = Path(__file__).parents[1] / "golden" / "case2_featurizer.npz"


def cloud(length, seed=0):
    return np.random.default_rng(seed).normal(scale=8, size=(length, 3)).astype(np.float32)


def distances(ca):
    return np.linalg.norm(ca[:, None].astype(np.float64) - ca, axis=-1)


@pytest.mark.parametrize("protein", [0, 1, 2])
@pytest.mark.parametrize("k", [30, 16])
def test_edges_of_the_published_featuriser(protein, k):
    golden = np.load(GOLDEN)
    coords = golden[f"p{protein}.coords"]  # infinite where an atom is missing
    complete = np.isfinite(coords).all(axis=(1, 2))
    table = neighbour_table(np.where(np.isfinite(coords), coords, np.nan)[:, 1], complete, k)
    receiver, slot = np.nonzero(table >= 0)
    edges = np.stack([table[receiver, slot], receiver])
    np.testing.assert_array_equal(edges, golden[f"p{protein}.k{k}.edge_index"])


@pytest.mark.parametrize("length", [2, 31, 32, 127, 128, 129, 300])  # around k and the block size
def test_neighbours_are_the_nearest_in_order(length):
    ca = cloud(length)
    table = neighbour_table(ca, np.ones(length, bool), 30)
    count = min(30, length - 1)
    assert table.shape == (length, 30)
    assert table.dtype == np.int32
    assert (table[:, count:] == -1).all()
    expected = distances(ca)
    np.fill_diagonal(expected, np.inf)
    found = np.take_along_axis(expected, table[:, :count].astype(int), axis=1)
    np.testing.assert_allclose(found, np.sort(expected, axis=1)[:, :count], rtol=1e-5)
    assert all(len(set(row[:count])) == count for row in table.tolist())


def test_incomplete_residues_neither_send_nor_receive():
    ca, complete = cloud(40), np.ones(40, bool)
    complete[[3, 17]] = False
    ca[17] = np.nan  # 3 lacks another atom, 17 its CA
    table = neighbour_table(ca, complete, 30)
    assert (table[[3, 17]] == -1).all()
    assert not np.isin(table, [3, 17]).any()
    present = np.flatnonzero(complete)
    alone = neighbour_table(ca[present], np.ones(38, bool), 30)
    np.testing.assert_array_equal(table[present], present[alone])


def test_short_proteins_get_all_others():
    complete = np.array([True, True, False, True])
    table = neighbour_table(cloud(4), complete, 5)
    assert [sorted(set(row) - {-1}) for row in table.tolist()] == [[1, 3], [0, 3], [], [0, 1]]
    assert (neighbour_table(cloud(1), np.ones(1, bool), 5) == -1).all()
    assert (neighbour_table(cloud(3), np.zeros(3, bool), 5) == -1).all()


def test_equal_distances_are_ordered_by_index():
    grid = np.stack(np.meshgrid(*[np.arange(6.0)] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
    table = neighbour_table(grid, np.ones(216, bool), 20)
    everything = distances(grid)
    np.fill_diagonal(everything, np.inf)
    # On a grid squared distances are integers: nothing but exact ties, also across the 20th place.
    order = np.argsort(np.rint(everything**2), axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(table, order)
    np.testing.assert_array_equal(neighbour_table(np.zeros((5, 3)), np.ones(5, bool), 3)[4], [0, 1, 2])


def test_renumbering_the_residues_renumbers_the_table():
    ca = cloud(90)
    order = np.random.default_rng(1).permutation(90)
    place = np.argsort(order)
    table = neighbour_table(ca, np.ones(90, bool), 16)
    shuffled = neighbour_table(ca[order], np.ones(90, bool), 16)
    np.testing.assert_array_equal(place[table[order]], shuffled)


def test_tables_of_a_dataset_are_those_of_its_proteins():
    dataset = load_dataset(task="cath-class", split="val")
    tables = neighbour_tables(dataset, 30)
    assert [len(table) for table in tables] == dataset.lengths.tolist()
    for i in (0, 7, len(dataset) - 1):
        protein = dataset[i]
        expected = neighbour_table(protein.backbone[:, 1], protein.complete, 30)
        np.testing.assert_array_equal(tables[i], expected)


def test_a_residue_without_oxygen_has_no_neighbours():
    backbone = np.random.default_rng(0).normal(size=(5, 4, 3))
    backbone[2, 3] = np.nan
    (table,) = neighbour_tables([Protein("p", "ARNDC", backbone)], 4)
    assert (table[2] == -1).all()
    assert not (table == 2).any()


@pytest.mark.parametrize(
    ("ca", "complete", "k", "message"),
    [
        (np.zeros((4, 2)), np.ones(4, bool), 3, r"ca has shape \(4, 2\)"),
        (np.zeros((4, 3)), np.ones(5, bool), 3, r"complete \(5,\)"),
        (np.zeros((4, 3)), np.ones(4, bool), 0, "k is 0"),
    ],
)
def test_bad_input_is_refused(ca, complete, k, message):
    with pytest.raises(DataError, match=message):
        neighbour_table(ca, complete, k)


def test_what_are_no_proteins_is_answered_in_one_sentence():
    protein = load_dataset(split="val").proteins[0]
    with pytest.raises(
        DataError, match=rf"^{protein.name}: neighbour_tables takes .* give it as \[protein\]$"
    ):
        neighbour_tables(protein, 30)
    for wrong in (["my.pdb"], protein.backbone, None):
        with pytest.raises(
            DataError, match=r"^neighbour_tables takes a list of proteins \([\w.]+\), and this is"
        ):
            neighbour_tables(wrong, 30)
    assert neighbour_tables([], 30) == []
