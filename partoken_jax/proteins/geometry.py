"""Whether coordinates can be those of a protein in Å."""

from typing import NamedTuple

import numpy as np

from partoken_jax.proteins.protein import Protein

CLOSEST, FARTHEST = 1.0, 10.0
"""Å, for the median distance of consecutive CA atoms in a chain. It is 3.8, whatever the fold; a median
leaves room for gaps."""
_MIN_STEPS = 3
"""Fewer distances say nothing."""


def coordinate_fault(protein: Protein) -> str | None:
    """Why the coordinates of a protein cannot be right, or None."""
    ca = protein.backbone[:, 1].astype(np.float64)
    known = ca[protein.complete]
    if len(known) > 1 and (known == known[0]).all():
        return "all its CA atoms are in one place"
    ca[~protein.complete] = np.nan
    steps = np.linalg.norm(np.diff(ca, axis=0, prepend=np.nan), axis=1)
    if wrong := implausible(steps, np.array([len(protein)])):
        return (
            f"consecutive CA atoms are {wrong.distance:.3g} Å apart (median), but 3.8 in a protein; "
            "its coordinates are in another unit or order"
        )
    return None


class Implausible(NamedTuple):
    """A chain whose coordinates cannot be right."""

    chain: int
    """Its number, from 0."""
    distance: float
    """Median distance of its consecutive CA atoms, in Å."""


def implausible(distances: np.ndarray, lengths: np.ndarray) -> Implausible | None:
    """The first chain whose consecutive CA atoms are too close or too far apart, if there is one.

    Args:
      distances: [R], Å from the CA of the residue before, chain after chain; NaN where either is missing.
        What stands at the first residue of a chain does not matter.
      lengths: int [P], residues per chain; their sum is R.
    """
    first = np.cumsum(lengths) - lengths
    known = np.isfinite(distances)
    known[first] = False
    counts = np.add.reduceat(known, first, dtype=np.int64)
    wrong = np.zeros(len(lengths), bool)
    # More than half of the distances lie beyond a bound exactly where the median does.
    for beyond in (distances < CLOSEST, distances > FARTHEST):
        wrong |= 2 * np.add.reduceat(beyond & known, first, dtype=np.int64) > counts
    wrong &= counts >= _MIN_STEPS
    if not wrong.any():
        return None
    chain = int(wrong.argmax())
    part = slice(first[chain], first[chain] + lengths[chain])
    return Implausible(chain, float(np.median(distances[part][known[part]])))
