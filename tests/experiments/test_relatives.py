"""Groups of relatives are what the splits of the data keep together."""

import numpy as np
import pytest

from experiments.relatives import DATA, groups, superfamilies
from partoken_jax.proteins import load_splits
from partoken_jax.proteins.dataset import EMBEDDED


@pytest.mark.parametrize("scheme", ["identity", "superfamily"])
def test_a_split_keeps_together_what_its_scheme_says(scheme):
    splits = load_splits(DATA, task="cath-architecture", split_scheme=scheme, splits=("train", "val", "test"))
    of = groups if scheme == "identity" else superfamilies
    found = {split: set(of(list(dataset.names)).tolist()) for split, dataset in splits.items()}
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not {group for group in found[first] & found[second] if group >= 0}
    # And there are fewer groups than proteins, which is why they count.
    assert len(found["test"]) < 0.6 * len(splits["test"])


def test_chains_of_the_package_are_among_them_and_others_are_on_their_own():
    names = list(load_splits(EMBEDDED, task="cath-class", splits=("test",))["test"].names)
    known = groups(names)
    assert (known >= 0).all() and len(set(known)) > 1
    mixed = groups(["mine", names[0], "yours"])
    assert mixed[1] == known[0] and len(np.unique(mixed)) == 3


def test_by_superfamily_those_are_together_whom_sequences_or_superfamilies_connect():
    """Also where the superfamily is not known: 401 of these enzymes, in 171 groups by sequence."""
    names = list(load_splits(DATA, task="ec-class", splits=("test",))["test"].names)
    both, family, sequence = groups(names, "superfamily"), superfamilies(names), groups(names)
    assert (family < 0).sum() == 401
    for of in (sequence, family):
        members = {label: both[of == label] for label in np.unique(of) if label >= 0}
        assert all(len(np.unique(mine)) == 1 for mine in members.values())
    # And nobody else is: a group is one by sequence and superfamily, or several that something connects.
    assert len(np.unique(sequence)) > len(np.unique(both)) > len(np.unique(family[family >= 0]))
    alone = groups(["mine", "yours", names[0]], "superfamily")
    assert len(np.unique(alone)) == 3


def test_a_file_without_groups_has_everyone_on_their_own(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, id=np.array([b"a", b"b"]))
    assert len(np.unique(groups(["a", "b"], path=path))) == 2
