"""Which proteins are relatives, and so no independent evidence.

A split scheme keeps relatives together, so that a test split is a sample of groups, not of proteins: of
chains that are connected by more than 30% sequence identity ("identity"), or of CATH superfamilies
("superfamily"). One group of enzymes has 50 chains in the test. Intervals over proteins draw whole groups.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data" / "pdb_chains.npz"
ARRAYS = {"identity": "cluster30", "superfamily": "cath"}
"""Split scheme → the array of the file that names what it keeps together."""


def groups(names: Sequence[str], scheme: str = "identity", path: Path = DATA) -> np.ndarray:
    """int [P]: the number of the group of every protein in `names`; a protein that the file does not hold, or
    whose group it does not know, is one of its own, below 0."""
    known = _known(scheme, path)
    return np.array([known.get(name, -1 - place) for place, name in enumerate(names)])


@cache
def _known(scheme: str, path: Path) -> dict[str, int]:
    with np.load(path, allow_pickle=False) as arrays:
        if ARRAYS[scheme] not in arrays:
            return {}
        names, group = np.char.decode(arrays["id"], "utf-8").tolist(), arrays[ARRAYS[scheme]]
    if scheme == "superfamily":
        codes, group = np.unique(group, return_inverse=True)
        group = np.where(codes[group] == b"", -1, group)
    return {name: number for name, number in zip(names, group.tolist(), strict=True) if number >= 0}
