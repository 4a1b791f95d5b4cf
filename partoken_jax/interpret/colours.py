"""Colours of clusters, importances, tokens and confidences, the same in every page, script and drawing."""

import colorsys
from collections.abc import Sequence

import numpy as np

CLUSTERS = ("#d55e00", "#0072b2", "#009e73", "#f0e442", "#cc79a7", "#56b4e9", "#e69f00")
"""Of clusters by rank, from the most important one: those of Okabe and Ito (2008), which people who see few
colours tell apart. The first five, as many clusters as a published model makes, differ in hue and not in
lightness alone, which shading changes. After the seventh they come again, so ranks are always written too."""
NONE = {"light": "#c3c7cc", "dark": "#5b626b"}
"""Of residues in no cluster, on a light and on a dark background. Files have the light one."""
IMPORTANCES = ("#5b02a3", "#9a179b", "#cb4679", "#ed7953", "#fdb42f", "#f0f921")
"""From 0 to the largest importance of a protein, evenly: ever lighter, so that they read in grey as well
(of matplotlib's plasma)."""
PLDDT = ((90.0, "#0053d6"), (70.0, "#65cbf3"), (50.0, "#ffdb13"), (0.0, "#ff7d45"))
"""Lower bounds of pLDDT and their colours, as the AlphaFold database has them."""


def of_rank(rank: int) -> str:
    """Colour of a cluster by its rank, from 1; of what is in no cluster for 0."""
    return CLUSTERS[(rank - 1) % len(CLUSTERS)] if rank else NONE["light"]


def of_token(token: int) -> str:
    """Colour of a token, the same in every protein: hues a golden angle apart, in three lightnesses.

    There are more tokens than colours that a person tells apart, so the number is always written as well.
    """
    hue = (0.08 + token * 0.381966) % 1.0
    return _hex(colorsys.hls_to_rgb(hue, (0.45, 0.6, 0.72)[token % 3], 0.65))


def of_share(share: float, scale: Sequence[str] = IMPORTANCES) -> str:
    """Colour of a number from 0 to 1 on a scale of evenly spaced colours."""
    place = min(max(share, 0.0), 1.0) * (len(scale) - 1)
    below = min(int(place), len(scale) - 2)
    first, second = rgb(scale[below]), rgb(scale[below + 1])
    return _hex(first + (second - first) * (place - below))


def of_plddt(plddt: float) -> str:
    """Colour of a confidence from 0 to 100."""
    return next((colour for bound, colour in PLDDT if plddt >= bound), PLDDT[-1][1])


def rgb(colour: str) -> np.ndarray:
    """float64 [3], 0 to 1, of a colour #rrggbb."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def _hex(colour: Sequence[float] | np.ndarray) -> str:
    return "#" + "".join(f"{round(float(part) * 255):02x}" for part in colour)
