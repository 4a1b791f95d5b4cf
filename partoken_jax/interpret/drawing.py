"""Small flat drawings of a protein: the trace of its backbone, seen from where it is widest."""

from html import escape

import numpy as np

from partoken_jax.interpret import colours
from partoken_jax.interpret.annotation import Annotation

SIZE = 100
"""Width and height of a drawing in its own units."""
POINTS = 110
"""At most so many points make a trace, so that thousands of drawings fit into one page."""
LONGEST = 12
"""Points of a stretch that is in front of or behind another as a whole."""
GAP = 4.5
"""Å between CA atoms; residues further apart are not joined."""


def principal_frame(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre [3] and rotation [3, 3] of points [N, 3]: `(points - centre) @ rotation` is widest in x, then y.

    The rotation is proper, and its signs are those with positive skewness, so that the same protein is drawn
    the same way wherever it lies. Points that are NaN do not count.
    """
    known = points[np.isfinite(points).all(axis=1)].astype(np.float64)
    centre = known.mean(axis=0)
    _, axes = np.linalg.eigh((known - centre).T @ (known - centre))
    rotation = axes[:, ::-1]
    skew = (((known - centre) @ rotation) ** 3).sum(axis=0)
    rotation = rotation * np.where(skew < 0, -1, 1)
    rotation[:, 2] *= np.sign(np.linalg.det(rotation))
    return centre, rotation


def drawing(annotation: Annotation, title: str, only: int | None = None) -> str:
    """An SVG element with the trace of the CA atoms, thick and coloured where there are clusters.

    Colours are left to classes c0, c1, … of the page (`style`).

    Args:
      annotation: the protein and its clusters.
      title: what it shows, for who cannot see it.
      only: rank of the one cluster to colour; None for all.
    """
    ranks = annotation.rank_of_residue
    if only is not None:
        ranks = np.where(ranks == only, ranks, 0)
    points = annotation.protein.backbone[:, 1]
    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    parts: list[tuple[float, str]] = []
    if len(known):
        centre, rotation = principal_frame(points)
        seen = (points[known].astype(np.float64) - centre) @ rotation
        low, high = seen[:, :2].min(axis=0), seen[:, :2].max(axis=0)
        for run, rank in _runs(seen, ranks[known]):
            flat = SIZE / 2 + (run[:, :2] - (low + high) / 2) * [1, -1] * (SIZE - 8) / max(
                (high - low).max(), 1
            )
            parts.append((float(run[:, 2].mean()), _path(np.rint(flat).astype(int), rank)))
    body = "".join(path for _, path in sorted(parts))
    box = f'class="drawing" viewBox="0 0 {SIZE} {SIZE}"'
    return f'<svg {box} role="img" aria-label="{escape(title)}">{body}</svg>'


def style() -> str:
    """The rules of CSS that give drawings and marks their colours; `--none` is the page's."""
    rules = [".c0{--c:var(--none)}"]
    rules += [f".c{number}{{--c:{colour}}}" for number, colour in enumerate(colours.CLUSTERS, 1)]
    return "".join(rules)


def colour_class(rank: int) -> str:
    """Class of `style` of a cluster by its rank; of what is in no cluster for 0."""
    return f"c{(rank - 1) % len(colours.CLUSTERS) + 1 if rank else 0}"


def _runs(seen: np.ndarray, ranks: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Stretches of the chain in one colour, [n, 3] each; a stretch ends where the next one begins."""
    joined = np.linalg.norm(np.diff(seen, axis=0), axis=1) <= GAP  # [N - 1]
    smooth = seen.copy()  # helices become rods
    smooth[1:-1] = (seen[:-2] + 2 * seen[1:-1] + seen[2:]) / 4
    stride = -(-len(seen) // POINTS)
    starts = [0]
    for i in range(1, len(seen)):
        # A long stretch would be in front of or behind another as a whole.
        if not joined[i - 1] or ranks[i] != ranks[i - 1] or i - starts[-1] == LONGEST * stride:
            starts.append(i)
    runs = []
    for start, end in zip(starts, [*starts[1:], len(seen)], strict=True):
        kept = list(range(start, end, stride))
        kept += [end] if end < len(seen) and joined[end - 1] else [end - 1]
        runs.append((smooth[kept], int(ranks[start])))
    return runs


def _path(flat: np.ndarray, rank: int) -> str:
    """A stretch over its own edge, which cuts what is behind it but not what it joins at its ends."""
    edge = f'<path class="edge" d="{_line(flat[1:-1])}"/>' if len(flat) > 3 else ""
    return f'{edge}<path class="{colour_class(rank)}" d="{_line(flat)}"/>'


def _line(flat: np.ndarray) -> str:
    """A start and steps from there, in whole units."""
    steps = " ".join(f"{x} {y}" for x, y in np.diff(flat, axis=0).tolist())
    return f"M{flat[0, 0]} {flat[0, 1]}l{steps or '0 0'}"
