import hashlib
import itertools
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from partoken_jax.proteins import (
    RESIDUE_TYPES,
    DataError,
    ProteinDataset,
    limit_lengths,
    load_dataset,
    load_splits,
    subset,
)
from partoken_jax.proteins.dataset import EMBEDDED, SPLIT_ARRAYS
from partoken_jax.proteins.tasks import MIN_CHAINS, TASK_ARRAYS
from tests.helpers import prepared_set

CHAINS = Path(__file__).parents[2] / "experiments" / "data" / "pdb_chains.npz"


@pytest.mark.parametrize(
    ("task", "sizes", "num_classes"),
    [
        ("ec-class", (6654, 785, 769), 7),
        ("cath-class", (7641, 968, 946), 4),
        ("cath-architecture", (7345, 911, 902), 17),
        ("cath-superfamily", (5102, 673, 578), 197),
    ],
)
def test_counts_of_the_chains_file(task, sizes, num_classes):
    splits = list(load_splits(CHAINS, task=task).values())
    assert tuple(map(len, splits)) == sizes
    assert {dataset.class_names for dataset in splits} == {splits[0].class_names}
    assert len(splits[0].class_names) == num_classes
    counts = np.sum([dataset.class_counts() for dataset in splits], axis=0)
    assert counts.sum() == sum(sizes)
    if task == "ec-class":
        assert counts.tolist() == [1562, 2417, 2671, 708, 465, 321, 64]
        assert splits[2].class_counts()[6] == 4
        lengths = np.concatenate([dataset.lengths for dataset in splits])
        assert (lengths.min(), lengths.max(), round(lengths.mean())) == (40, 1264, 277)
        assert round(np.percentile(lengths, 95)) == 543
    if task in MIN_CHAINS:
        assert counts.min() >= MIN_CHAINS[task]
        # Every other chain with a CATH code is accounted for: 9,555 in all.
        assert len(splits[0].left_out) == 9555 - counts.sum()
    names = [protein.name for dataset in splits for protein in dataset.proteins]
    assert len(set(names)) == len(names)


def test_superfamilies_are_not_split_by_superfamily():
    with pytest.raises(DataError, match=r"'cath-superfamily' does not go with .*; choose the scheme 'ident"):
        load_dataset(task="cath-superfamily", split_scheme="superfamily")


def test_counts_of_superfamilies_in_the_embedded_file():
    splits = list(load_splits(task="cath-superfamily").values())
    assert tuple(map(len, splits)) == (395, 76, 73) and len(splits[0].class_names) == 32


@pytest.mark.parametrize(
    ("task", "scheme"),
    sorted({*itertools.product(TASK_ARRAYS, SPLIT_ARRAYS)} - {("cath-superfamily", "superfamily")}),
)
def test_embedded_proteins_decode_to_real_geometry(task, scheme):
    dataset = load_dataset(task=task, split="val", split_scheme=scheme)
    assert set(dataset.labels) <= set(range(len(dataset.class_names)))
    assert dataset.class_counts().sum() == len(dataset) > 0
    assert dataset.lengths.min() >= 50
    assert dataset.lengths.max() <= 400
    for protein in dataset.proteins[:20]:
        assert protein.complete.all()
        n, ca, c, o = protein.backbone.swapaxes(0, 1)
        # Textbook bond lengths, to the 0.05 Å grid: a wrong decode moves them by far more.
        for a, b, length in ((n, ca, 1.46), (ca, c, 1.52), (c, o, 1.23)):
            np.testing.assert_allclose(np.linalg.norm(a - b, axis=-1), length, atol=0.2)
        np.testing.assert_allclose(np.median(np.linalg.norm(np.diff(ca, axis=0), axis=-1)), 3.8, atol=0.1)
        np.testing.assert_allclose(np.median(np.linalg.norm(n[1:] - c[:-1], axis=-1)), 1.33, atol=0.1)


def test_decode_matches_the_definition_chain_by_chain(write):
    path = write()
    arrays = dict(np.load(path))
    dataset = load_dataset(path, task="ec-class", split="train")
    assert [protein.name for protein in dataset.proteins] == ["1ABC_A", "4GHI_C"]
    for protein, chain in zip(dataset.proteins, (0, 3), strict=True):
        start = arrays["length"][:chain].sum()
        packed = arrays["backbone"][:, start : start + arrays["length"][chain]].astype(int)
        ca = np.cumsum(packed[:3], axis=1)
        atoms = (
            np.stack([ca + packed[3:6], ca, ca + packed[6:9], ca + packed[9:12]]).transpose(2, 0, 1) * 0.05
        )
        np.testing.assert_allclose(protein.backbone, atoms, atol=1e-5)


