"""Random splits share out labels as they share out proteins, and the summary warns where they cannot."""

import numpy as np
import pytest

from partoken_jax.prepare import prepare
from partoken_jax.prepare.gather import Gathered, random_split

SHARES = (0.8, 0.1, 0.1)


def proteins(**columns: list[str]) -> Gathered:
    """Proteins with these classes, "" for no label and ";" between several."""
    count = len(next(iter(columns.values())))
    labels = [{name: of[i].split(";") for name, of in columns.items() if of[i]} for i in range(count)]
    return Gathered(ids=[str(i) for i in range(count)], labels=labels)


def counts(split: np.ndarray, chosen: np.ndarray | slice = slice(None)) -> list[int]:
    return np.bincount(split[chosen], minlength=3).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_every_class_and_all_proteins_are_shared_out(seed):
    rng = np.random.default_rng(seed)
    colour = rng.choice(["red", "green", "blue", ""], 1000, p=[0.6, 0.2, 0.1, 0.1])
    split = random_split(proteins(colour=colour.tolist()), SHARES, seed)
    assert counts(split) == [800, 100, 100]
    for name in ("red", "green", "blue", ""):
        chosen = colour == name
        np.testing.assert_allclose(counts(split, chosen), np.array(SHARES) * chosen.sum(), atol=2)


@pytest.mark.parametrize("members", [1, 2, 3])
def test_many_tiny_classes_leave_no_split_empty_and_are_in_training_where_they_can_be(members):
    number = np.arange(300) // members
    found = proteins(family=number.astype(str).tolist())
    split = random_split(found, SHARES, 0)
    assert counts(split) == [240, 30, 30]
    if members > 1:
        assert len(set(number[split == 0])) == 300 // members


@pytest.mark.parametrize("seed", range(5))
def test_a_column_of_three_labels_is_in_every_split(seed):
    rare, other = ["a", "a", "b"] + [""] * 32, [""] * 3 + ["x"] * 2 + ["y"] + [""] * 29
    several = [""] * 20 + ["p;q", "p", "q;r"] + [""] * 12
    common = [str(i % 4) for i in range(35)]
    split = random_split(proteins(common=common, other=other, rare=rare, several=several), SHARES, seed)
    for column in (rare, other, several):
        assert counts(split, np.array(column) != "") == [1, 1, 1]
    assert counts(split)[0] in (27, 28, 29) and min(counts(split)) >= 3


@pytest.mark.parametrize("seed", range(5))
def test_so_is_one_whose_proteins_have_labels_of_large_columns(seed):
    rare = ["a", "a", "b"] + [""] * 300
    large = {name: [""] * i + ["x"] + [""] * (2 - i) + ["x"] * 300 for i, name in enumerate("bcd")}
    split = random_split(proteins(rare=rare, **large), SHARES, seed)
    assert counts(split, np.array(rare) != "") == [1, 1, 1]


@pytest.mark.parametrize("size, expected", [(1, [1, 0, 0]), (2, [1, 1, 0]), (4, [2, 1, 1]), (10, [8, 1, 1])])
def test_training_comes_first_and_no_split_is_empty_for_want_of_share(size, expected):
    assert counts(random_split(proteins(colour=[""] * size), SHARES, 0)) == expected


def test_the_split_is_of_the_seed_and_the_set_and_a_split_without_a_share_is_empty():
    found = proteins(colour=list("aabbbbcdef" * 5), shape=list("xy   zz   " * 5))
    first, again, other = (random_split(found, (0.5, 0.5, 0.0), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert counts(first)[2] == 0 and max(counts(first)) <= 27


def test_all_proteins_may_be_for_the_test(structures, tmp_path, load, capsys):
    (tmp_path / "labels.csv").write_text("id,colour\n1abc,red\n2xyz,blue\n4four,blue\n", encoding="utf-8")
    labels = tmp_path / "labels.csv"
    prepare([str(structures)], tmp_path / "out", labels=labels, split=(0, 0, 1), workers=1, neighbours=4)
    splits = load(tmp_path / "out")["splits/random"]
    assert len(splits) == 6 and (splits == 2).all()
    assert "homologues" not in capsys.readouterr().out  # there is no training for them to be in


def prepared_with(labels: str, structures, tmp_path, capsys) -> list[str]:
    """The warnings of a set with these labels."""
    (tmp_path / "labels.csv").write_text(labels, encoding="utf-8")
    prepare([str(structures)], tmp_path / "out", labels=tmp_path / "labels.csv", workers=1, neighbours=4)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]


def test_a_split_without_a_label_is_warned_of(structures, tmp_path, load, capsys):
    text = "id,colour,shape\n1abc,red,x\n2xyz,blue,y\näöü,,y\n4four,,x\n5five,,x\n"
    warned = prepared_with(text, structures, tmp_path, capsys)
    assert warned == [
        "warning: no protein of test in split random has a label 'colour', so that no model can be trained "
        "on these labels; label more proteins or give another --split"
    ]
    found = load(tmp_path / "out")
    assert found["json"]["summary"]["notes"][-1] == warned[0]
    labelled = found["labels/colour"] >= 0
    assert sorted(found["splits/random"][labelled].tolist()) == [0, 1]


def test_splits_of_the_source_are_warned_of_as_well(structures, tmp_path, capsys):
    text = "id,colour,split\n1abc,red,train\n2xyz,blue,train\näöü,,val\n4four,,test\n"
    (warned,) = prepared_with(text, structures, tmp_path, capsys)
    assert "no protein of val and test in split given has a label 'colour'" in warned
    assert warned.endswith("or give other splits")
