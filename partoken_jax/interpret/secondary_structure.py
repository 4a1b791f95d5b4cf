"""Helices and strands from hydrogen bonds of the backbone, so that a drawing shows them."""

import numpy as np
from scipy.spatial import cKDTree

from partoken_jax.proteins import Protein
from partoken_jax.proteins.polymers import LONGEST_BOND

BOND_ENERGY = -0.5
"""kcal/mol: below it, two residues are bonded (Kabsch and Sander 1983)."""
REACH = 5.2
"""Å between N and O of a bond at most; further apart, no bond is below `BOND_ENERGY`."""


def hydrogen_bond_energy(
    nitrogen: np.ndarray,  # [P, 3] Å
    hydrogen: np.ndarray,  # [P, 3]
    carbon: np.ndarray,  # [P, 3]
    oxygen: np.ndarray,  # [P, 3]
) -> np.ndarray:  # [P]
    """Electrostatic energy of P pairs N–H … O=C in kcal/mol (Kabsch and Sander 1983, equation 1).

    E = 27.9 (1 / r_ON + 1 / r_CH - 1 / r_OH - 1 / r_CN), with r in Å.
    """

    def inverse(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return 1 / np.maximum(np.linalg.norm(first - second, axis=-1), 0.5)

    return 27.9 * (
        inverse(oxygen, nitrogen)
        + inverse(carbon, hydrogen)
        - inverse(oxygen, hydrogen)
        - inverse(carbon, nitrogen)
    )


def secondary_structure(protein: Protein) -> str:
    """L letters: H in an alpha helix, E in a strand of a sheet, - otherwise.

    Helices are runs of two bonds from residue i + 4 to residue i, strands are ladders of bridges, both as
    Kabsch and Sander (1983) define them. A residue without all four atoms, or after one, gives no bond.
    """
    bonded = _bonds(protein)
    length = len(protein)
    letters = np.full(length, "-")
    for i, j in _bridges(bonded, length):
        letters[i] = letters[j] = "E"
    turns = np.array([(i + 4, i) in bonded for i in range(length)])
    for i in range(1, length):
        if turns[i] and turns[i - 1]:
            letters[i : i + 4] = "H"
    return "".join(letters)


def _bonds(protein: Protein) -> set[tuple[int, int]]:
    """Pairs (donor, acceptor) of residues."""
    nitrogen, _, carbon, oxygen = np.moveaxis(protein.backbone.astype(np.float64), 1, 0)  # each [L, 3]
    # Hydrogen is 1 Å from N, against the direction of the C=O before it.
    along = carbon[:-1] - oxygen[:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        hydrogen = nitrogen[1:] + along / np.linalg.norm(along, axis=1, keepdims=True)
        # Not after a gap; False for NaN.
        follows = np.linalg.norm(nitrogen[1:] - carbon[:-1], axis=1) < LONGEST_BOND
    donors = np.flatnonzero(follows & np.isfinite(hydrogen).all(axis=1)) + 1
    donors = donors[[protein.sequence[i] != "P" for i in donors]]
    acceptors = np.flatnonzero(protein.complete)
    if not len(donors) or not len(acceptors):
        return set()
    near = cKDTree(nitrogen[donors]).query_ball_tree(cKDTree(oxygen[acceptors]), REACH)
    pairs = np.array(
        [(donors[d], acceptors[a]) for d, found in enumerate(near) for a in found], np.int64
    ).reshape(-1, 2)
    pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & (pairs[:, 0] != pairs[:, 1] + 1)]
    donor, acceptor = pairs.T
    energy = hydrogen_bond_energy(nitrogen[donor], hydrogen[donor - 1], carbon[acceptor], oxygen[acceptor])
    return {(int(d), int(a)) for (d, a), low in zip(pairs, energy < BOND_ENERGY, strict=True) if low}


def _bridges(bonded: set[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Pairs i < j of residues that are bridged and have a bridged pair beside them."""
    found = set()
    for donor, acceptor in bonded:
        # A bond is in one of these bridges: (i-1 → j, j → i+1), (i → j, j → i), (i-1 → j+1, j-1 → i+1).
        for i, j in ((acceptor + 1, donor), (donor - 1, acceptor)):
            if {(j, i - 1), (i + 1, j)} <= bonded:
                found.add((min(i, j), max(i, j), 1))
        for i, j in ((donor, acceptor), (acceptor + 1, donor - 1)):
            if {(i, j), (j, i)} <= bonded or {(j + 1, i - 1), (i + 1, j - 1)} <= bonded:
                found.add((min(i, j), max(i, j), -1))
    return [
        (i, j)
        for i, j, way in sorted(found)
        if j - i > 2 and i >= 0 and j < length and ({(i + 1, j + way, way), (i - 1, j - way, way)} & found)
    ]
