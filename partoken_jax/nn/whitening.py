"""The space in which codes may be chosen: main directions of the cluster features, each of variance 1.

Where cluster features differ along one or two directions, or in a few large channels, all codes share these
and the nearest code says little more than one number. In a whitened space every direction counts alike. It
is fitted to data and gets no gradient: a learned projection, as of ViT-VQGAN (Yu et al. 2022), would be
trained by the commitment loss alone where the classifier reads clusters as they are, and that is least when
everything is projected to one point.

Legend: M samples, D channels, d dimensions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SMALLEST = 1e-6
"""Directions with less than this share of the largest variance are noise of rounding; they count as 0."""


class Whitening(NamedTuple):
    centre: jax.Array
    """[D]: mean of the cluster features."""
    axes: jax.Array
    """[D, d]: directions over the standard deviation along them."""


def whiten(whitening: Whitening, x: jax.Array) -> jax.Array:
    """y [..., d] = (x - centre) · axes, for x [..., D].

    REFERENCE.md section 5, whitened clusters.
    """
    # Full precision on every device: a rounded product would change which code is nearest.
    return jnp.matmul(x - whitening.centre, whitening.axes, precision=jax.lax.Precision.HIGHEST)


def fit_whitening(samples: np.ndarray, dimension: int, before: Whitening | None = None) -> Whitening:
    """The d principal directions of samples [M, D], scaled to variance 1, in float64 on the host.

    A new space is rotated so that the samples keep, as nearly as they can, the coordinates that they have in
    the one fitted before (orthogonal Procrustes, Schönemann 1966): a grid names its cells by coordinates.
    """
    x = np.asarray(samples, np.float64)
    centre = x.mean(axis=0)
    variances, directions = np.linalg.eigh((x - centre).T @ (x - centre) / len(x))
    variances, directions = variances[::-1][:dimension], directions[:, ::-1][:, :dimension]
    varies = variances > SMALLEST * max(variances[0], 1e-30)
    axes = np.where(varies, directions / np.sqrt(np.where(varies, variances, 1.0)), 0.0)
    if before is not None:
        old = (x - np.asarray(before.centre, np.float64)) @ np.asarray(before.axes, np.float64)
        left, _, right = np.linalg.svd(((x - centre) @ axes).T @ (old - old.mean(axis=0)))
        axes = axes @ left @ right
    return Whitening(jnp.asarray(centre, jnp.float32), jnp.asarray(axes, jnp.float32))


def unwhiten(whitening: Whitening, y: np.ndarray) -> np.ndarray:
    """[..., D]: the point of the fitted directions that has the coordinates y [..., d]; on the host."""
    points = np.asarray(whitening.centre) + np.asarray(y) @ np.linalg.pinv(np.asarray(whitening.axes))
    return points.astype(np.float32)
