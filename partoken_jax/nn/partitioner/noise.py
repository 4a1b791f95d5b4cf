"""Random numbers for the sampling of seeds, the same for a protein whatever batch it is in."""

import jax
import jax.numpy as jnp
import jraph

from partoken_jax.graphs.segments import first_node, graph_index


def seed_noise(key: jax.Array, graph: jraph.GraphsTuple, num_rounds: int) -> jax.Array:
    """Uniform numbers [S, N] in [0, 1) for the sampling of seeds in S rounds (`seed.gumbel`).

    They depend on the key, the protein (`graph.globals.protein`) and the residue only, so that a protein
    draws the same ones in every batch and at every place.

    A counter-based hash (the 32-bit finaliser "lowbias32" of C. Wellons) instead of a stream: a few integer
    operations per number.
    """
    index = graph_index(graph)
    residue = (jnp.arange(index.shape[0]) - first_node(graph)[index]).astype(jnp.uint32)
    protein = graph.globals.protein.astype(jnp.uint32)[index]
    words = jax.random.bits(key, (2,), jnp.uint32)
    per_residue = _hash(residue + _hash(protein ^ words[0]))
    rounds = jnp.arange(num_rounds, dtype=jnp.uint32)[:, None]
    bits = _hash(per_residue ^ _hash(words[1] + rounds))
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def _hash(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
