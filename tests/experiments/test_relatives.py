"""Groups of relatives are what the splits of the data keep together."""

import numpy as np
import pytest

from experiments.relatives import DATA, groups
from partoken_jax.proteins import load_splits
from partoken_jax.proteins.dataset import EMBEDDED


@pytest.mark.parametrize("scheme", ["identity", "superfamily"])
def test_no_group_is_in_two_splits(scheme):
    splits = load_splits(DATA, task="cath-architecture", split_scheme=scheme, splits=("train", "val", "test"))
    found = {split: set(groups(dataset.names, scheme).tolist()) for split, dataset in splits.items()}
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not {group for group in found[first] & found[second] if group >= 0}
    # And there are fewer groups than proteins, which is why they count.
    assert len(found["test"]) < 0.6 * len(splits["test"])
    assert min(found["test"]) >= 0


def test_chains_of_the_package_are_among_them_and_others_are_on_their_own():
    names = list(load_splits(EMBEDDED, task="cath-class", splits=("test",))["test"].names)
    known = groups(names)
    assert (known >= 0).all() and len(set(known)) > 1
    mixed = groups(["mine", names[0], "yours"])
    assert mixed[1] == known[0] and len(np.unique(mixed)) == 3


def test_a_chain_whose_superfamily_is_not_known_is_on_its_own():
    names = list(load_splits(DATA, task="ec-class", splits=("test",))["test"].names)
    family = groups(names, "superfamily")
    unknown = family[family < 0]
    assert len(unknown) == 401 and len(np.unique(unknown)) == 401


def test_a_file_without_groups_has_everyone_on_their_own(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, id=np.array([b"a", b"b"]))
    assert len(np.unique(groups(["a", "b"], path=path))) == 2
