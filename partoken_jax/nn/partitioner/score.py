"""How well a candidate fits the seed, against a learned threshold.

Legend: N residues, G graphs, D channels, H hidden.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

LINK_WEIGHT = 0.2


def link_share(links: jax.Array, degree: jax.Array) -> jax.Array:
    """z [N] = links / max(deg, 1): the share of a residue's out-edges that end in the seed, all of the
    cluster so far.

    REFERENCE.md section 4, step 5, link share z.
    """
    return links / jnp.maximum(degree, 1.0)


def score(keys: jax.Array, query: jax.Array, z: jax.Array) -> jax.Array:
    """[N]: ⟨W_k x, W_q x_seed⟩ / sqrt(d) + 0.2 z, for `keys` = W_k x and `query` = W_q x_seed, both [N, d].

    REFERENCE.md section 4, step 5, score.
    """
    return jnp.sum(keys * query, axis=-1) / keys.shape[-1] ** 0.5 + LINK_WEIGHT * z


def threshold(
    head: Callable[[jax.Array], jax.Array],
    x_seed: jax.Array,  # [G, D]
    context: jax.Array,  # [G, H]
    phi: jax.Array,  # [G, 3]
) -> jax.Array:
    """θ [G] = MLP([x_seed, g, φ]), for the MLP `head` with one output.

    REFERENCE.md section 4, step 5, threshold θ.
    """
    return head(jnp.concatenate([x_seed, context, phi], axis=-1))[:, 0]


def joining_probability(
    score: jax.Array,  # [N]
    theta: jax.Array,  # [N]
    candidate: jax.Array,  # bool [N]
    temperature: jax.Array | float,
) -> jax.Array:
    """p [N] = sigmoid((score - θ) / τ) of candidates, 0 elsewhere.

    REFERENCE.md section 4, step 5, joining probability.
    """
    return jnp.where(candidate, jax.nn.sigmoid((score - theta) / temperature), 0.0)
