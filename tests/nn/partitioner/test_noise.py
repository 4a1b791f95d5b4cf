"""Numbers for the sampling of seeds: whose they are, and that they are uniform."""

import jax
import numpy as np

from partoken_jax.nn.partitioner import seed_noise
from tests.helpers import random_graph

SIZES = (1, 2, 9, 14, 3, 11)
NUM_NODES = 48


def graph_of(seed: int):
    return random_graph(np.random.default_rng(seed), SIZES, k=5, num_nodes=NUM_NODES)


def test_noise_depends_on_key_protein_residue_and_round_only():
    graph = graph_of(0)
    other = graph_of(1)
    protein = np.array([5, 9, 2, 7, 1, 3, -1])
    graph = graph._replace(globals=graph.globals._replace(protein=protein))
    # The same proteins in reverse order, and more padding.
    sizes = np.append(graph.n_node[:-1][::-1], 30)
    wide = np.zeros(sizes.sum(), bool)
    other = other._replace(
        n_node=sizes,
        globals=other.globals._replace(protein=np.append(protein[:-1][::-1], -1)),
        nodes=other.nodes._replace(scalars=wide, vectors=wide, residue_type=wide, mask=wide),
    )
    key = jax.random.key(0)
    here, there = np.asarray(seed_noise(key, graph, 4)), np.asarray(seed_noise(key, other, 4))
    assert here.dtype == np.float32 and here.shape == (4, NUM_NODES) and there.shape == (4, 70)
    ends = np.cumsum(SIZES)
    reverse = np.cumsum(SIZES[::-1])
    for b, size in enumerate(SIZES):
        mine, theirs = slice(ends[b] - size, ends[b]), reverse[len(SIZES) - 1 - b]
        np.testing.assert_array_equal(here[:, mine], there[:, theirs - size : theirs])
    longer = np.asarray(seed_noise(key, graph, 6))
    np.testing.assert_array_equal(longer[:4], here)
    # Proteins, residues and rounds all draw their own numbers, and another key draws others.
    real = here[:, : ends[-1]]
    assert len(np.unique(real)) == real.size
    assert not np.any(np.asarray(seed_noise(jax.random.key(1), graph, 4)) == here)


def test_noise_is_uniform_and_seeds_follow_the_softmax():
    """20,000 proteins of 5 residues: Gumbel noise on fixed logits draws each seed with its probability."""
    proteins = 20_000
    graph = random_graph(np.random.default_rng(0), (5,), k=1, num_nodes=6)._replace(
        n_node=np.full(proteins, 5), nodes=np.zeros(5 * proteins)
    )
    graph = graph._replace(globals=graph.globals._replace(protein=np.arange(proteins)))
    noise = np.asarray(seed_noise(jax.random.key(0), graph, 3), np.float64)
    assert noise.min() >= 0 and noise.max() < 1
    counts = np.histogram(noise, 50, (0, 1))[0]
    expected = noise.size / 50
    assert np.sum(np.square(counts - expected) / expected) < 90  # χ² with 49 degrees: 0.03% beyond 86
    logits = np.array([0.0, 1.0, -1.0, 0.5, 2.0])
    probability = np.exp(logits) / np.exp(logits).sum()
    gumbel = -np.log(-np.log(noise + 1e-8) + 1e-8)
    for number in range(3):
        seeds = np.argmax(gumbel[number].reshape(proteins, 5) + logits, axis=1)
        share = np.bincount(seeds, minlength=5) / proteins
        np.testing.assert_allclose(share, probability, atol=0.015)  # 4 standard errors
    flat = noise.reshape(3, proteins, 5)
    for a, b in ((flat[0], flat[1]), (flat[:, 1:], flat[:, :-1]), (flat[..., 1:], flat[..., :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.015
