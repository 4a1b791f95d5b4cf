"""k-means, which makes the first codes out of cluster features."""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from partoken_jax.nn.codebook import CodebookState, choose
from partoken_jax.nn.devices import sum_over_devices
from partoken_jax.nn.whitening import Whitening

T = TypeVar("T")


class _Part(NamedTuple):
    """The samples of this device; all there are without `axis_name`."""

    samples: jax.Array
    """[m, D]"""
    total: int
    """M"""
    axis_name: str | None

    @property
    def first(self) -> int | jax.Array:
        """How many samples the devices before this one have."""
        return 0 if self.axis_name is None else len(self.samples) * jax.lax.axis_index(self.axis_name)

    @property
    def real(self) -> jax.Array:
        """[m]: 1, and 0 for padding after the last sample."""
        return (self.first + jnp.arange(len(self.samples)) < self.total).astype(jnp.float32)

    def rows(self, numbers: jax.Array) -> jax.Array:
        """Samples by their number among all; 0 where another device has them."""
        if self.axis_name is None:
            return self.samples[numbers]
        place = numbers - self.first
        found = (place >= 0) & (place < len(self.samples))
        return jnp.where(found[:, None], self.samples[jnp.where(found, place, 0)], 0.0)

    def summed(self, tree: T) -> T:
        return tree if self.axis_name is None else sum_over_devices(tree, self.axis_name)


def kmeans(
    samples: jax.Array,  # [M, D]
    num_codes: int,
    *,
    permutation: jax.Array,  # [M]
    iterations: int = 25,
    tolerance: float = 1e-4,
    metric: str = "l2",
    whitening: Whitening | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Lloyd's algorithm; centres [num_codes, D] and the number of iterations done.

    Starts from `samples[permutation[:num_codes]]`; stops when the shift |c_t - c_{t-1}| changes by less
    than `tolerance` between iterations. An empty cluster takes the next sample of the permutation.
    With fewer samples than codes the centres are the samples, repeated in order. With `whitening` the nearest
    centre is that in this space; centres are means of the samples as they are.

    With `axis_name`, `samples` [m, D] are this device's part, the next after that of the device before it;
    the last ones may be padded beyond M. Every iteration is then one all-reduce.

    REFERENCE.md section 5, k-means.
    """
    num_samples = permutation.shape[0]
    part = _Part(samples, num_samples, axis_name)
    if num_samples < num_codes:
        return part.summed(part.rows(jnp.arange(num_codes) % num_samples)), jnp.int32(0)

    def body(carry):
        centres, last_shift, _, step = carry
        nearest = choose(centres, samples, metric, whitening)
        counts = jnp.zeros(num_codes).at[nearest].add(part.real)
        sums = jnp.zeros_like(centres).at[nearest].add(samples * part.real[:, None])
        spare = permutation[(num_codes + step * num_codes + jnp.arange(num_codes)) % num_samples]
        counts, sums, spares = part.summed((counts, sums, part.rows(spare)))
        # The e-th empty cluster of this iteration takes the e-th unused entry of the permutation.
        empty = counts == 0
        means = sums / jnp.maximum(counts, 1.0)[:, None]
        new = jnp.where(empty[:, None], spares[jnp.cumsum(empty) - 1], means)
        shift = jnp.linalg.norm(new - centres)
        return new, shift, jnp.abs(shift - last_shift), step + 1

    def unfinished(carry):
        return (carry[3] < iterations) & (carry[2] >= tolerance)

    start = part.summed(part.rows(permutation[:num_codes]))
    centres, _, _, steps = jax.lax.while_loop(
        unfinished, body, (start, jnp.float32(jnp.inf), jnp.float32(jnp.inf), jnp.int32(0))
    )
    return centres, steps


def codebook_from_samples(
    samples: jax.Array,
    num_codes: int,
    key: jax.Array,
    *,
    metric: str = "l2",
    whitening: Whitening | None = None,
    num_samples: int | None = None,
    axis_name: str | None = None,
) -> CodebookState:
    """The codebook that k-means makes of cluster features [M, D]: counts 1, sums = codes, no uses yet.

    `metric` and `whitening` as for `kmeans`. With `axis_name`, as there, and `num_samples` = M.

    REFERENCE.md section 5, first codes.
    """
    permutation = jax.random.permutation(key, samples.shape[0] if num_samples is None else num_samples)
    codes, _ = kmeans(
        samples,
        num_codes,
        permutation=permutation,
        metric=metric,
        whitening=whitening,
        axis_name=axis_name,
    )
    return CodebookState(codes, jnp.ones(num_codes), codes, jnp.zeros(num_codes, jnp.int32))
