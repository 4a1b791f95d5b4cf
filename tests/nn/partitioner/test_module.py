"""The partitioner against plain loops, what holds of every partition, and the corner cases."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.config import PartitionerConfig
from partoken_jax.graphs.types import edge_list
from partoken_jax.nn.partitioner import Partitioner
from tests.helpers import by_path, random_graph, scaled_parameters
from tests.nn.partitioner.oracle import partition as oracle
from tests.nn.partitioner.oracle import split

WIDTH = 7
SIZES = (1, 2, 9, 14, 3, 11)
NUM_NODES, K = 48, 5
INCOMPLETE = (7, 26, 27, 28)  # one residue of the third protein, all of the fifth
CONFIG = PartitionerConfig(max_clusters=4, hidden=6, cluster_size_max=4, termination_threshold=0.8)


def data(seed: int):
    """(graph, x [N, D], uniform [S, N])"""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, SIZES, k=K, num_nodes=NUM_NODES, incomplete=INCOMPLETE)
    x = rng.normal(size=(NUM_NODES, WIDTH)).astype(np.float32)
    return graph, x, rng.uniform(size=(CONFIG.max_clusters, NUM_NODES)).astype(np.float32)


def shuffled(graph, seed: int):
    """All edges, masked ones too, in an order that the dense form could not read."""
    graph = edge_list(graph)
    order = np.random.default_rng(seed).permutation(len(graph.senders))
    edges = jax.tree.map(lambda a: np.asarray(a)[order], graph.edges)
    return graph._replace(edges=edges, senders=graph.senders[order], receivers=graph.receivers[order])


def new_partitioner(config=CONFIG) -> Partitioner:
    partitioner = Partitioner(WIDTH, config, rngs=nnx.Rngs(0))
    scaled_parameters(partitioner, 2.0)
    return partitioner


@functools.cache
def compiled(k_hop: int):
    """f(graph, x, uniform, τ) → (sampled partition, deterministic partition); and its weights."""
    partitioner = new_partitioner(dataclasses.replace(CONFIG, k_hop=k_hop))
    graphdef, state = nnx.split(partitioner)

    @jax.jit
    def run(graph, x, uniform, tau):
        m = nnx.merge(graphdef, state)
        mask = graph.nodes.mask
        sampled = m(x, mask, graph, temperature=tau, uniform=uniform)
        return sampled, m(x, mask, graph, temperature=tau)

    return run, by_path(state)


def members_of(partition, node_graph, protein, number):
    here = np.asarray(node_graph) == protein
    return set(np.flatnonzero(here & (np.asarray(partition.cluster_of_residue) == number)).tolist())


@pytest.mark.parametrize("k_hop", [1, 2, 3])
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "general"])
def test_against_plain_loops(k_hop, dense):
    run, weights = compiled(k_hop)
    weights = {name: array.astype(np.float64) for name, array in weights.items()}
    config = dataclasses.replace(CONFIG, k_hop=k_hop)
    seen = {"trimmed": 0, "stopped": 0, "alone": 0, "grown": 0}
    for number, tau in enumerate((1.0, 0.5, 0.3)):
        graph, x, uniform = data(number)
        outcomes = run(graph if dense else shuffled(graph, number), x, uniform, tau)
        for outcome, noise in zip(outcomes, (uniform, None), strict=True):
            _compare(outcome, graph, x, weights, config, tau, noise, seen)
    assert all(seen.values()), seen  # every branch was taken


def _compare(got, graph, x, weights, config, tau, noise, seen):
    x = x.astype(np.float64)
    node_graph = np.repeat(np.arange(len(graph.n_node)), graph.n_node)
    proteins = split(graph)
    expected = [oracle(p, x, weights, config, tau, noise) for p in proteins]
    for b, (protein, rounds) in enumerate(zip(proteins, expected, strict=True)):
        for s, want in enumerate(rounds):
            assert want.margin > 1e-6, "an undecided case proves nothing: take another seed"
            where = f"protein {b}, round {s}"
            assert got.rounds.seed[s, b] == want.seed, where
            assert bool(got.mask[b, s]) == (want.seed >= 0), where
            assert members_of(got, node_graph, b, s) == want.members, where
            feature = np.zeros(WIDTH) if want.seed < 0 else want.feature
            np.testing.assert_allclose(got.features[b, s], feature, atol=1e-5, err_msg=where)
            p = np.array([want.p.get(n, 0.0) for n in protein.residues])
            soft_p = np.asarray(got.rounds.soft_p)[s]
            np.testing.assert_allclose(soft_p[protein.residues], p, atol=1e-5, err_msg=where)
            seen["stopped"] += want.seed < 0 and len(protein.residues) > 2
            if want.seed < 0:
                continue
            seen["trimmed"] += want.trimmed
            seen["alone"] += len(want.members) == 1
            seen["grown"] += len(want.members) > 1
            assert bool(got.rounds.trimmed[s, b]) == want.trimmed, where
            np.testing.assert_allclose(got.rounds.theta[s, b], want.theta, atol=1e-5, err_msg=where)
            np.testing.assert_allclose(got.rounds.phi[s, b], want.phi, atol=1e-5, err_msg=where)
            share = np.asarray(got.rounds.link_share)[s, protein.residues]
            np.testing.assert_allclose(share, [want.link_share[n] for n in protein.residues], atol=1e-6)
    cardinality = 0.0
    for s in range(config.max_clusters):
        squared = [rounds[s].squared for rounds in expected if rounds[s].seed >= 0]
        cardinality += np.mean(squared) if squared else 0.0
    np.testing.assert_allclose(got.cardinality, cardinality, rtol=1e-5)


@pytest.mark.parametrize("k_hop", [1, 2, 3])
def test_what_holds_of_every_partition(k_hop):
    """No residue twice (one number each), seeds inside, size limit, k hops, masked residues nowhere."""
    run, _ = compiled(k_hop)
    far = 0
    for number in range(8):
        graph, x, uniform = data(100 + number)
        proteins = split(graph)
        node_graph = np.repeat(np.arange(len(graph.n_node)), graph.n_node)
        for got in run(graph, x, uniform, 0.1 + 0.1 * number):
            cluster = np.asarray(got.cluster_of_residue)
            assert cluster.min() >= -1 and cluster.max() < CONFIG.max_clusters
            np.testing.assert_array_equal(cluster[~graph.nodes.mask], -1)
            np.testing.assert_array_equal(got.mask[-1], False)
            for b, protein in enumerate(proteins):
                for s in range(CONFIG.max_clusters):
                    members, seed = members_of(got, node_graph, b, s), int(got.rounds.seed[s, b])
                    assert (seed >= 0) == bool(got.mask[b, s]) == bool(members)
                    if not members:
                        np.testing.assert_array_equal(got.features[b, s], 0)
                        continue
                    assert seed in members and len(members) <= CONFIG.cluster_size_max
                    assert members <= protein.within(seed, k_hop)
                    far += not members <= protein.within(seed, k_hop - 1)
                    mean = x[sorted(members)].mean(0)
                    np.testing.assert_allclose(got.features[b, s], mean, atol=1e-5)
    assert far > 10  # the last hop is used


# Corner cases. A threshold head whose last bias is -100 takes every candidate with p exactly 1.


def greedy(config, seeds_by_position=False) -> Partitioner:
    partitioner = new_partitioner(config)
    last = partitioner.threshold.layers[-1]
    last.bias[...] = jnp.full_like(last.bias[...], -100.0)
    if seeds_by_position:  # every seed logit is the same
        for layer in partitioner.seed_selector.layers:
            layer.kernel[...] = jnp.zeros_like(layer.kernel[...])
    return partitioner


def complete_graph(sizes, num_nodes):
    """Every residue is the neighbour of every other of its protein."""
    graph = random_graph(np.random.default_rng(0), sizes, k=num_nodes, num_nodes=num_nodes)
    index = np.repeat(np.arange(len(graph.n_node)), graph.n_node)
    table = np.tile(np.arange(num_nodes), (num_nodes, 1))
    real = (index[:, None] == index) & (table != np.arange(num_nodes)[:, None]) & graph.nodes.mask[:, None]
    senders = np.where(real, table, np.arange(num_nodes)[:, None]).astype(np.int32)
    return graph._replace(senders=senders, edges=graph.edges._replace(mask=real))


def apply(partitioner, graph, x, **options):
    graph = jax.tree.map(jnp.asarray, graph)
    return partitioner(jnp.asarray(x), graph.nodes.mask, graph, **({"temperature": 0.1} | options))


def features(num_nodes):
    return np.random.default_rng(5).normal(size=(num_nodes, WIDTH)).astype(np.float32)


@pytest.mark.parametrize("dense", [True, False], ids=["dense", "general"])
def test_exact_ties_are_trimmed_by_position(dense):
    """At low τ many p are exactly 1: the size limit holds, and lower positions win."""
    config = dataclasses.replace(CONFIG, cluster_size_max=3, termination_threshold=1.0, max_clusters=3)
    graph = complete_graph((7, 4), 13)
    graph = graph if dense else edge_list(graph)
    got = apply(greedy(config, seeds_by_position=True), graph, features(13))
    np.testing.assert_array_equal(got.cluster_of_residue, [0, 0, 0, 1, 1, 1, 2, 0, 0, 0, 1, -1, -1])
    np.testing.assert_array_equal(np.asarray(got.rounds.seed)[:, :2], [[0, 7], [3, 10], [6, -1]])
    np.testing.assert_array_equal(np.asarray(got.rounds.trimmed)[:, :2], [[1, 1], [1, 0], [0, 0]])
    # Those that were trimmed have p 0, for the cardinality term as well: Σp = 2, 2 and 0.
    total = [[2, 2], [2, 0], [0]]
    mu = [[min(2 + 3 * np.log(n + 1), 3) for n in row] for row in ((6, 3), (3, 0), (0,))]
    squared = [np.mean(np.square(np.subtract(a, b))) for a, b in zip(total, mu, strict=True)]
    assert got.cardinality == pytest.approx(sum(squared), rel=1e-5)


def test_size_limit_of_one_keeps_the_seed_alone():
    config = dataclasses.replace(CONFIG, cluster_size_max=1)
    graph = complete_graph((6,), 8)
    got = apply(greedy(config), graph, features(8))
    cluster = np.asarray(got.cluster_of_residue)
    assert sorted(cluster[:6]) == [-1, -1, 0, 1, 2, 3]


def test_tied_seeds_go_to_the_first_available_residue():
    graph, _, _ = data(0)
    equal = np.ones((NUM_NODES, WIDTH), np.float32)
    got = apply(new_partitioner(), graph, equal, temperature=1.0)
    first = np.cumsum(SIZES) - SIZES
    np.testing.assert_array_equal(got.rounds.seed[0, :-1], [*first[:4], -1, first[5]])


def test_termination_threshold_is_inclusive():
    """6 of 10 residues are assigned: enough for a threshold of 0.6, not for one of 0.61."""
    for threshold, clusters in ((0.6, 1), (0.61, 2)):
        config = dataclasses.replace(CONFIG, cluster_size_max=6, termination_threshold=threshold)
        got = apply(greedy(config), complete_graph((10,), 12), features(12))
        assert int(got.mask[0].sum()) == clusters


def test_a_batch_that_finishes_early():
    """REFERENCE fault 8: the published model crashes here. Everything stays finite, gradients too."""
    graph = complete_graph((4, 3, 1), 10)
    partitioner = greedy(CONFIG)
    graphdef, params = nnx.split(partitioner)

    def total(params, x):
        out = apply(nnx.merge(graphdef, params), graph, x, temperature=1.0)
        return jnp.sum(jnp.sin(out.features)) + out.cardinality, out

    gradients, got = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(params, features(10))
    assert got.features.shape == (4, CONFIG.max_clusters, WIDTH)
    np.testing.assert_array_equal(got.mask[:3], [[True, False, False, False]] * 3)
    np.testing.assert_array_equal(got.cluster_of_residue, [0] * 8 + [-1, -1])
    np.testing.assert_array_equal(got.features[:, 1:], 0)
    for leaf in jax.tree.leaves((got, gradients)):
        assert np.isfinite(leaf).all()
    assert np.abs(gradients[1]).max() > 0


def test_short_and_incomplete_proteins():
    """One residue, two residues, and a protein with no complete residue (no cluster at all)."""
    graph, x, uniform = data(3)
    for got in compiled(1)[0](graph, x, uniform, 1.0):
        assert got.cluster_of_residue[0] == 0
        np.testing.assert_array_equal(got.mask[0], [True, False, False, False])
        np.testing.assert_allclose(got.features[0, 0], x[0], atol=1e-6)
        assert set(np.asarray(got.cluster_of_residue[1:3]).tolist()) in ({0}, {0, 1})
        np.testing.assert_array_equal(got.mask[4], False)
        np.testing.assert_array_equal(got.features[4], 0)
        assert np.isfinite(got.rounds.soft_p).all()


def test_incomplete_residues_neither_seed_nor_join():
    """REFERENCE fault 11, however attractive their features are."""
    graph, x, uniform = data(4)
    run, _ = compiled(1)
    attractive, loud = x.copy(), uniform.copy()
    attractive[list(INCOMPLETE)] = 100.0
    loud[:, list(INCOMPLETE)] = 1 - 1e-7
    for got, want in zip(run(graph, attractive, loud, 1.0), run(graph, x, uniform, 1.0), strict=True):
        assert not np.isin(np.asarray(got.rounds.seed), INCOMPLETE).any()
        np.testing.assert_array_equal(np.asarray(got.cluster_of_residue)[list(INCOMPLETE)], -1)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_array_equal(a, b)


def test_gradients_reach_every_weight():
    """Through hard choices: from cluster features to the seed selector, score and threshold; from the
    cardinality term too (REFERENCE fault 2). The last bias of the seed selector moves no softmax."""
    graph, x, uniform = data(5)
    graphdef, params = nnx.split(new_partitioner(dataclasses.replace(CONFIG, cluster_size_max=8)))
    weight = np.random.default_rng(0).normal(size=(len(SIZES) + 1, CONFIG.max_clusters, WIDTH))

    def losses(params, x):
        out = apply(nnx.merge(graphdef, params), graph, x, temperature=1.0, uniform=jnp.asarray(uniform))
        return jnp.stack([jnp.sum(out.features * weight), out.cardinality])

    params, into_x = jax.jit(jax.jacrev(losses, argnums=(0, 1)))(params, x)
    for loss in range(2):
        gradients = {name: array[loss] for name, array in by_path(params).items()}
        nothing = gradients.pop("seed_selector.layers.1.bias")
        assert np.abs(nothing) < 1e-5 * np.abs(gradients["seed_selector.layers.1.kernel"]).max()
        for name, gradient in gradients.items():
            assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-6, (loss, name)
        real = np.abs(into_x[loss]).max(1) > 0
        np.testing.assert_array_equal(real[~graph.nodes.mask], False)
        assert real[graph.nodes.mask].mean() > 0.9
