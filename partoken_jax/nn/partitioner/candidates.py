"""Which residues may join a seed, and what the threshold sees of them. Legend: N residues, G graphs."""

import jax
import jax.numpy as jnp

from partoken_jax.graphs.segments import segment_sum
from partoken_jax.nn.partitioner.edges import Edges, edges_from


def candidates(
    is_seed: jax.Array,  # bool [N]
    from_seed: jax.Array,  # [N]
    available: jax.Array,  # bool [N], without the seeds
    edges: Edges,
    k_hop: int,
) -> jax.Array:
    """bool [N]: available residues within `k_hop` steps of the seed, from senders to receivers.

    The walk passes through any residue, also assigned ones. `from_seed` is its first step: the edges into
    each residue from its protein's seed.

    REFERENCE.md section 4, step 3, candidates.
    """
    reached = is_seed | (from_seed > 0)
    for _ in range(k_hop - 1):
        reached = reached | (edges_from(reached, edges) > 0)
    return reached & available


def description(
    count: jax.Array,  # [G]
    from_seed: jax.Array,  # [G]
    inside: jax.Array,  # [G]
    degree: jax.Array,  # [G]
) -> jax.Array:
    """φ [G, 3] = [log(n + 1), from_seed / deg, (inside / 2) / (n (n - 1) / 2)]; denominators clamped to 1.

    n = `count` candidates, with `from_seed` edges from the seed to them and `inside` directed edges among
    them; deg = `degree`, the edges out of the seed. So: how many there are, the seed's edge share, their
    density.

    REFERENCE.md section 4, step 4, description φ.
    """
    share = from_seed / jnp.maximum(degree, 1.0)
    density = (inside / 2) / jnp.maximum(count * (count - 1) / 2, 1.0)
    return jnp.stack([jnp.log(count + 1.0), share, density], axis=-1)


def candidate_links(
    candidate: jax.Array,  # bool [N]
    from_seed: jax.Array,  # [N]
    edges: Edges,
    index: jax.Array,  # int32 [N]
    num_graphs: int,
) -> tuple[jax.Array, jax.Array]:
    """Per protein, the edges from the seed to candidates [G], and those from candidates to candidates [G]."""
    arriving = jnp.stack([from_seed, edges_from(candidate, edges)], axis=-1)
    links = segment_sum(jnp.where(candidate[:, None], arriving, 0.0), index, num_graphs)
    return links[:, 0], links[:, 1]
