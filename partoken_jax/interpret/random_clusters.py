"""Clusters of given sizes that grow at random: what clusters would be if they were about nothing.

Legend: L residues of a protein, K neighbours, S clusters, R draws.
"""

from collections.abc import Sequence

import numpy as np

from partoken_jax.proteins import DataError

_INVITATIONS = 30
"""Per residue of a cluster; a cluster that has not grown to its size after so many is surrounded."""
_ATTEMPTS = 100


def grow_random(
    neighbours: np.ndarray,  # int [L, K], -1 where there is none
    sizes: Sequence[int],  # [S], residues per cluster
    draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """int32 [R, L]: cluster 0 … S-1 of each residue in every draw, -1 where it is in none.

    One cluster after the other starts from a residue drawn from those that are free and have neighbours.
    Then a member, drawn anew each time, invites one of its neighbours, which joins if it is free, until the
    cluster has its size. So clusters are connected and disjoint, and residues with many residues around
    them are in one more often, as they are in any local cluster. A draw that gets stuck is drawn again.

    Raises DataError for sizes that do not fit into the protein.
    """
    clusters = np.full((draws, len(neighbours)), -1, np.int32)
    todo = np.arange(draws)
    room = int((neighbours >= 0).any(axis=1).sum())
    for _ in range(_ATTEMPTS if sum(sizes) <= room else 0):
        if not todo.size:
            break
        drawn, whole = _grow(neighbours, sizes, todo.size, rng)
        clusters[todo[whole]] = drawn[whole]
        todo = todo[~whole]
    if todo.size:
        raise DataError(
            f"clusters of {list(sizes)} residues do not fit into a protein of {len(neighbours)}; leave it out"
        )
    return clusters


def _grow(
    neighbours: np.ndarray, sizes: Sequence[int], draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters int32 [R, L] of all draws side by side, and bool [R]: all of them have their size."""
    length, k = neighbours.shape
    clusters, rows = np.full((draws, length), -1, np.int32), np.arange(draws)
    whole, lone = np.ones(draws, bool), (neighbours < 0).all(axis=1)
    for number, size in enumerate(sizes):
        order = rng.random((draws, length))
        order[(clusters >= 0) | lone] = -1
        seed = order.argmax(axis=1)
        whole &= order[rows, seed] >= 0
        clusters[rows[whole], seed[whole]] = number
        members = np.full((draws, size), -1)
        members[:, 0], count = seed, np.ones(draws, int)
        for _ in range(_INVITATIONS * size):
            growing = rows[whole & (count < size)]
            if not growing.size:
                break
            member = members[growing, (rng.random(growing.size) * count[growing]).astype(int)]
            invited = neighbours[member, rng.integers(k, size=growing.size)]
            free = (invited >= 0) & (clusters[growing, invited] < 0)
            growing, invited = growing[free], invited[free]
            clusters[growing, invited] = number
            members[growing, count[growing]] = invited
            count[growing] += 1
        whole &= count == size
    return clusters, whole
