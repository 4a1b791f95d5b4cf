"""Random numbers for the sampling of seeds, the same for a protein whatever batch it is in."""

import jax
import jraph

from partoken_jax.nn.noise import residue_noise, uniform_by_round


def seed_noise(key: jax.Array, graph: jraph.GraphsTuple, num_rounds: int) -> jax.Array:
    """Uniform numbers [S, N] in [0, 1) for the sampling of seeds in S rounds (`seed.gumbel`).

    They depend on the key, the protein (`graph.globals.protein`) and the residue only, so that a protein
    draws the same ones in every batch and at every place (`nn/noise.py`).
    """
    return uniform_by_round(residue_noise(key, graph), num_rounds)
