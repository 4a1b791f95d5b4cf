"""A protein as a few hundred hand-made numbers, from the backbone alone, for `experiments.baselines`.

Nothing here is new. Secondary structure is told from CA distances, after P-SEA (Labesse et al., 1997);
contact order as Plaxco et al. (1998) define it, on CA atoms. Residues that lack an atom are left out.
Legend: n complete residues, distances in Å.
"""

import numpy as np

from partoken_jax.proteins import Protein
from partoken_jax.proteins.protein import RESIDUE_TYPES

CONTACT = 8.0
"""Å between CA atoms that are in contact."""
SEPARATIONS = (3, 5, 9, 17, 33, 65, np.inf)
"""Bounds of the bins of |i - j|."""
ANGLE_BINS = 12
HELIX = {2: (5.5, 0.5), 3: (5.3, 0.5), 4: (6.4, 0.6)}
STRAND = {2: (6.7, 0.6), 3: (9.9, 0.9), 4: (12.4, 1.1)}
"""CA(i) to CA(i + step): mean and tolerance."""
FEW = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def backbone_features(protein: Protein) -> np.ndarray:
    """float32 [F]: size and shape, contacts, angles, local distances, secondary structure; F is the same for
    every protein."""
    atoms = protein.backbone[protein.complete].astype(np.float64)
    number = np.flatnonzero(protein.complete)  # places in the chain, so that gaps stay gaps
    ca = atoms[:, 1]
    distance = distances(ca)
    helix, strand = matches(distance, number, HELIX), matches(distance, number, STRAND)
    parts = (
        _shape(ca, distance),
        _contacts(distance, number),
        _angles(atoms, number),
        _local_distances(distance, number),
        _secondary_structure(helix, strand & ~helix),
        _pairing(ca, distance, number, helix, strand & ~helix),
    )
    return np.nan_to_num(np.concatenate(parts)).astype(np.float32)


def composition(protein: Protein) -> np.ndarray:
    """float32 [20]: share of each amino acid."""
    types = protein.residue_types
    counts = np.bincount(types, minlength=len(RESIDUE_TYPES) + 1)[:-1]
    return (counts / max(counts.sum(), 1)).astype(np.float32)


def distances(points: np.ndarray) -> np.ndarray:
    """[n, n]: between points [n, 3]."""
    centred = points - points.mean(0)
    square = np.sum(centred * centred, axis=1)
    found = np.sqrt(np.maximum(square[:, None] + square - 2 * centred @ centred.T, 0))
    np.fill_diagonal(found, 0)  # what rounding leaves there is no distance
    return found


def radius_of_gyration(ca: np.ndarray) -> float:
    """sqrt of the mean squared distance of points [n, 3] from their centre."""
    return float(np.sqrt(np.mean(np.sum(np.square(ca - ca.mean(0)), axis=1))))


def contact_order(distance: np.ndarray, number: np.ndarray) -> float:
    """Mean |i - j| over contacts of residues at least 3 apart in the chain, over n; 0 without contacts."""
    i, j = np.nonzero(np.triu(distance < CONTACT))
    apart = np.abs(number[i] - number[j])
    apart = apart[apart >= SEPARATIONS[0]]
    return float(apart.mean() / len(number)) if apart.size else 0.0


