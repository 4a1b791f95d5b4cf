"""The partitioners that learn nothing: sizes, places, whose draws they are, and that the encoder learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.config import PartitionerConfig
from partoken_jax.models import build_model
from partoken_jax.nn.partitioner import build_partitioner
from partoken_jax.parameters import parameter_table
from tests.helpers import random_graph, tiny
from tests.nn.partitioner.oracle import split

WIDTH, K = 7, 9
SIZES = (1, 2, 25, 40, 3, 30)
NUM_NODES = 110
INCOMPLETE = (7, 68, 69, 70)  # one residue of the third protein, all of the fifth
LARGE, SMALL = 25, 6
PROTEIN = np.array([8, 3, 11, 5, 2, 6, -1], np.int32)  # numbers in the dataset


def config(kind="random", **changes) -> PartitionerConfig:
    return PartitionerConfig(kind=kind, max_clusters=4, **changes)


def graph_of(seed: int):
    graph = random_graph(np.random.default_rng(seed), SIZES, k=K, num_nodes=NUM_NODES, incomplete=INCOMPLETE)
    return graph._replace(globals=graph.globals._replace(protein=PROTEIN))


def features(num_nodes=NUM_NODES):
    return np.random.default_rng(5).normal(size=(num_nodes, WIDTH)).astype(np.float32)


@functools.cache
def compiled(config: PartitionerConfig):
    partitioner = build_partitioner(WIDTH, config, rngs=nnx.Rngs(0))

    @jax.jit
    def run(graph, x, key=None):
        return partitioner(x, graph.nodes.mask, graph, temperature=1.0, key=key)

    return run


def clusters(partition, protein: np.ndarray):
    """The residues of each cluster of a protein whose flat residues are given."""
    cluster = np.asarray(partition.cluster_of_residue)[protein]
    return [protein[cluster == s] for s in range(partition.mask.shape[1])]


@pytest.mark.parametrize("k_hop", [1, 2])
@pytest.mark.parametrize("limit", [LARGE, SMALL])
def test_random_clusters_are_as_large_as_learned_ones_should_be_and_as_local(k_hop, limit):
    """The seed and round(μ) of its candidates, within k hops, no residue twice, until enough is assigned."""
    run, sizes = compiled(config(k_hop=k_hop, cluster_size_max=limit)), set()
    for number in range(4):
        graph, x = graph_of(number), features()
        got = run(graph, x, jax.random.key(number))
        np.testing.assert_array_equal(np.asarray(got.cluster_of_residue)[~graph.nodes.mask], -1)
        for b, protein in enumerate(split(graph)):
            residues = np.array(protein.residues, int)
            free, done = set(residues.tolist()), False
            for s, members in enumerate(clusters(got, residues)):
                done = done or (s > 0 and len(residues) - len(free) >= 0.95 * len(residues))
                seed = int(got.rounds.seed[s, b])
                assert (seed >= 0) == bool(got.mask[b, s]) == bool(len(members)) == (bool(free) and not done)
                if done or not free:
                    np.testing.assert_array_equal(got.features[b, s], 0)
                    continue
                free.discard(seed)
                candidates = set(protein.within(seed, k_hop)) & free
                mu = np.clip(2 + 3 * np.log(len(candidates) + 1), 1, limit)
                assert len(members) == 1 + min(round(mu), limit - 1, len(candidates))
                assert seed in members and set(members.tolist()) - {seed} <= candidates
                np.testing.assert_allclose(got.features[b, s], x[members].mean(0), atol=1e-5)
                free -= set(members.tolist())
                sizes.add(len(members))
    assert len(sizes) > 3 and max(sizes) <= limit
    assert got.cardinality == 0 and not np.asarray(got.cardinality_terms).any()


def test_seeds_and_members_are_drawn_alike():
    """A complete protein of 12 residues, one cluster of 6 with its seed: over 4,000 proteins every residue is
    the seed of 1 in 12, and a member of 6 in 12."""
    count, size = 4000, 12
    one = random_graph(np.random.default_rng(0), (size,), k=1, num_nodes=size + 1)
    index = np.arange(count * size)
    start = index // size * size
    table = start[:, None] + (index[:, None] - start[:, None] + np.arange(1, size)) % size
    graph = one._replace(
        nodes=one.nodes._replace(mask=np.ones(count * size, bool), scalars=features(count * size)),
        edges=one.edges._replace(mask=np.ones(table.shape, bool)),
        senders=table.astype(np.int32),
        n_node=np.append(np.full(count, size), 0).astype(np.int32),
        globals=one.globals._replace(protein=np.append(np.arange(count), -1).astype(np.int32)),
    )
    nodes = {name: features(count * size) for name in ("scalars", "vectors", "residue_type")}
    graph = graph._replace(nodes=graph.nodes._replace(**nodes))
    got = compiled(dataclasses.replace(config(cluster_size_max=6), max_clusters=1))(
        graph, features(count * size)
    )
    seeds = np.bincount(np.asarray(got.rounds.seed)[0, :-1] % size, minlength=size) / count
    members = (np.asarray(got.cluster_of_residue).reshape(count, size) == 0).mean(0)
    np.testing.assert_allclose(seeds, 1 / 12, atol=0.018)  # 4 standard errors
    np.testing.assert_allclose(members, 1 / 2, atol=0.032)


@pytest.mark.parametrize("kind", ["random", "whole"])
def test_a_protein_has_its_clusters_in_every_batch(kind):
    """Alone, with more padding, at another place: the same clusters, with a key and without."""
    graph, x = graph_of(3), features()
    run, b = compiled(config(kind)), 3
    start = sum(SIZES[:b])
    here = slice(start, start + SIZES[b])
    # The protein behind one of a single residue, and 29 rows of padding.
    rows = np.r_[0, start : start + SIZES[b], [NUM_NODES - 1] * 29]
    place = np.full(NUM_NODES, 0)
    place[here] = np.arange(1, 1 + SIZES[b])
    senders = place[graph.senders[rows]]
    senders[-29:] = np.arange(1 + SIZES[b], len(rows))[:, None]
    alone = graph._replace(
        nodes=jax.tree.map(lambda a: a[rows], graph.nodes),
        edges=jax.tree.map(lambda a: a[rows], graph.edges),
        senders=senders,
        n_node=np.array([1, SIZES[b], 29], np.int32),
        n_edge=graph.n_edge[[0, b, -1]],
        globals=jax.tree.map(lambda a: a[[0, b, -1]], graph.globals),
    )
    for key in (None, jax.random.key(4)):
        want, got = run(graph, x, key), run(alone, x[rows], key)
        cluster = np.asarray(want.cluster_of_residue)[here]
        assert cluster.max() >= 0
        np.testing.assert_array_equal(np.asarray(got.cluster_of_residue)[1 : 1 + SIZES[b]], cluster)
        np.testing.assert_array_equal(got.mask[1], want.mask[b])
        np.testing.assert_allclose(got.features[1], want.features[b], atol=1e-6)


def test_clusters_change_with_the_key_and_stand_still_in_inference():
    graph, x, run = graph_of(0), features(), compiled(config())
    still, again, one, other = (
        np.asarray(run(graph, x, key).cluster_of_residue)
        for key in (None, None, jax.random.key(1), jax.random.key(2))
    )
    np.testing.assert_array_equal(still, again)
    assert (one != other).mean() > 0.2 and (one != still).mean() > 0.2


def test_the_whole_protein_is_the_mean_of_its_real_residues():
    graph, x = graph_of(1), features()
    got = compiled(config("whole"))(graph, x)
    for b, protein in enumerate(split(graph)):
        want = x[protein.residues].mean(0) if protein.residues else np.zeros(WIDTH)
        np.testing.assert_allclose(got.features[b, 0], want, atol=1e-5)
    np.testing.assert_array_equal(got.mask[:, 0], [True, True, True, True, False, True, False])
    np.testing.assert_array_equal(got.cluster_of_residue, np.where(graph.nodes.mask, 0, -1))
    assert got.features.shape == (len(SIZES) + 1, 1, WIDTH)


@pytest.mark.parametrize("kind", ["random", "whole"])
def test_the_model_learns_without_a_partitioner(kind):
    """The gradient reaches residues through the clusters alone; the partitioner has no weights, and the rest
    of the model has as many as with learned clusters."""

    def abstract(partitioner):
        return nnx.eval_shape(lambda: build_model(tiny(partitioner=partitioner), rngs=nnx.Rngs(0)))

    rows = dict(parameter_table(abstract(tiny().partitioner)))
    control = dict(parameter_table(abstract(dataclasses.replace(tiny().partitioner, kind=kind))))
    assert rows.pop("total") - control.pop("total") == rows.pop("partitioner") > 0
    assert control == rows
    graph, x = graph_of(2), jnp.asarray(features())
    member = np.asarray(compiled(config(kind))(graph, x).cluster_of_residue) >= 0
    into_x = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(compiled(config(kind))(graph, x).features))))(x)
    np.testing.assert_array_equal(np.abs(into_x).max(1) > 0, member)
    assert np.isfinite(into_x).all() and member.sum() > 20


def test_a_model_without_partition_trains_on_the_compiled_step():
    """One cluster per protein goes through codebook, attention and head; every output is finite."""
    whole = dataclasses.replace(tiny().partitioner, kind="whole")
    model = build_model(tiny(num_layers=1, rematerialise="none", partitioner=whole), rngs=nnx.Rngs(0))
    graph = jax.tree.map(jnp.asarray, graph_of(2))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradients(params):
        out = nnx.merge(graphdef, params, rest, copy=True)(graph, key=jax.random.key(0), temperature=0.5)
        return jnp.sum(jnp.square(out.logits)) + out.losses.vq, out

    found, out = gradients(params)
    assert out.losses.cardinality == 0 and out.codes.shape == out.cluster_sizes.shape == (len(SIZES), 1)
    np.testing.assert_array_equal(np.asarray(out.cluster_sizes)[:, 0], [1, 2, 24, 40, 0, 30])
    largest = [np.abs(leaf).max() for leaf in jax.tree.leaves(found["encoder"])]
    assert np.isfinite(largest).all() and np.mean(np.array(largest) > 0) > 0.9
