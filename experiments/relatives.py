"""Which proteins are relatives, and so no independent evidence.

A split scheme keeps relatives together, so that a test split is a sample of groups, not of proteins: of
chains that are connected by more than 30% sequence identity ("identity"), or of CATH superfamilies
("superfamily"). One group of enzymes has 48 chains in the test. Intervals over proteins draw whole groups.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

DATA = Path(__file__).parent / "data" / "pdb_chains.npz"


def groups(names: Sequence[str], scheme: str = "identity", path: Path = DATA) -> np.ndarray:
    """int [P]: the number of the group of every protein in `names`. By "superfamily" those are together that
    a chain of superfamilies and sequences connects, for the superfamily of many is not known.

    A protein that the file does not hold is a group of its own.
    """
    by_sequence = _labels(names, "cluster30", path)
    if scheme == "identity":
        return by_sequence
    # A graph of proteins, and of what they share: its nodes from P on are sequences, then superfamilies.
    size, place = len(names), np.arange(len(names))
    _, sequence = np.unique(by_sequence, return_inverse=True)
    _, family = np.unique(superfamilies(names, path), return_inverse=True)
    ends = np.concatenate([size + sequence, 2 * size + family])
    edges = coo_array((np.ones(2 * size), (np.tile(place, 2), ends)), shape=(3 * size, 3 * size))
    return connected_components(edges, directed=False)[1][:size]


def superfamilies(names: Sequence[str], path: Path = DATA) -> np.ndarray:
    """int [P]: the number of the CATH superfamily of every protein in `names`, each its own below 0 where it
    is not known."""
    return _labels(names, "cath", path)


def _labels(names: Sequence[str], array: str, path: Path) -> np.ndarray:
    known = _known(array, path)
    return np.array([known.get(name, -1 - place) for place, name in enumerate(names)])


@cache
def _known(array: str, path: Path) -> dict[str, int]:
    with np.load(path, allow_pickle=False) as arrays:
        if array not in arrays:
            return {}
        names, label = np.char.decode(arrays["id"], "utf-8").tolist(), arrays[array]
    if array == "cath":
        codes, label = np.unique(label, return_inverse=True)
        label = np.where(codes[label] == b"", -1, label)
    return {name: number for name, number in zip(names, label.tolist(), strict=True) if number >= 0}