def test_names_numbers_labels_and_sequences_belong_together(write):
    train = load_dataset(write(), task="ec-class", split="train")
    val = load_dataset(write(), task="ec-class", split="val")
    assert train.labels.tolist() == [0, 2]
    assert [protein.sequence for protein in train.proteins] == ["ARNDC", "MF"]
    assert val[0].sequence == "HILK"
    assert val[0].residue_numbers.tolist() == [10, 11, 12, 13]
    assert (val[0].chain, val[0].label) == ("AA", 6)
    assert train.class_counts().tolist() == [1, 0, 1, 0, 0, 0, 0]
    assert train.lengths.tolist() == [5, 2]
    assert train.source.endswith("tiny.npz")


def reads_of_archives(monkeypatch) -> list:
    """The archives that are opened from now on."""
    original, read = zipfile.ZipFile, []

    def opened(file, *args, **kwargs):
        read.append(file)
        return original(file, *args, **kwargs)

    monkeypatch.setattr(zipfile, "ZipFile", opened)
    return read


def test_splits_are_read_together_and_are_those_read_alone(write, monkeypatch):
    path = write(split=np.array([0, 2, 1, 0], np.int8), ec_class=np.array([1, 2, 7, 3], np.int8))
    alone = {split: load_dataset(path, split=split) for split in ("train", "val", "test")}
    read = reads_of_archives(monkeypatch)
    together = load_splits(path)
    assert read == [path]
    assert list(together) == list(alone)
    for split, dataset in together.items():
        assert (dataset.split, dataset.class_names, dataset.left_out) == (split, alone[split].class_names, ())
        for one, other in zip(dataset.proteins, alone[split].proteins, strict=True):
            assert (one.name, one.sequence, one.label) == (other.name, other.sequence, other.label)
            np.testing.assert_array_equal(one.backbone, other.backbone)
            np.testing.assert_array_equal(one.residue_numbers, other.residue_numbers)
    assert list(load_splits(path, splits=("test",))) == ["test"]


@pytest.mark.parametrize("label", [3, 7, -2])
def test_a_label_outside_the_classes_is_refused_by_name(write, label):
    first, second = load_dataset(write()).proteins
    message = rf"some.npz: 4GHI_C has label {label}, but task 'mine' has 3 classes; .*0 to 2, or -1"
    with pytest.raises(DataError, match=message):
        ProteinDataset((first, replace(second, label=label)), ("a", "b", "c"), "mine", "train", "some.npz")
    unlabelled = replace(second, label=-1)
    dataset = ProteinDataset((first, unlabelled), ("a", "b", "c"), "mine", "train", "some.npz")
    assert dataset.labels.tolist() == [0, -1] and dataset.class_counts().tolist() == [1, 0, 0]


def test_chains_outside_every_split_are_listed(write):
    dataset = load_dataset(write(), task="ec-class", split="train", split_scheme="superfamily")
    assert [protein.name for protein in dataset.proteins] == ["1ABC_A"]
    assert dataset.left_out == ("3DEF_AA", "4GHI_C")
    assert load_dataset(write(), task="ec-class").left_out == ()


@pytest.fixture
def file_of(write):
    """A file of so many chains of every CATH code."""

    def written(counts):
        num = sum(counts.values())
        return write(
            backbone=np.zeros((12, num), np.int8),
            sequence=np.full(num, ord("A"), np.uint8),
            length=np.ones(num, np.int32),
            first_residue_number=np.ones(num, np.int32),
            id=np.array([f"p{i}_A".encode() for i in range(num)]),
            cath=np.repeat([code.encode() for code in counts], list(counts.values())),
            split=np.zeros(num, np.int8),
        )

    return written


def test_architectures_below_fifty_chains_are_no_class(file_of):
    dataset = load_dataset(file_of({"3.40.1.1": 50, "3.5.1.1": 49, "3.30.2.2": 51}), task="cath-architecture")
    assert dataset.class_names == ("3.30", "3.40")
    assert dataset.class_counts().tolist() == [51, 50]
    assert len(dataset.left_out) == 49
    with pytest.raises(DataError, match=r"tiny.npz: no chain .* \(classes need 50 chains\) .*'train'"):
        load_dataset(file_of({"3.40.1.1": 49}), task="cath-architecture")


def test_superfamilies_below_ten_chains_are_no_class(file_of):
    mixed = file_of({"3.40.9.1": 12, "3.40.10.1": 10, "3.40.10.2": 9, "3.40": 11})
    dataset = load_dataset(mixed, task="cath-superfamily")
    assert dataset.class_names == ("3.40.9.1", "3.40.10.1")
    assert dataset.class_counts().tolist() == [12, 10]
    assert len(dataset.left_out) == 9, "a code without a superfamily is no member of a small one"