def dihedral(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The dihedral a-b-c-d in radians, -π to π, for points [n, 3]."""
    first, axis, last = a - b, c - b, d - c
    axis = axis / np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-9)
    v = first - np.sum(first * axis, axis=1, keepdims=True) * axis
    w = last - np.sum(last * axis, axis=1, keepdims=True) * axis
    return np.arctan2(np.sum(np.cross(axis, v) * w, axis=1), np.sum(v * w, axis=1))


def _shape(ca: np.ndarray, distance: np.ndarray) -> np.ndarray:
    n, radius = len(ca), radius_of_gyration(ca)
    axes = np.linalg.eigvalsh(np.cov(ca.T)) if n > 1 else np.zeros(3)
    total = max(axes.sum(), 1e-9)
    spread = distance[np.triu_indices(n, 1)]
    quantiles = np.quantile(spread, FEW) / max(radius, 1e-9) if spread.size else np.zeros(len(FEW))
    near = np.sum(distance < 10.0, axis=1) - 1
    far = np.linalg.norm(ca - ca.mean(0), axis=1) / max(radius, 1e-9)
    return np.concatenate(
        [
            [
                n,
                np.log(n),
                radius,
                radius / n**0.38,
                *(axes[:2] / total),
                distance[0, -1] / max(radius, 1e-9),
            ],
            quantiles,
            [near.mean(), near.std()],
            np.quantile(near, FEW),
            np.quantile(far, FEW),
        ]
    )


def _contacts(distance: np.ndarray, number: np.ndarray) -> np.ndarray:
    i, j = np.nonzero(np.triu(distance < CONTACT))
    counts = np.histogram(np.abs(number[i] - number[j]), SEPARATIONS)[0]
    return np.concatenate(
        [[contact_order(distance, number), counts.sum() / len(number)], counts / len(number)]
    )


def _angles(atoms: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Shares of residues in 12 × 12 regions of φ and ψ, and in 12 of the dihedral of four CA atoms."""
    linked = np.flatnonzero((np.diff(number)[:-1] == 1) & (np.diff(number)[1:] == 1)) + 1
    before, here, after = atoms[linked - 1], atoms[linked], atoms[linked + 1]
    phi = dihedral(before[:, 2], here[:, 0], here[:, 1], here[:, 2])
    psi = dihedral(here[:, 0], here[:, 1], here[:, 2], after[:, 0])
    edges = np.linspace(-np.pi, np.pi + 1e-9, ANGLE_BINS + 1)
    regions = np.histogram2d(phi, psi, (edges, edges))[0].ravel()
    ca = atoms[:, 1]
    turns = (
        np.histogram(dihedral(ca[:-3], ca[1:-2], ca[2:-1], ca[3:]), edges)[0]
        if len(ca) > 3
        else 0 * edges[1:]
    )
    return np.concatenate([regions / max(len(linked), 1), turns / max(len(ca) - 3, 1)])


def _local_distances(distance: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Mean, spread and a histogram of CA(i) to CA(i + step), for 2 to 5 steps."""
    parts = []
    for step in range(2, 6):
        values = np.diagonal(distance, step)[number[step:] - number[:-step] == step]
        counts = np.histogram(values, np.linspace(3.5, 3.8 * step + 0.5, 13))[0]
        spread = (values.mean(), values.std()) if values.size else (0.0, 0.0)
        parts += [np.array(spread), counts / max(values.size, 1)]
    return np.concatenate(parts)


def matches(distance: np.ndarray, number: np.ndarray, rule: dict[int, tuple[float, float]]) -> np.ndarray:
    """bool [n]: residues within a stretch of five whose distances from the first all fit the rule."""
    n = len(number)
    start = np.zeros(max(n - 4, 0), bool)
    if n > 4:
        start[:] = number[4:] - number[:-4] == 4
        for step, (mean, tolerance) in rule.items():
            start &= np.abs(np.diagonal(distance, step)[: n - 4] - mean) < tolerance
    inside = np.zeros(n, bool)
    for step in range(5):
        inside[step : step + len(start)] |= start
    return inside


def _secondary_structure(helix: np.ndarray, strand: np.ndarray) -> np.ndarray:
    """Shares, numbers and lengths of helices and strands, and how often one follows the other."""
    n, elements = len(helix), []
    for kind, flags in enumerate((helix, strand)):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
        elements += [(start, stop - start, kind) for start, stop in edges.reshape(-1, 2)]
    kinds = np.array([kind for *_, kind in sorted(elements)], int)
    found = [helix.mean(), strand.mean(), 1 - helix.mean() - strand.mean()]
    for kind in range(2):
        lengths = np.array([length for _, length, k in elements if k == kind])
        found += [
            len(lengths),
            len(lengths) / n,
            *((lengths.mean(), lengths.max()) if len(lengths) else (0, 0)),
        ]
    follow = np.bincount(2 * kinds[:-1] + kinds[1:], minlength=4) if len(kinds) > 1 else np.zeros(4)
    return np.array([*found, *(follow / max(follow.sum(), 1))])


def _pairing(
    ca: np.ndarray, distance: np.ndarray, number: np.ndarray, helix: np.ndarray, strand: np.ndarray
) -> np.ndarray:
    """How elements pack: contacts between helices, strands and both, and strands side by side in the same or
    the opposite direction, near or far in the chain; all per residue."""
    n = len(ca)
    if n < 3:
        return np.zeros(3 + 4)
    direction = np.gradient(ca, axis=0)
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
    i, j = np.nonzero(np.triu(distance < CONTACT, 1))
    apart = number[j] - number[i]
    i, j, apart = i[apart > 4], j[apart > 4], apart[apart > 4]
    together = [helix[i] & helix[j], strand[i] & strand[j], (helix[i] & strand[j]) | (strand[i] & helix[j])]
    beside = strand[i] & strand[j] & (distance[i, j] < 5.5)
    same = np.sum(direction[i] * direction[j], axis=1) > 0
    ladders = [
        beside & (same == way) & ((apart > 20) == far) for way in (True, False) for far in (True, False)
    ]
    return np.array([np.sum(kind) / n for kind in (*together, *ladders)])
