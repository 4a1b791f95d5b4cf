"""Reading prepared sets: whole ones as they were written, spoilt ones never."""

import json
import os
import shutil

import numpy as np
import pytest

from partoken_jax.proteins import DataError, PreparedProteins, open_prepared, verify_prepared
from tests.helpers import prepared_set


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return prepared_set(tmp_path_factory.mktemp("original"))


@pytest.fixture
def spoilt(original, tmp_path):
    """A copy to spoil."""
    shutil.copytree(original[0], tmp_path / "set")
    return tmp_path / "set"


def all_of(path):
    prepared = open_prepared(path)
    return PreparedProteins(prepared, np.arange(len(prepared)), prepared.labels["kind"].values)


def same(one, other):
    for field in ("name", "sequence", "label", "chain", "insertion_codes"):
        assert getattr(one, field) == getattr(other, field)
    np.testing.assert_array_equal(one.backbone, other.backbone)
    np.testing.assert_array_equal(one.residue_numbers, other.residue_numbers)


def test_proteins_are_those_that_were_written(original):
    path, proteins = original
    read = all_of(path)
    assert len(read) == len(proteins) and read.names == [protein.name for protein in proteins]
    assert read.lengths.tolist() == [len(protein) for protein in proteins]
    for one, other in zip(read, proteins, strict=True):
        same(one, other)
    same(read[-1], proteins[-1])
    assert [protein.name for protein in read[3:9:2]] == [proteins[i].name for i in (3, 5, 7)]
    assert read.num_incomplete == sum(int((~protein.complete).sum()) for protein in proteins) > 0
    with pytest.raises(IndexError):
        read[len(read)]
    verify_prepared(path)


def test_cropped_proteins_are_the_beginnings(original):
    path, proteins = original
    read = all_of(path).take(np.array([7, 2, 11])).cropped(12)
    for one, i in zip(read, (7, 2, 11), strict=True):
        same(one, proteins[i].cropped(12))
    assert read.num_incomplete == sum(int((~protein.complete).sum()) for protein in read)
    assert read.cropped(20).lengths.tolist() == read.lengths.tolist()
    assert max(read.cropped(8).lengths) == 8


def test_several_labels_per_protein_are_kept(original):
    column = open_prepared(original[0]).labels["roles"]
    assert column.several and column.classes == ("x", "y")
    assert np.diff(column.starts).tolist() == [i % 3 for i in range(23)]


def rewrite(path, **changes):
    file = path / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def cut(path, name, count):
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:count])


def flip(path, name, byte):
    content = bytearray((path / name).read_bytes())
    content[byte] ^= 128
    (path / name).write_bytes(content)


SPOILERS = {
    "no description": (lambda p: (p / "dataset.json").unlink(), "a folder without dataset.json"),
    "cut description": (lambda p: cut(p, "dataset.json", 100), r"does not describe .* \(Invalid JSON"),
    "empty description": (lambda p: cut(p, "dataset.json", 0), r"does not describe .* \(Invalid JSON"),
    "a list": (lambda p: (p / "dataset.json").write_text("[1]"), r"does not describe a prepared set \("),
    "nested deep": (
        lambda p: (p / "dataset.json").write_text("[" * 9999),
        "does not describe a prepared set",
    ),
    "another format": (
        lambda p: rewrite(p, format="other"),
        r"\(format: Input should be 'partoken-",
    ),
    "a newer version": (lambda p: rewrite(p, version=2), "has version 2 of the format .* reads version 1"),
    "no proteins": (lambda p: rewrite(p, proteins=0), r"\(proteins: Input should be greater than 0\)"),
    "other classes": (
        lambda p: rewrite(p, labels={"kind": {"classes": ["z"], "several": False}}),
        "has been changed since the set was written",
    ),
    "more residues": (lambda p: rewrite(p, residues=2**62), r"backbone\.npy: holds float32 of shape"),
    "fewer proteins": (lambda p: rewrite(p, proteins=3), r"start\.npy: holds int64 of shape \(24,\)"),
    "a missing file": (
        lambda p: (p / "backbone.npy").unlink(),
        r"backbone\.npy: is missing; copy or",
    ),
    "a missing split": (lambda p: (p / "splits" / "random.npy").unlink(), r"random\.npy: is missing"),
    "a short file": (lambda p: cut(p, "neighbours.npy", 500), r"neighbours\.npy: has 500 bytes in place of"),
    "a folder": (lambda p: ((p / "id.npy").unlink(), (p / "id.npy").mkdir()), r"id\.npy: is missing"),
    "a changed label": (
        lambda p: flip(p, "labels/kind.npy", -1),
        r"kind\.npy: .* have the checksum",
    ),
    "a changed start": (lambda p: flip(p, "start.npy", -8), r"start\.npy: .* does not have the checksum"),
    "a changed header": (lambda p: flip(p, "sequence.npy", 3), r"sequence\.npy: is no readable \.npy file"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILERS.values(), ids=SPOILERS)
def test_a_set_that_is_not_whole_is_refused_in_a_sentence(spoilt, spoil, message):
    spoil(spoilt)
    with pytest.raises(DataError, match=message) as caught:
        open_prepared(spoilt)
    assert str(caught.value).startswith(str(spoilt)) and "\n" not in str(caught.value)


def test_residues_are_checked_when_asked_to(spoilt):
    flip(spoilt, "backbone.npy", -1)
    open_prepared(spoilt)  # would take too long for large files
    with pytest.raises(DataError, match=r"backbone\.npy: .* does not have the checksum"):
        verify_prepared(spoilt)


def test_a_file_that_shrinks_while_it_is_read_is_named(spoilt):
    read = all_of(spoilt)
    cut(spoilt, "backbone.npy", 1000)
    with pytest.raises(DataError, match=r"backbone\.npy: ends too early"):
        read[len(read) - 1]


def test_a_residue_that_cannot_be_is_named_with_its_set(spoilt, original):
    flip(spoilt, "sequence.npy", -1)
    name = original[1][-1].name
    with pytest.raises(DataError, match=f"{spoilt}: {name}: residue .* is '.', but must be one of"):
        all_of(spoilt)[-1]


def test_nothing_is_held_open_of_a_set_that_is_no_longer_used(original, monkeypatch):
    closed, close = [], os.close
    monkeypatch.setattr(os, "close", lambda descriptor: (closed.append(descriptor), close(descriptor)))
    prepared = open_prepared(original[0])
    descriptors = sorted(rows.descriptor for rows in prepared.rows.values())
    del prepared
    assert sorted(closed) == descriptors
