"""Random bits that belong to a residue or a protein, not to a place in a batch.

They depend on the key, the number of the protein in its dataset, the residue and the channel. So a protein
draws the same ones whatever batch, padding or device it is on, and a run has the same losses on one device as
on many.

A counter-based hash (the 32-bit finaliser "lowbias32" of C. Wellons) instead of a stream: a few integer
operations per number, which is less than a general generator takes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph

from partoken_jax.graphs.segments import first_node, graph_index


class Noise(NamedTuple):
    """Where the random bits of R rows come from."""

    key: jax.Array
    protein: jax.Array
    """uint32 [R]: number of the protein in its dataset."""
    residue: jax.Array
    """uint32 [R]: counted within its protein; 0 where a row is a whole protein."""

    def fold_in(self, number: int | jax.Array) -> "Noise":
        """Other bits for the same rows."""
        return self._replace(key=jax.random.fold_in(self.key, number))


def residue_noise(key: jax.Array, graph: jraph.GraphsTuple) -> Noise:
    """Noise for the N residues of a batch."""
    index = graph_index(graph)
    residue = (jnp.arange(index.shape[0]) - first_node(graph)[index]).astype(jnp.uint32)
    return Noise(key, graph.globals.protein.astype(jnp.uint32)[index], residue)


def protein_noise(key: jax.Array, graph: jraph.GraphsTuple) -> Noise:
    """Noise for the B proteins of a batch, without the padding graph."""
    protein = graph.globals.protein[:-1].astype(jnp.uint32)
    return Noise(key, protein, jnp.zeros_like(protein))


def random_bits(noise: Noise, channels: tuple[int, ...]) -> jax.Array:
    """uint32 [R, *channels]"""
    rows, columns = _hashes(noise, channels)
    return _hash(rows.reshape(-1, *(1,) * len(channels)) ^ columns)


def uniform_by_round(noise: Noise, num_rounds: int) -> jax.Array:
    """[S, R] in [0, 1): the same numbers as those of S channels, one round after the other."""
    rows, rounds = _hashes(noise, (num_rounds,))
    return (_hash(rows ^ rounds[:, None]) >> 8).astype(jnp.float32) * 2.0**-24


def _hashes(noise: Noise, channels: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """What the rows [R] and the channels contribute."""
    words = jax.random.bits(noise.key, (2,), jnp.uint32)
    num_channels = 1
    for size in channels:
        num_channels *= size
    channel = jnp.arange(num_channels, dtype=jnp.uint32).reshape(channels)
    return _hash(noise.residue + _hash(noise.protein ^ words[0])), _hash(words[1] + channel)


def _hash(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