def test_only_the_arrays_in_use_are_needed(write):
    path = write(cath=None, split_superfamily=None)
    assert len(load_dataset(path, task="ec-class")) == 2
    with pytest.raises(DataError, match=r"tiny.npz: array 'cath' is missing"):
        load_dataset(path, task="cath-class")
    with pytest.raises(DataError, match=r"tiny.npz: array 'split_superfamily' is missing"):
        load_dataset(path, split_scheme="superfamily")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": None}, "array 'backbone' is missing"),
        ({"backbone": np.zeros((12, 14))}, "array 'backbone' has type float64, but must be int8"),
        ({"backbone": np.zeros((9, 14), np.int8)}, r"array 'backbone' has shape \(9, 14\), .*\(12, 14\)"),
        ({"backbone": np.zeros((12, 13), np.int8)}, r"array 'backbone' has shape \(12, 13\), .*\(12, 14\)"),
        ({"sequence": np.array(["A"] * 14)}, "array 'sequence' has type <U1, but must be uint8"),
        ({"sequence": np.full(14, ord("Z"), np.uint8)}, "1ABC_A: residue 1 is 'Z'"),
        ({"sequence": np.full(14, 200, np.uint8)}, "1ABC_A: residue 1 is 'È'"),
        ({"length": np.array([5, 3, 4, 3])}, "'length' adds up to 15 residues, but .* hold 14"),
        ({"length": np.array([5, 3, 6, 0])}, "chain '4GHI_C' has length 0"),
        ({"length": np.array([5.0, 3, 4, 2])}, "array 'length' has type float64, but must be integer"),
        ({"id": np.array([b"a", b"b"])}, r"array 'id' has shape \(2,\), but must be \(P,\) = \(4,\)"),
        ({"step": np.float32(np.nan)}, "'step' is nan, which makes coordinates non-finite"),
        ({"step": np.float32(np.inf)}, "'step' is inf, which makes coordinates non-finite"),
        ({"step": np.array([0.05])}, r"array 'step' has shape \(1,\)"),
        ({"ec_class": np.array([1, 8, 0, 0], np.int8)}, "2XYZ_B: ec_class is 8"),
        ({"split": np.array([0, 3, 0, 0], np.int8)}, "'split' of 2XYZ_B is 3"),
        ({"ec_class": np.array([1, None, 0, 0], object)}, "array 'ec_class' holds Python objects"),
    ],
)
def test_malformed_arrays_are_refused_by_file_and_name(write, changes, message):
    with pytest.raises(DataError, match=f"tiny.npz: .*{message}|tiny.npz: {message}") as caught:
        load_dataset(write(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", [b"3", b"5.10.8.10", b"a.b", b"3..50"])
def test_malformed_cath_code_is_refused_by_name(write, code):
    cath = np.array([b"1.10.8.10", code, b"", b""])
    with pytest.raises(DataError, match=f"tiny.npz: 2XYZ_B: '{code.decode()}' is not a CATH code"):
        load_dataset(write(cath=cath), task="cath-class")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x93NUMPY", b"PK\x03\x04 cut off"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"other.npz: not a readable .npz"):
        load_dataset(path)


def test_a_damaged_file_is_refused(write):
    path = write()
    content = bytearray(path.read_bytes())
    place = content.index(b"ARNDCQEGHILKMF")
    content[place : place + 3] = b"GGG"  # the checksum of the archive notices
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"tiny.npz: array 'sequence' cannot be read"):
        load_dataset(path)


def test_missing_files_and_directories_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none.npz: no such file"):
        load_dataset(tmp_path / "none.npz")
    with pytest.raises(DataError, match=r"a folder without dataset\.json, so it is no prepared set"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"task": "go"},
            "unknown task 'go'; choose one of ec-class, cath-class, cath-architecture, cath-superfamily",
        ),
        ({"split": "valid"}, "unknown split 'valid'; choose one of train, val, test"),
        ({"split_scheme": "random"}, "unknown split_scheme 'random'; choose one of identity, superfamily"),
    ],
)
def test_unknown_choices_are_refused(choice, message):
    with pytest.raises(DataError, match=message):
        load_dataset(**choice)


def test_an_empty_split_is_refused(write):
    with pytest.raises(
        DataError, match=r"tiny.npz: no chain of task 'ec-class' is in split 'test' of scheme"
    ):
        load_dataset(write(), split="test")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepared_set(tmp_path_factory.mktemp("prepared"))


