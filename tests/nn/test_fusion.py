"""The gate that joins a protein with its attended clusters."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn.fusion import GatedFusion, fused, gate
from tests.helpers import assert_close

WIDTH = 12


@pytest.fixture(scope="module")
def inputs():
    """A vector of four proteins and one of their clusters, [B, D] each."""
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=(4, WIDTH)), jnp.float32) for _ in range(2))


def test_gate_and_fused_vector_against_numpy(inputs):
    protein, clusters = inputs
    weight = np.random.default_rng(1).normal(size=(2 * WIDTH, WIDTH)).astype(np.float32)
    beta = gate(lambda both: both @ weight, protein, clusters)
    logits = np.stack([np.concatenate(pair) @ weight for pair in zip(*map(np.asarray, inputs), strict=True)])
    assert_close(beta, 1 / (1 + np.exp(-logits.astype(np.float64))))
    got = fused(lambda x: x - 1, protein, beta, clusters)
    assert_close(got, np.asarray(protein) + np.asarray(beta) * np.asarray(clusters) - 1)


def test_gate_lies_in_the_unit_interval_and_zero_clusters_change_nothing(inputs):
    fusion = GatedFusion(WIDTH, rngs=nnx.Rngs(0))
    protein, clusters = inputs
    fused, beta = fusion(protein, clusters)
    assert np.all((beta > 0) & (beta < 1))
    wide = np.asarray(protein, np.float64) + np.asarray(beta) * np.asarray(fusion.project(clusters))
    want = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    assert_close(fused, want)
    without, _ = fusion(protein, jnp.zeros_like(clusters))
    assert_close(without, fusion.norm(protein))
