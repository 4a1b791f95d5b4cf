"""What pretraining hides: the types of residues, and where their atoms exactly are.

All of it is drawn from noise that belongs to a residue or a protein (`nn/noise.py`), so that it does not
depend on what else is in the batch.
"""

import jax
import jax.numpy as jnp

from partoken_jax.graphs.types import FeaturisedGraph, NodeFeatures, PackedGraph
from partoken_jax.nn.noise import Noise, random_bits, residue_noise
from partoken_jax.proteins.protein import RESIDUE_TYPES

NUM_TYPES = len(RESIDUE_TYPES)
"""The standard residue types. The next number stands for an unknown one."""


def chosen_residues(noise: Noise, share: jax.Array | float) -> jax.Array:
    """bool [N]: each residue with probability `share`, a number or one for each [N]."""
    return _uniform(random_bits(noise, ())) < share


def drawn_residues(noise: Noise, share: float | None) -> jax.Array:
    """bool [N]: each residue with probability `share`; where that is None, with one that its protein draws
    evenly from 0 to 1.

    REFERENCE.md section 5, hidden residues.
    """
    if share is not None:
        return chosen_residues(noise, share)
    of_protein = noise.fold_in(0)._replace(residue=jnp.zeros_like(noise.residue))
    return chosen_residues(noise.fold_in(1), _uniform(random_bits(of_protein, ())))


def without_types(graph: FeaturisedGraph, hidden: jax.Array) -> FeaturisedGraph:
    """The graph with the types of the hidden residues (bool [N]) unknown."""
    types = jnp.where(hidden, NUM_TYPES, graph.nodes.residue_type)
    return graph._replace(nodes=graph.nodes._replace(residue_type=types))


def types_to_tell(nodes: NodeFeatures, hidden: jax.Array) -> jax.Array:
    """int32 [N]: types of the hidden residues (bool [N]); -1 for all others, and where the type is unknown
    or an atom is missing.

    REFERENCE.md section 5, residue types to tell.
    """
    return jnp.where(hidden & nodes.mask & (nodes.residue_type < NUM_TYPES), nodes.residue_type, -1)


def shaken(graph: PackedGraph, key: jax.Array, size: float) -> PackedGraph:
    """The batch with Gaussian noise of standard deviation `size` (Å) on every coordinate. The neighbours stay
    those of the exact coordinates."""
    bits = random_bits(residue_noise(key, graph), (4, 3))
    normal = jax.scipy.special.ndtri(_uniform(bits) + 2.0**-25)  # never 0 or 1
    backbone = jnp.asarray(graph.nodes.backbone) + size * normal
    return graph._replace(nodes=graph.nodes._replace(backbone=backbone))


def _uniform(bits: jax.Array) -> jax.Array:
    """Even numbers in [0, 1), from 24 of 32 bits."""
    return (bits >> 8).astype(jnp.float32) * 2.0**-24
