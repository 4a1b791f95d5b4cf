"""The prepared format: NumPy alone reads what was written, and nothing half written is ever left."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from partoken_jax.proteins import DataError, LabelColumn, write_prepared
from partoken_jax.proteins.neighbours import neighbour_table
from tests.helpers import prepared_set, real_protein


def written(folder, proteins, **changes):
    given = {"labels": {}, "splits": {}, "neighbours": 4} | changes
    write_prepared(folder / "out", proteins, **given)
    return json.loads((folder / "out" / "dataset.json").read_text())


def test_numpy_alone_reads_every_protein(tmp_path):
    folder, proteins = prepared_set(tmp_path)
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    assert {name: (array.dtype.str, array.shape[1:]) for name, array in arrays.items()} == {
        "backbone": ("<f4", (4, 3)),
        "sequence": ("|u1", ()),
        "residue_number": ("<i4", ()),
        "insertion_code": ("|u1", ()),
        "neighbours": ("<i2", (6,)),
        "start": ("<i8", ()),
        "id": ("|S9", ()),
        "chain": ("|S2", ()),
        "incomplete": ("<i4", ()),
    }
    kind, split = (np.load(folder / name) for name in ("labels/kind.npy", "splits/random.npy"))
    assert (kind.dtype, split.dtype) == (np.int32, np.int8)
    roles, roles_start = (np.load(folder / "labels" / f"roles{end}.npy") for end in ("", ".start"))
    for i, protein in enumerate(proteins):
        rows = slice(arrays["start"][i], arrays["start"][i + 1])
        assert arrays["id"][i].decode() == protein.name and arrays["chain"][i].decode() == "AA"
        assert arrays["sequence"][rows].tobytes().decode() == protein.sequence
        assert arrays["insertion_code"][rows].tobytes().decode() == protein.insertion_codes
        np.testing.assert_array_equal(arrays["backbone"][rows], protein.backbone)
        np.testing.assert_array_equal(arrays["residue_number"][rows], protein.residue_numbers)
        assert arrays["incomplete"][i] == (~protein.complete).sum()
        offset = arrays["neighbours"][rows].astype(int)
        table = np.where(offset == 0, -1, np.arange(len(protein))[:, None] + offset)
        np.testing.assert_array_equal(
            table, neighbour_table(protein.backbone[:, 1], protein.complete, 6), err_msg=protein.name
        )
        assert kind[i] == protein.label and split[i] == [0, 0, 0, 1, 2][i % 5]
        assert len(roles[roles_start[i] : roles_start[i + 1]]) == i % 3
    assert sum(protein.sequence.count("X") for protein in proteins) > 0 < arrays["incomplete"].sum()


def test_the_description_counts_and_checksums(tmp_path):
    folder, proteins = prepared_set(tmp_path)
    said = json.loads((folder / "dataset.json").read_text())
    assert (said["format"], said["version"]) == ("partoken-prepared", 1)
    assert (said["proteins"], said["residues"]) == (len(proteins), sum(map(len, proteins)))
    assert said["neighbours"] == 6
    assert said["labels"]["kind"] == {"classes": ["a", "b", "c"], "several": False, "labelled": 20}
    assert said["labels"]["roles"] == {"classes": ["x", "y"], "several": True, "labelled": 15}
    assert said["splits"] == {"random": {"train": 15, "val": 4, "test": 4, "none": 0}}
    assert said["sources"] == [{"file": "somewhere.pdb"}] and said["skipped"][0]["name"] == "other"
    assert said["summary"]["lengths"]["max"] == max(map(len, proteins))
    assert said["summary"]["unknown_residues"] == sum(p.sequence.count("X") for p in proteins)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.npy")}
    assert set(said["files"]) == files and len(files) == 13
    for name, file in said["files"].items():
        content = (folder / name).read_bytes()
        assert file == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_labels_and_splits_may_be_filled_while_proteins_are_written(tmp_path):
    labels, splits, skipped = {}, {}, []

    def proteins():
        yield real_protein("p", 6)
        labels["kind"] = LabelColumn(("a",), np.zeros(1, int))
        splits["random"] = np.zeros(1, int)
        skipped.append({"name": "q", "reason": "empty"})

    said = written(tmp_path, proteins(), labels=labels, splits=splits, skipped=skipped)
    assert list(said["labels"]) == ["kind"] and list(said["splits"]) == ["random"]
    assert said["skipped"] == [{"name": "q", "reason": "empty"}]


def test_the_fingerprint_tells_sets_apart_by_content_alone(tmp_path):
    def fingerprint(name, proteins, classes=("a", "b"), **changes):
        folder = tmp_path / name
        column = LabelColumn(classes, np.zeros(len(proteins), int))
        return written(folder, proteins, labels={"kind": column}, **changes)["fingerprint"]

    proteins = [real_protein("p", 6), real_protein("q", 9, seed=1)]
    first = fingerprint("one", proteins)
    assert first == fingerprint("other", proteins, sources=[{"file": "elsewhere"}])
    moved = proteins[0].backbone.copy()
    moved[2, 1, 0] += 0.001
    others = [
        fingerprint("moved", [replace(proteins[0], backbone=moved), proteins[1]]),
        fingerprint("named", [replace(proteins[0], name="r"), proteins[1]]),
        fingerprint("classes", proteins, classes=("a", "c")),
        fingerprint("fewer", proteins, neighbours=3),
        fingerprint("split", proteins, splits={"random": np.array([0, 1])}),
    ]
    assert len({first, *others}) == 6


def test_tables_that_are_given_are_written(tmp_path):
    protein = real_protein("p", 9)
    table = np.full((9, 4), -1, np.int32)
    table[3, 0] = 8
    written(tmp_path, [protein], tables=[table])
    offset = np.load(tmp_path / "out" / "neighbours.npy")
    assert offset[3].tolist() == [5, 0, 0, 0] and np.count_nonzero(offset) == 1


GOOD = [real_protein("p", 6), real_protein("q", 9, seed=1)]
TABLE = np.full((6, 4), -1, np.int32)


@pytest.mark.parametrize(
    ("proteins", "changes", "message"),
    [
        ([], {}, "there are no proteins to write"),
        ([GOOD[0], replace(GOOD[1], name="p")], {}, "p: two proteins have this name"),
        ([replace(GOOD[0], name="")], {}, "protein 1 has an empty name"),
        ([replace(GOOD[0], name="a\nb")], {}, "name of a protein must be printable"),
        ([replace(GOOD[0], name="a" * 300)], {}, "name of a protein must be printable text of at most 255"),
        (GOOD, {"neighbours": 0}, "neighbours is 0"),
        (GOOD, {"tables": [TABLE]}, "numbers of proteins and neighbour tables differ"),
        (GOOD, {"tables": [TABLE, TABLE]}, r"q: neighbour table has shape \(6, 4\), but must be \(9, 4\)"),
        (GOOD, {"tables": [TABLE + 7, TABLE]}, "p: neighbour table .* residues below 6"),
        (GOOD, {"labels": {"a/b": LabelColumn(("x",), np.zeros(2, int))}}, "label column 'a/b' names a file"),
        (GOOD, {"labels": {"k": LabelColumn(("x",), np.zeros(3, int))}}, r"labels 'k' have shape \(3,\)"),
        (
            GOOD,
            {"labels": {"k": LabelColumn(("x",), np.array([0, 1]))}},
            "labels 'k' hold 1, but there are 1",
        ),
        (
            GOOD,
            {"labels": {"k": LabelColumn(("x", "x"), np.zeros(2, int))}},
            "every class needs a name of its",
        ),
        (
            GOOD,
            {"labels": {"k": LabelColumn(("x",), np.array([0, -1]), np.array([0, 1, 2]))}},
            "labels 'k' hold -1",
        ),
        (
            GOOD,
            {"labels": {"k": LabelColumn(("x",), np.zeros(2, int), np.array([0, 2]))}},
            r"labels 'k': starts has shape \(2,\)",
        ),
        (GOOD, {"splits": {"..": np.zeros(2, int)}}, r"split scheme '\.\.' names a file"),
        (GOOD, {"splits": {"s": np.array([0, 3])}}, "split scheme 's' must give each of the 2 proteins"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path, proteins, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        written(tmp_path, proteins, **changes)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing_and_a_later_call_starts_anew(tmp_path):
    def proteins():
        yield GOOD[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, proteins())
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.partial").mkdir()  # of a process that was killed
    (tmp_path / ".out.partial" / "id.npy").write_text("half")
    assert written(tmp_path, GOOD)["proteins"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(DataError, match="out: already exists; choose another folder"):
        written(tmp_path, GOOD)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["proteins"] == 2
