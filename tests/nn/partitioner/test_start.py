"""What the start changes of a partitioner, and the sums that it is worked out from, against plain loops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn.partitioner.start import ClusterSums, Start, apply_start, blind_to, cluster_sums
from tests.helpers import by_path
from tests.nn.partitioner.oracle import partition as oracle
from tests.nn.partitioner.oracle import split

from .test_module import CONFIG, data, new_partitioner

TAU = 0.7


def test_a_map_becomes_blind_to_a_direction_and_to_nothing_else():
    rng = np.random.default_rng(0)
    kernel, direction, other = rng.normal(size=(7, 5)), rng.normal(size=7), rng.normal(size=7)
    other -= direction * (other @ direction) / (direction @ direction)
    blind = np.asarray(blind_to(jnp.asarray(kernel), jnp.asarray(direction)))
    np.testing.assert_allclose(direction @ blind, 0, atol=1e-5)
    np.testing.assert_allclose(other @ blind, other @ kernel, atol=1e-5)
    # Longer or shorter, it is the same direction; without one the map stays.
    np.testing.assert_allclose(blind_to(jnp.asarray(kernel), jnp.asarray(9 * direction)), blind, atol=1e-5)
    np.testing.assert_array_equal(blind_to(jnp.asarray(kernel), jnp.zeros(7)), kernel.astype(np.float32))


def test_scores_grow_by_the_scale_and_only_three_weights_change():
    partitioner, x = new_partitioner(), np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32)
    before = by_path(nnx.state(partitioner))
    old = np.asarray(partitioner.key(x) @ partitioner.query(x).T)
    apply_start(partitioner, Start(jnp.zeros(7), jnp.float32(9), jnp.float32(-2)))
    np.testing.assert_allclose(partitioner.key(x) @ partitioner.query(x).T, 9 * old, rtol=1e-4)
    after = by_path(nnx.state(partitioner))
    np.testing.assert_array_equal(after["threshold.layers.1.bias"], [-2])
    changed = {name for name in before if np.any(after[name] != before[name])}
    assert changed == {"key.kernel", "query.kernel", "threshold.layers.1.bias"}


@pytest.mark.parametrize("k_hop", [1, 2])
def test_sums_against_plain_loops(k_hop):
    config = dataclasses.replace(CONFIG, k_hop=k_hop, cluster_size_max=30)
    partitioner = new_partitioner(config)
    graph, x, _ = data(k_hop)
    graphdef, state = nnx.split(partitioner)

    @jax.jit
    def run(x):
        model, mask = nnx.merge(graphdef, state), jnp.asarray(graph.nodes.mask)
        return cluster_sums(model, model(x, mask, graph, temperature=TAU), x, mask, graph)

    weights = {name: array.astype(np.float64) for name, array in by_path(state).items()}
    want = dict.fromkeys(ClusterSums._fields, 0.0)
    for protein in split(graph):
        want["residues"] += len(protein.residues)
        for found in oracle(protein, x.astype(np.float64), weights, config, TAU, None):
            if found.seed < 0:
                continue
            p = np.array(list(found.p.values()))
            link = np.array([found.link_share[n] for n in found.p])
            margin = TAU * np.log(p / (1 - p))
            want["clusters"] += 1
            want["assigned"] += len(found.members)
            want["soft_size"] += p.sum()
            want["candidates"] += len(p)
            want["expected"] += np.clip(2 + 3 * np.log(len(p) + 1), 1, 30)
            want["grown"] += len(p) > 0
            want["margin"] += margin.mean() if len(p) else 0
            want["compared"] += len(p) > 1
            want["variance"] += np.var(margin - 0.2 * link) if len(p) > 1 else 0
    assert want["clusters"] > want["grown"] > want["compared"] > 3
    for name, value in run(x)._asdict().items():
        np.testing.assert_allclose(value, want[name], rtol=1e-4, err_msg=name)
