"""The VQ codebook: a token for every cluster (van den Oord et al. 2017, EMA variant).

Pure functions over a `CodebookState`, and the thin module that keeps it in variables of their own type.
Legend: B proteins, S clusters, K codes, D channels.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from partoken_jax.config import CodebookConfig
from partoken_jax.nn.fsq import grid_code, grid_points
from partoken_jax.nn.whitening import Whitening, fit_whitening, unwhiten, whiten


class Codebook(nnx.Variable):
    """Codebook state: moved by averages, not by gradients, so that an optimiser never sees it."""


class CodebookState(NamedTuple):
    embeddings: jax.Array
    """[K, D]"""
    counts: jax.Array
    """[K]: moving average of how many clusters chose the code."""
    sums: jax.Array
    """[K, D]: moving average of the sum of those clusters."""
    uses: jax.Array
    """int32 [K]: clusters that chose the code since k-means or the last re-seeding."""


class ClusterStatistics(NamedTuple):
    """What the moving averages of the codes read of a batch."""

    counts: jax.Array
    """[K]: clusters that chose the code."""
    sums: jax.Array
    """[K, D]: their sum."""


class Quantised(NamedTuple):
    features: jax.Array
    """[B, S, D]: the chosen code, with a gradient for the input (straight-through, or rotated)."""
    codes: jax.Array
    """int32 [B, S]: chosen code, -1 where the cluster is not valid."""
    loss: jax.Array
    """[]: β mean((z - e)²) over valid clusters and channels."""
    squared_errors: jax.Array
    """[B, S]: |z - e|², 0 where the cluster is not valid."""
    further: tuple[jax.Array, ...] = ()
    """int32 [B, S] each: codes of the further codebooks of residual VQ."""


class CodebookUse(NamedTuple):
    usage: jax.Array
    """[K]: share of each code in the moving counts, at least ε."""
    perplexity: jax.Array
    """[]: exp of the entropy of `usage`."""
    entropy_loss: jax.Array
    """[]: Σ p (log p - log(1/K + ε)), p = usage."""


def quantise(
    state: CodebookState,
    z: jax.Array,  # [B, S, D]
    mask: jax.Array,  # bool [B, S]
    *,
    beta: float,
    metric: str,
    gradient: str = "straight-through",
    whitening: Whitening | None = None,
    levels: int | None = None,
) -> Quantised:
    """Replaces every valid cluster by its code (`choose`); invalid ones pass through with gradient 1."""
    codes = choose(state.embeddings, jax.lax.stop_gradient(z), metric, whitening, levels)
    chosen = jax.lax.stop_gradient(state.embeddings)[codes]
    return replaced(z, chosen, codes, mask, beta=beta, gradient=gradient)


def replaced(
    z: jax.Array,  # [B, S, D]
    chosen: jax.Array,  # [B, S, D]
    codes: jax.Array,  # int32 [B, S]
    mask: jax.Array,  # bool [B, S]
    *,
    beta: float,
    gradient: str,
) -> Quantised:
    """Clusters that became the vectors `chosen`, which have no gradient."""
    through = rotated(z, chosen) if gradient == "rotation" else straight_through(z, chosen)
    features = jnp.where(mask[..., None], through, z)
    errors = jnp.where(mask, jnp.sum(jnp.square(jax.lax.stop_gradient(z) - chosen), axis=-1), 0.0)
    return Quantised(features, jnp.where(mask, codes, -1), vq_loss(z, chosen, mask, beta), errors)


def choose(
    embeddings: jax.Array,  # [K, D]
    z: jax.Array,  # [..., D]
    metric: str,
    whitening: Whitening | None = None,
    levels: int | None = None,
) -> jax.Array:
    """int32 [...]: the nearest code, by z as it is or whitened; with `levels`, the cell of the grid."""
    if whitening is None:
        return nearest_code(embeddings, z, metric)
    if levels is not None:
        return grid_code(whiten(whitening, z), levels)
    return nearest_code(whiten(whitening, embeddings), whiten(whitening, z), metric)


def straight_through(z: jax.Array, chosen: jax.Array) -> jax.Array:
    """z + stop_gradient(e - z): the value of the chosen code e, the gradient of z.

    REFERENCE.md section 5, straight-through code.
    """
    return z + jax.lax.stop_gradient(chosen - z)


def rotated(z: jax.Array, chosen: jax.Array) -> jax.Array:
    """The value of the chosen code e, the gradient of |e|/|z| R z, where the rotation R turns z onto e (Fifty
    et al. 2024, equation 4): R z = z - 2 r (r·z) + 2 ê (ẑ·z) with r = (ẑ + ê)/|ẑ + ê|. R and |e|/|z| are
    constants. Straight-through where z or e is 0, or both are opposite.

    REFERENCE.md section 5, rotated code.
    """
    constant = jax.lax.stop_gradient(z)
    length = jnp.linalg.norm(constant, axis=-1, keepdims=True)
    from_, to = _unit(constant), _unit(chosen)
    middle = from_ + to
    defined = jnp.linalg.norm(middle, axis=-1, keepdims=True) > 1e-3
    defined &= (length > 1e-12) & jnp.any(chosen != 0, axis=-1, keepdims=True)
    r = _unit(middle)
    turned = z - 2 * r * jnp.sum(r * z, -1, keepdims=True) + 2 * to * jnp.sum(from_ * z, -1, keepdims=True)
    scale = jnp.linalg.norm(chosen, axis=-1, keepdims=True) / jnp.maximum(length, 1e-12)
    moved = jnp.where(defined, scale * turned, z)
    return chosen + (moved - jax.lax.stop_gradient(moved))


def vq_loss(z: jax.Array, chosen: jax.Array, mask: jax.Array, beta: float) -> jax.Array:
    """[]: β · mean((z - e)²) over the valid clusters and all channels, for z and e = `chosen` [B, S, D].

    REFERENCE.md section 5, VQ loss.
    """
    squared = jnp.sum(jnp.where(mask[..., None], jnp.square(z - chosen), 0.0))
    return beta * squared / jnp.maximum(jnp.sum(mask) * z.shape[-1], 1)


def nearest_code(embeddings: jax.Array, z: jax.Array, metric: str) -> jax.Array:
    """int32 [...]: argmin over codes e of |z|² - 2⟨z, e⟩ + |e|², or of 1 - cos(z, e); first one on ties.

    `embeddings` [K, D], z [..., D], `metric` "l2" or "cosine".

    REFERENCE.md section 5, nearest code.
    """
    if metric == "cosine":
        embeddings, z = _unit(embeddings), _unit(z)
        distance = 1.0 - _dot(z, embeddings)
    else:
        norms = jnp.sum(embeddings * embeddings, axis=-1)
        distance = jnp.sum(z * z, axis=-1, keepdims=True) - 2.0 * _dot(z, embeddings) + norms
    return jnp.argmin(distance, axis=-1).astype(jnp.int32)


def _dot(z: jax.Array, embeddings: jax.Array) -> jax.Array:
    # Full precision on every device: a rounded product would change which code is nearest.
    return jnp.matmul(z, embeddings.T, precision=jax.lax.Precision.HIGHEST)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def cluster_statistics(
    z: jax.Array,  # [B, S, D]
    codes: jax.Array,  # int32 [B, S], -1 invalid
    num_codes: int,
) -> ClusterStatistics:
    """Of the valid clusters of a batch; no gradient."""
    flat = jax.lax.stop_gradient(z).reshape(-1, z.shape[-1])
    # Invalid clusters are sent past the end and dropped.
    target = jnp.where(codes >= 0, codes, num_codes).reshape(-1)
    return ClusterStatistics(
        counts=jnp.zeros(num_codes).at[target].add(1.0, mode="drop"),
        sums=jnp.zeros((num_codes, z.shape[-1])).at[target].add(flat, mode="drop"),
    )


def ema_update(
    state: CodebookState,
    statistics: ClusterStatistics,
    *,
    decay: float,
    epsilon: float,
    keep_unused: bool,
) -> CodebookState:
    """Moving averages of counts and sums; code = sum / (count + ε). Nothing moves without valid clusters.
    Uses are counted, without decay.

    With n clusters of a code and their sum Σz: N ← γ N + (1 - γ) n, m ← γ m + (1 - γ) Σz, e ← m / (N + ε).

    With `keep_unused` a code that no cluster chose keeps its value (the published rule divides its
    decayed sum by a count of about 0 and so sends it to the origin).

    REFERENCE.md section 5, moving averages of the codes.
    """
    batch_counts, batch_sums = statistics
    counts = decay * state.counts + (1 - decay) * batch_counts
    sums = decay * state.sums + (1 - decay) * batch_sums
    embeddings = sums / (counts + epsilon)[:, None]
    if keep_unused:
        embeddings = jnp.where(batch_counts[:, None] > 0, embeddings, state.embeddings)
    moved = CodebookState(embeddings, counts, sums, state.uses + batch_counts.astype(state.uses.dtype))
    any_valid = jnp.any(batch_counts > 0)
    return jax.tree.map(lambda new, old: jnp.where(any_valid, new, old), moved, state)


def codebook_use(counts: jax.Array, epsilon: float) -> CodebookUse:
    """Usage, perplexity and entropy loss of the moving counts [K]."""
    p = usage(counts, epsilon)
    return CodebookUse(p, perplexity(p, epsilon), entropy_loss(p, epsilon))


def usage(counts: jax.Array, epsilon: float) -> jax.Array:
    """p [K] = max(N / (ΣN + ε), ε), of the moving counts N.

    REFERENCE.md section 5, usage.
    """
    return jnp.maximum(counts / (jnp.sum(counts) + epsilon), epsilon)


def perplexity(p: jax.Array, epsilon: float) -> jax.Array:
    """[]: exp(-Σ p log(p + ε)), the effective number of codes in use.

    REFERENCE.md section 5, perplexity.
    """
    return jnp.exp(-jnp.sum(p * jnp.log(p + epsilon)))


def entropy_loss(p: jax.Array, epsilon: float) -> jax.Array:
    """[]: Σ p (log p - log(1/K + ε)), the distance of the usage p [K] from the uniform one.

    REFERENCE.md section 5, entropy loss.
    """
    return jnp.sum(p * (jnp.log(p) - jnp.log(1.0 / p.shape[0] + epsilon)))


def reseed_dead(
    state: CodebookState,
    samples: jax.Array,  # [M, D]
    key: jax.Array,
    share: float = 0.0,
) -> tuple[CodebookState, jax.Array]:
    """Moves every dead code onto a random sample, with count 1, and begins to count uses anew. Dead are codes
    with at most this share of the uses that each would have if all had as many.

    No two codes get the same sample while there are enough of them: of two equal codes one is never chosen.
    Returns the new state and how many codes moved, int32 [].
    """
    dead = state.uses <= share * jnp.mean(state.uses)
    order = jax.random.permutation(key, samples.shape[0])
    picked = samples[order[(jnp.cumsum(dead) - 1) % samples.shape[0]]]  # the n-th dead code takes the n-th
    return CodebookState(
        embeddings=jnp.where(dead[:, None], picked, state.embeddings),
        counts=jnp.where(dead, 1.0, state.counts),
        sums=jnp.where(dead[:, None], picked, state.sums),
        uses=jnp.zeros_like(state.uses),
    ), jnp.sum(dead)


def grid_state(
    samples: jax.Array,  # [M, D]
    whitening: Whitening,
    levels: int,
) -> CodebookState:
    """First codes of a grid of K cells: the mean of the samples in a cell, its middle where there are none.

    Counts 1, sums = codes, no uses yet, as k-means leaves them.
    """
    points = grid_points(levels, whitening.axes.shape[-1])
    middles = jnp.asarray(unwhiten(whitening, np.asarray(points)))
    found = cluster_statistics(samples, grid_code(whiten(whitening, samples), levels), len(middles))
    means = found.sums / jnp.maximum(found.counts, 1)[:, None]
    codes = jnp.where(found.counts[:, None] > 0, means, middles)
    return CodebookState(codes, jnp.ones(len(codes)), codes, jnp.zeros(len(codes), jnp.int32))


class VQCodebook(nnx.Module):
    """K codes of width D, with the state of their moving averages."""

    def __init__(self, width: int, config: CodebookConfig, *, rngs: nnx.Rngs):
        self.config = config
        bound = 1.0 / config.size
        codes = jax.random.uniform(rngs.params(), (config.size, width), minval=-bound, maxval=bound)
        self.embeddings = Codebook(codes)
        self.counts = Codebook(jnp.zeros(config.size))
        self.sums = Codebook(jnp.zeros((config.size, width)))
        self.uses = Codebook(jnp.zeros(config.size, jnp.int32))
        if config.dimension is not None:
            self.centre = Codebook(jnp.zeros(width))
            self.axes = Codebook(jnp.eye(width, config.dimension))

    @property
    def levels(self) -> tuple["VQCodebook", ...]:
        """The codebooks that a cluster is named by, one after the other: this one."""
        return (self,)

    @property
    def whitening(self) -> Whitening | None:
        """The space in which codes are chosen; None where they are chosen by all channels as they are."""
        return None if self.config.dimension is None else Whitening(self.centre[...], self.axes[...])

    @property
    def grid(self) -> int | None:
        """The number of cells along each dimension, where codes are the cells of a grid."""
        return self.config.levels if self.config.quantiser == "fsq" else None

    @property
    def state(self) -> CodebookState:
        return CodebookState(self.embeddings[...], self.counts[...], self.sums[...], self.uses[...])

    def set_state(self, state: CodebookState) -> None:
        self.embeddings[...], self.counts[...], self.sums[...], self.uses[...] = state

    def quantise(self, z: jax.Array, mask: jax.Array) -> Quantised:
        """Replaces clusters z [B, S, D] by their codes; changes nothing."""
        chex.assert_rank(z, 3)
        chex.assert_shape(mask, z.shape[:2])
        config = self.config
        return quantise(
            self.state,
            z,
            mask,
            beta=config.beta,
            metric=config.metric,
            gradient=config.gradient,
            whitening=self.whitening,
            levels=self.grid,
        )

    def choose(self, z: jax.Array) -> jax.Array:
        """int32 [...]: codes of z [..., D]."""
        return choose(self.embeddings[...], z, self.config.metric, self.whitening, self.grid)

    def statistics(self, z: jax.Array, out: Quantised) -> ClusterStatistics:
        """What `move` reads of clusters z [B, S, D] that `quantise` made `out` of."""
        return cluster_statistics(z, out.codes, self.config.size)

    def fit_space(self, samples: np.ndarray, *, first: bool) -> None:
        """Fits the space in which codes are chosen, if there is one, to cluster features [M, D] on the host:
        for the first time, or again, with coordinates as near as they can be to those before."""
        if self.config.dimension is not None:
            before = None if first else self.whitening
            self.centre[...], self.axes[...] = fit_whitening(samples, self.config.dimension, before)

    def move(self, statistics: ClusterStatistics, update: bool | jax.Array) -> None:
        """Moves the averages by the clusters of a batch where `update` (which may be traced) says so."""
        if update is False:
            return
        config, before = self.config, self.state
        moved = ema_update(
            before,
            statistics,
            decay=config.decay,
            epsilon=config.epsilon,
            keep_unused=config.keep_unused,
        )
        self.set_state(jax.tree.map(lambda new, old: jnp.where(update, new, old), moved, before))