def test_splits_of_a_prepared_set_hold_its_labelled_proteins(prepared):
    path, proteins = prepared
    found = load_splits(path, task="kind", split_scheme="random")
    for split, places in (("train", (0, 1, 2)), ("val", (3,)), ("test", (4,))):
        dataset = found[split]
        want = [p for i, p in enumerate(proteins) if i % 5 in places and p.label >= 0]
        assert dataset.names == [protein.name for protein in want]
        assert dataset.lengths.tolist() == [len(protein) for protein in want]
        assert dataset.labels.tolist() == [protein.label for protein in want]
        assert dataset.num_incomplete == sum(int((~protein.complete).sum()) for protein in want)
        np.testing.assert_array_equal(dataset.class_counts(), np.bincount(dataset.labels, minlength=3))
        assert (dataset.class_names, dataset.task, dataset.split) == (("a", "b", "c"), "kind", split)
        assert dataset.source == str(path) and dataset.left_out == ()
        for i, protein in enumerate(want):
            assert (dataset[i].name, dataset[i].label) == (protein.name, protein.label)
            np.testing.assert_array_equal(dataset[i].backbone, protein.backbone)
    assert len({dataset.fingerprint for dataset in found.values()}) == 1 and len(dataset.fingerprint) == 64


def test_subsets_and_limits_of_a_prepared_set_are_those_in_memory(prepared):
    path, proteins = prepared
    disk = load_dataset(path, task="kind", split_scheme="random")
    by_name = {protein.name: protein for protein in proteins}
    memory = replace(disk, proteins=tuple(by_name[name] for name in disk.names))
    for change in (
        lambda dataset: (subset(dataset, 5, seed=2), []),
        lambda dataset: limit_lengths(dataset, 20, "crop"),
        lambda dataset: limit_lengths(subset(dataset, 9, seed=0), 12, "crop"),
        lambda dataset: limit_lengths(dataset, 40, "refuse"),
    ):
        (one, said), (other, expected) = change(disk), change(memory)
        assert (said, list(one.names)) == (expected, list(other.names))
        assert (one.lengths.tolist(), one.num_incomplete) == (other.lengths.tolist(), other.num_incomplete)
        for a, b in zip(one.proteins, other.proteins, strict=True):
            assert (a.sequence, a.insertion_codes) == (b.sequence, b.insertion_codes)
            np.testing.assert_array_equal(a.backbone, b.backbone)
            np.testing.assert_array_equal(a.residue_numbers, b.residue_numbers)
    messages = []
    for dataset in (disk, memory):
        with pytest.raises(DataError) as caught:
            limit_lengths(dataset, 30)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and "longer than max_length = 30" in messages[0]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"task": "ec-class"}, "set: unknown task 'ec-class'; choose one of kind$"),
        ({"split_scheme": "identity"}, "set: unknown split_scheme 'identity'; choose one of random"),
        ({"task": "roles"}, "several labels of task 'roles', and neither training, .*; choose one of kind"),
        ({"split": "valid"}, "unknown split 'valid'; choose one of train, val, test"),
    ],
)
def test_what_a_prepared_set_does_not_offer_is_refused(prepared, choice, message):
    with pytest.raises(DataError, match=message):
        load_dataset(prepared[0], **({"task": "kind", "split_scheme": "random"} | choice))


def test_an_empty_split_of_a_prepared_set_is_refused(tmp_path):
    path, _ = prepared_set(tmp_path, count=3)
    with pytest.raises(DataError, match="set: no protein with a label of task 'kind' is in split 'test' of"):
        load_dataset(path, task="kind", split="test", split_scheme="random")


def test_the_fingerprint_of_a_file_is_its_checksum(write):
    first = load_dataset(write()).fingerprint
    assert first == load_dataset(write()).fingerprint == hashlib.sha256(write().read_bytes()).hexdigest()
    assert first != load_dataset(write(step=np.float32(0.06))).fingerprint


def test_pretraining_takes_every_chain_that_no_scheme_keeps(prepared):
    """Without labels; validation and test are those of the chosen scheme."""
    for scheme, array, other in (
        ("identity", "split", "split_superfamily"),
        ("superfamily", "split_superfamily", "split"),
    ):
        with np.load(EMBEDDED) as arrays:
            names, place, elsewhere = (arrays[name] for name in ("id", array, other))
        found = load_splits(task="residue-types", split_scheme=scheme)
        kept = (elsewhere == 1) | (elsewhere == 2)
        assert (kept & (place == 0)).any()
        for split, chosen in (("train", (place == 0) & ~kept), ("val", place == 1), ("test", place == 2)):
            assert found[split].names == [name.decode() for name in names[chosen]]
            assert (found[split].labels == -1).all() and found[split].class_names == tuple(RESIDUE_TYPES)
        left = {name.decode() for name in names[(place == -1) | ((place == 0) & kept)]}
        assert set(found["train"].left_out) == left
    path, proteins = prepared
    found = load_splits(path, task="residue-types", split_scheme="random")
    assert found["val"].names == [p.name for i, p in enumerate(proteins) if i % 5 == 3]
    assert found["val"][0].label == -1 and found["val"][0].sequence == proteins[3].sequence
