"""Proteins of any length for timing, where only shapes and neighbourhoods matter."""

import numpy as np

from partoken_jax.proteins.protein import RESIDUE_TYPES, Protein

CA_STEP = 3.8
"""Å between neighbouring CA atoms."""


def synthetic_protein(num_residues: int, seed: int, *, label: int = 0) -> Protein:
    """A chain of CA atoms 3.8 Å apart that is folded into a ball, with N, C and O at usual distances.

    A random walk that turns back at the surface of a ball of 4 · L^(1/3) Å, about the size of a globular
    protein.
    """
    rng = np.random.default_rng(seed)
    steps = rng.normal(size=(num_residues, 3))
    steps *= CA_STEP / np.linalg.norm(steps, axis=1, keepdims=True)
    radius = 4.0 * num_residues ** (1 / 3)
    ca = np.zeros((num_residues, 3))
    for i in range(1, num_residues):
        step = steps[i]
        if np.linalg.norm(ca[i - 1] + step) > radius and step @ ca[i - 1] > 0:
            step = -step
        ca[i] = ca[i - 1] + step
    aside = rng.normal(size=(num_residues, 3))
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    to_next = np.roll(ca, -1, axis=0) - ca
    to_next[-1] = steps[0]
    to_next /= np.linalg.norm(to_next, axis=1, keepdims=True)
    n = ca - 1.2 * to_next + 0.8 * aside
    c = ca + 1.3 * to_next + 0.8 * aside
    backbone = np.stack([n, ca, c, c + 1.23 * aside], axis=1)
    letters = "".join(rng.choice(list(RESIDUE_TYPES), num_residues))
    return Protein(f"synthetic_{seed}", letters, backbone.astype(np.float32), label)
