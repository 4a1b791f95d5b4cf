"""k-means, which makes the first codes out of cluster features."""

from typing import TypeVar

import jax
import jax.numpy as jnp

from partoken_jax.nn.codebook import CodebookState, nearest_code
from partoken_jax.nn.devices import sum_over_devices

T = TypeVar("T")


def kmeans(
    samples: jax.Array,  # [M, D]
    num_codes: int,
    *,
    permutation: jax.Array,  # [M]
    iterations: int = 25,
    tolerance: float = 1e-4,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Lloyd's algorithm; centres [num_codes, D] and the number of iterations done.

    Starts from `samples[permutation[:num_codes]]`; stops when the shift |c_t - c_{t-1}| changes by less
    than `tolerance` between iterations. An empty cluster takes the next sample of the permutation.
    With fewer samples than codes the centres are the samples, repeated in order.

    With `axis_name`, `samples` [m, D] are this device's part, the next after that of the device before it;
    the last ones may be padded beyond M. Every iteration is then one all-reduce.

    REFERENCE.md section 5, k-means.
    """
    num_samples = permutation.shape[0]
    here = samples.shape[0]
    first = 0 if axis_name is None else here * jax.lax.axis_index(axis_name)
    real = (first + jnp.arange(here) < num_samples)[:, None]

    def summed(tree: T) -> T:
        return tree if axis_name is None else sum_over_devices(tree, axis_name)

    def rows(indices: jax.Array) -> jax.Array:
        """Samples by their number among all, 0 where another device has them."""
        if axis_name is None:
            return samples[indices]
        place = indices - first
        found = (place >= 0) & (place < here)
        return jnp.where(found[:, None], samples[jnp.where(found, place, 0)], 0.0)

    if num_samples < num_codes:
        return summed(rows(jnp.arange(num_codes) % num_samples)), jnp.int32(0)

    def body(carry):
        centres, last_shift, _, step = carry
        nearest = nearest_code(centres, samples, "l2")
        counts = jnp.zeros(num_codes).at[nearest].add(jnp.where(real[:, 0], 1.0, 0.0))
        sums = jnp.zeros_like(centres).at[nearest].add(jnp.where(real, samples, 0.0))
        spare = permutation[(num_codes + step * num_codes + jnp.arange(num_codes)) % num_samples]
        counts, sums, spares = summed((counts, sums, rows(spare)))
        means = sums / jnp.maximum(counts, 1.0)[:, None]
        # The e-th empty cluster of this iteration takes the e-th unused entry of the permutation.
        empty = counts == 0
        new = jnp.where(empty[:, None], spares[jnp.cumsum(empty) - 1], means)
        shift = jnp.linalg.norm(new - centres)
        return new, shift, jnp.abs(shift - last_shift), step + 1

    def unfinished(carry):
        return (carry[3] < iterations) & (carry[2] >= tolerance)

    start = summed(rows(permutation[:num_codes]))
    centres, _, _, steps = jax.lax.while_loop(
        unfinished, body, (start, jnp.float32(jnp.inf), jnp.float32(jnp.inf), jnp.int32(0))
    )
    return centres, steps


def codebook_from_samples(
    samples: jax.Array,
    num_codes: int,
    key: jax.Array,
    *,
    num_samples: int | None = None,
    axis_name: str | None = None,
) -> CodebookState:
    """The codebook that k-means makes of cluster features [M, D]: counts 1, sums = codes, no uses yet.

    With `axis_name`, as for `kmeans`, and `num_samples` = M.

    REFERENCE.md section 5, first codes.
    """
    permutation = jax.random.permutation(key, samples.shape[0] if num_samples is None else num_samples)
    codes, _ = kmeans(samples, num_codes, permutation=permutation, axis_name=axis_name)
    return CodebookState(codes, jnp.ones(num_codes), codes, jnp.zeros(num_codes, jnp.int32))
