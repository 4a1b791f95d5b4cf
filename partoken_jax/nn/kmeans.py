"""k-means, which makes the first codes out of cluster features."""

import jax
import jax.numpy as jnp

from partoken_jax.nn.codebook import CodebookState, nearest_code


def kmeans(
    samples: jax.Array,  # [M, D]
    num_codes: int,
    *,
    permutation: jax.Array,  # [M]
    iterations: int = 25,
    tolerance: float = 1e-4,
) -> tuple[jax.Array, jax.Array]:
    """Lloyd's algorithm; centres [num_codes, D] and the number of iterations done.

    Starts from `samples[permutation[:num_codes]]`; stops when the shift |c_t - c_{t-1}| changes by less
    than `tolerance` between iterations. An empty cluster takes the next sample of the permutation.
    With fewer samples than codes the centres are the samples, repeated in order.

    REFERENCE.md section 5, k-means.
    """
    num_samples = samples.shape[0]
    if num_samples < num_codes:
        return samples[jnp.arange(num_codes) % num_samples], jnp.int32(0)

    def body(carry):
        centres, last_shift, _, step = carry
        nearest = nearest_code(centres, samples, "l2")
        counts = jnp.zeros(num_codes).at[nearest].add(1.0)
        means = jnp.zeros_like(centres).at[nearest].add(samples) / jnp.maximum(counts, 1.0)[:, None]
        # The e-th empty cluster of this iteration takes the e-th unused entry of the permutation.
        empty = counts == 0
        spare = (num_codes + step * num_codes + jnp.cumsum(empty) - 1) % num_samples
        new = jnp.where(empty[:, None], samples[permutation[spare]], means)
        shift = jnp.linalg.norm(new - centres)
        return new, shift, jnp.abs(shift - last_shift), step + 1

    def unfinished(carry):
        return (carry[3] < iterations) & (carry[2] >= tolerance)

    start = samples[permutation[:num_codes]]
    centres, _, _, steps = jax.lax.while_loop(
        unfinished, body, (start, jnp.float32(jnp.inf), jnp.float32(jnp.inf), jnp.int32(0))
    )
    return centres, steps


def codebook_from_samples(samples: jax.Array, num_codes: int, key: jax.Array) -> CodebookState:
    """The codebook that k-means makes of cluster features [M, D]: counts 1, sums = codes, no uses yet.

    REFERENCE.md section 5, first codes.
    """
    codes, _ = kmeans(samples, num_codes, permutation=jax.random.permutation(key, samples.shape[0]))
    return CodebookState(codes, jnp.ones(num_codes), codes, jnp.zeros(num_codes, jnp.int32))
