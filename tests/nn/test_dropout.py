"""Dropout of numbers and of whole vector channels: how much it drops, and that this belongs to a residue."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.models import build_model
from partoken_jax.nn.dropout import dropout, tuple_dropout
from partoken_jax.nn.noise import protein_noise, random_bits, residue_noise
from partoken_jax.training.objective import Randomness, forward
from tests.helpers import batch, noise_of, scaled_parameters, tiny


def test_tuple_dropout_drops_whole_vector_channels():
    s, v = jnp.ones((200, 30)), jnp.ones((200, 10, 3))
    dropped_s, dropped_v = tuple_dropout(s, v, 0.25, noise_of(200))
    for part in (dropped_s, dropped_v):
        values, counts = np.unique(part, return_counts=True)
        np.testing.assert_allclose(values, [0, 1 / 0.75], rtol=1e-6)
        assert counts[0] / counts.sum() == pytest.approx(0.25, abs=0.03)
    np.testing.assert_array_equal(dropped_v[..., :1] == dropped_v, True)
    for part, same in zip((s, v), tuple_dropout(s, v, 0.25, None), strict=True):
        np.testing.assert_array_equal(part, same)


def test_dropout_keeps_the_mean_and_follows_its_key():
    x = jnp.ones((100, 1000))
    first, again, other = (dropout(x, 0.1, noise_of(100, seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert np.mean(first) == pytest.approx(1, abs=5e-3)  # standard error 1e-3
    np.testing.assert_array_equal(dropout(x, 0.0, noise_of(100)), x)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_no_protein_residue_channel_or_key_drops_with_another(rate):
    """Shares of units dropped together are those of independent draws, along every axis."""
    proteins, residues, channels = 40, 60, 50
    noise = noise_of(proteins * residues)
    noise = noise._replace(protein=noise.residue // residues, residue=noise.residue % residues)

    def kept(noise):
        flat = dropout(jnp.ones((proteins * residues, channels)), rate, noise) > 0
        return np.asarray(flat, np.float64).reshape(proteins, residues, channels) - (1 - rate)

    first, other = kept(noise), kept(noise.fold_in(1))
    error = rate * (1 - rate) / first.size**0.5
    assert abs(first.mean()) < 5 * (rate * (1 - rate) / first.size) ** 0.5
    for a, b in (
        (first[1:], first[:-1]), (first[:, 1:], first[:, :-1]), (first[..., 1:], first[..., :-1]),
        (first, other),
    ):  # fmt: skip
        assert abs(np.mean(a * b)) < 5 * error
    for axes in ((0, 1), (0, 2), (1, 2)):  # no channel, residue or protein is dropped more than others
        mean = first.mean(axis=axes)
        spread = (rate * (1 - rate) * first.shape[3 - sum(axes)] / first.size) ** 0.5
        assert np.abs(mean).max() < 5 * spread


def test_bits_are_different_for_proteins_residues_and_uses(chains):
    graph = batch(chains[:3])
    key = jax.random.key(0)
    bits = np.asarray(random_bits(residue_noise(key, graph), (4, 5)))[: sum(map(len, chains[:3]))]
    assert bits.shape[1:] == (4, 5) and len(np.unique(bits)) == bits.size
    per_protein = np.asarray(random_bits(protein_noise(key, graph), (8,)))
    assert per_protein.shape == (4, 8) and len(np.unique(per_protein[:3])) == 24


@pytest.fixture(scope="module")
def model():
    module = build_model(tiny(dropout=0.3, pooling="mean"), rngs=nnx.Rngs(0))
    scaled_parameters(module, 1.5)
    return module


@pytest.mark.parametrize("layout", ["dense", "general"])
def test_a_protein_is_trained_on_alike_whoever_it_is_batched_with(model, chains, layout):
    """In training, with dropout and sampling: alone, among others in another order, and with more padding."""
    model.config = tiny(dropout=0.3, pooling="mean", message_passing=layout)
    numbers = (7, 2, 30, 4)
    run = jax.jit(lambda graph: forward(model, graph, randomness=Randomness(jax.random.key(5))).logits)
    alone = run(batch(chains[:1], num_nodes=96, indices=numbers[:1]))[0]
    among = run(batch(chains[:4][::-1], num_nodes=128, batch_size=6, indices=numbers[::-1]))[3]
    np.testing.assert_allclose(among, alone, rtol=2e-5, atol=2e-6)
    renamed = run(batch(chains[:1], num_nodes=96, indices=[8]))[0]
    assert np.abs(renamed - alone).max() > 1e-3
