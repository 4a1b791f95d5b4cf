"""Each formula of a round, in batches of proteins, against NumPy loops over one protein at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.graphs.types import edge_list
from partoken_jax.nn.linear import MLP
from partoken_jax.nn.partitioner.candidates import candidate_links, candidates, description
from partoken_jax.nn.partitioner.cardinality import cardinality_term, expected_size
from partoken_jax.nn.partitioner.cluster import members, soft_mean, straight_through_mean, updated_context
from partoken_jax.nn.partitioner.edges import edges_from, edges_into_seed, edges_of
from partoken_jax.nn.partitioner.score import joining_probability, link_share, score, threshold
from partoken_jax.nn.partitioner.seed import (
    choose_seed,
    gumbel,
    residue_half,
    seed_feature,
    seed_logits,
    straight_through_one_hot,
)
from partoken_jax.nn.partitioner.termination import enough_assigned
from partoken_jax.nn.partitioner.trim import qualifies, rank, trim
from tests.helpers import assert_close, noise_of, random_graph
from tests.nn.partitioner.oracle import ProteinGraph, split

SIZES = (5, 1, 8, 0, 6)  # the fourth slot is empty
INDEX = np.repeat(np.arange(len(SIZES)), SIZES).astype(np.int32)
FIRST = np.cumsum(SIZES) - SIZES
N, G, D, H = len(INDEX), len(SIZES), 4, 3


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def rows(protein: int) -> np.ndarray:
    return np.flatnonzero(protein == INDEX)


# Step 1


@pytest.mark.parametrize(
    "assigned, size, want", [(19, 20, True), (18, 20, False), (0, 0, True), (1, 1, True)]
)
def test_enough_assigned(assigned, size, want):
    assert enough_assigned(jnp.float32(assigned), jnp.float32(size), 0.95) == want
    if size:  # as published, in the arithmetic of float32
        share = np.float32(assigned) / (np.float32(size) + np.float32(1e-8))
        assert (share >= np.float32(0.95)) == want


# Step 2


def test_seed_logits(rng):
    selector = MLP((D + H, H, 1), dropout=0.5, rngs=nnx.Rngs(0))
    x, context = normal(rng, N, D), normal(rng, G, H)
    got = seed_logits(selector, residue_half(selector, x), context, INDEX, None)
    assert_close(got, selector(jnp.concatenate([x, context[INDEX]], axis=1))[:, 0])
    (w1, b1), (w2, b2) = (
        (np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...], np.float64))
        for layer in selector.layers
    )
    want = [np.maximum(np.append(x[n], context[INDEX[n]]) @ w1 + b1, 0) @ w2 + b2 for n in range(N)]
    assert_close(got, np.ravel(want))
    dropped = seed_logits(selector, residue_half(selector, x), context, INDEX, noise_of(N))
    assert np.abs(dropped - got).max() > 1e-3


def test_gumbel_noise(rng):
    uniform = np.append(rng.uniform(size=50), [0.0, 0.5]).astype(np.float32)
    exact = uniform.astype(np.float64)
    got = gumbel(uniform)
    np.testing.assert_allclose(got, -np.log(-np.log(exact + 1e-8) + 1e-8), rtol=1e-5, atol=1e-6)
    assert np.isfinite(gumbel(jnp.float32(1 - 2.0**-24)))  # the largest number that the noise draws


def test_seed_choice_is_the_first_of_the_largest(rng):
    logits, selectable = normal(rng, N), rng.random(N) < 0.7
    logits[rows(2)] = np.array([0, 3, 1, 3, 3, 2, 9, 0])
    selectable[rows(2)] = np.array([1, 0, 1, 1, 1, 1, 0, 1], bool)
    selectable[rows(1)] = False
    got = choose_seed(logits, selectable, INDEX, G)
    for protein in range(G):
        open_ = [n for n in rows(protein) if selectable[n]]
        assert got[protein] == (max(open_, key=lambda n: (logits[n], -n)) if open_ else -1)
    assert got[2] == FIRST[2] + 3 and got[1] == got[3] == -1


def test_one_hot_is_hard_forward_and_a_softmax_backward(rng):
    logits, selectable = normal(rng, N), rng.random(N) < 0.8
    cotangent = normal(rng, N)
    is_seed = np.zeros(N, bool)
    is_seed[[0, FIRST[2] + 1]] = True

    def w(logits):
        return straight_through_one_hot(is_seed, logits, selectable, INDEX, G)

    np.testing.assert_array_equal(w(logits), is_seed)
    gradient, want = jax.grad(lambda logits: jnp.sum(w(logits) * cotangent))(logits), np.zeros(N)
    for protein in range(G):
        open_ = np.array([n for n in rows(protein) if selectable[n]], int)
        if len(open_):
            soft = np.exp(logits[open_]) / np.exp(logits[open_]).sum()
            want[open_] = soft * (cotangent[open_] - soft @ cotangent[open_])
    assert_close(gradient, want)


def test_feature_of_the_seed(rng):
    x, w = normal(rng, N, D), np.zeros(N, np.float32)
    seed = np.array([2, -1, FIRST[2], -1, FIRST[4] + 5])
    w[seed[seed >= 0]] = 1
    cotangent = normal(rng, G, D)
    got, pullback = jax.vjp(lambda x, w: seed_feature(x, seed, w, INDEX), x, w)
    want = np.stack([sum((w[n] * x[n] for n in rows(g)), np.zeros(D)) for g in range(G)])
    np.testing.assert_array_equal(got, want)
    into_x, into_w = pullback(cotangent)
    np.testing.assert_allclose(into_x, w[:, None] * cotangent[INDEX], atol=1e-6)
    np.testing.assert_allclose(into_w, [x[n] @ cotangent[INDEX[n]] for n in range(N)], rtol=1e-5, atol=1e-6)


# Steps 3 to 5: edges


@pytest.fixture(params=["table", "edge list"])
def case(request):
    """(edges, proteins, seed [G], available [N]) of a batch in one of the layouts."""
    graph = random_graph(np.random.default_rng(1), SIZES, k=3, num_nodes=N, incomplete=(FIRST[2] + 4,))
    graph = graph._replace(n_node=np.array(SIZES))
    proteins = split(graph._replace(n_node=np.append(graph.n_node, 0)))
    if request.param == "edge list":
        graph = edge_list(graph)
        order = np.random.default_rng(2).permutation(len(graph.senders))
        edges = jax.tree.map(lambda a: np.asarray(a)[order], graph.edges)
        graph = graph._replace(
            edges=edges, senders=graph.senders[order], receivers=np.asarray(graph.receivers)[order]
        )
    graph = graph._replace(edges=jax.tree.map(jnp.asarray, graph.edges))
    seed = np.array([1, -1, FIRST[2] + 2, -1, FIRST[4]])
    available = np.random.default_rng(3).random(N) < 0.7
    available[seed[seed >= 0]] = False
    return edges_of(graph, N), proteins, seed, available


def is_seed_of(seed):
    flags = np.zeros(N, bool)
    flags[seed[seed >= 0]] = True
    return flags


def links(protein: ProteinGraph, senders: set[int], receivers: set[int]) -> int:
    return sum(s in senders and r in receivers for s, r in protein.edges)


def test_edges_are_counted_by_their_ends(case):
    edges, proteins, seed, _ = case
    flag = np.random.default_rng(4).random(N) < 0.5
    into, to_seed = np.zeros(N), np.zeros(N)
    degree = np.zeros(N)
    for b, protein in enumerate(proteins):
        flagged = set(np.flatnonzero(flag))
        for n in protein.residues:
            into[n] = links(protein, flagged, {n})
            to_seed[n] = links(protein, {n}, {seed[b]})
            degree[n] = protein.out_degree(n)
    assert into.max() > 1 and to_seed.max() > 0
    np.testing.assert_array_equal(edges.out_degree, degree)
    np.testing.assert_array_equal(edges_from(flag, edges), into)
    np.testing.assert_array_equal(edges_into_seed(is_seed_of(seed), seed, edges), to_seed)


@pytest.mark.parametrize("k_hop", [1, 2, 3])
def test_candidates_and_their_links(case, k_hop):
    edges, proteins, seed, available = case
    from_seed = edges_from(is_seed_of(seed), edges)
    got = np.asarray(candidates(is_seed_of(seed), from_seed, available, edges, k_hop))
    outward, inside = candidate_links(got, from_seed, edges, INDEX, G)
    through_assigned = False
    for b, protein in enumerate(proteins):
        mine = {n for n in rows(b) if got[n]}
        reached = protein.within(seed[b], k_hop) if seed[b] >= 0 else set()
        assert mine == {n for n in reached if available[n]}
        assert outward[b] == links(protein, {seed[b]}, mine)
        assert inside[b] == links(protein, mine, mine)
        through_assigned |= any(not available[n] for n in reached - {seed[b]})
    assert got.any() and through_assigned


@pytest.mark.parametrize("count, outward, inside, degree", [(3, 2, 5, 4), (0, 0, 0, 0), (1, 1, 0, 1)])
def test_description(count, outward, inside, degree):
    got = description(*(jnp.array([v], jnp.float32) for v in (count, outward, inside, degree)))
    pairs = max(count * (count - 1) / 2, 1)
    np.testing.assert_allclose(got, [[np.log(count + 1), outward / max(degree, 1), inside / 2 / pairs]])


def test_link_share():
    np.testing.assert_allclose(
        link_share(jnp.array([2.0, 0.0, 1.0]), jnp.array([8.0, 0.0, 1.0])), [0.25, 0, 1]
    )


def test_score(rng):
    keys, query, z = normal(rng, N, 64), normal(rng, N, 64), rng.random(N).astype(np.float32)
    assert_close(score(keys, query, z), [keys[n] @ query[n] / 8 + 0.2 * z[n] for n in range(N)])


def test_threshold(rng):
    weight = normal(rng, D + H + 3, 1)
    x_seed, context, phi = normal(rng, G, D), normal(rng, G, H), normal(rng, G, 3)
    want = [np.concatenate([x_seed[g], context[g], phi[g]]) @ weight[:, 0] for g in range(G)]
    assert_close(threshold(lambda inputs: inputs @ weight, x_seed, context, phi), want)


@pytest.mark.parametrize("tau", [1.0, 0.1])
def test_joining_probability(rng, tau):
    scores, theta, candidate = normal(rng, N), normal(rng, N), rng.random(N) < 0.6
    want = np.where(candidate, 1 / (1 + np.exp(-(scores - theta) / np.float64(tau))), 0)
    np.testing.assert_allclose(joining_probability(scores, theta, candidate, tau), want, rtol=2e-5, atol=1e-7)


# Step 6


def test_rank_breaks_ties_by_position(rng):
    p = rng.integers(0, 3, N) / 2
    got = rank(jnp.asarray(p, jnp.float32), INDEX, FIRST)
    for protein in range(G):
        order = sorted(rows(protein), key=lambda n: (-p[n], n))
        assert [order.index(n) for n in rows(protein)] == got[rows(protein)].tolist()


@pytest.mark.parametrize("limit", [0, 1, 2, 5, 20])
def test_trimming(rng, limit):
    p = rng.random(N).astype(np.float32)
    p[rows(2)] = np.array([1, 1, 0.2, 1, 1, 0.7, 1, 0], np.float32)
    got, trimmed = trim(jnp.asarray(p), limit, INDEX, jnp.asarray(FIRST))
    for protein in range(G):
        here = rows(protein)
        want = p[here].copy()
        if np.sum(want > 0.5) > limit:
            order = sorted(range(len(here)), key=lambda i: (-want[i], i))
            want[order[limit:]] = 0
            assert trimmed[protein]
        else:
            assert not trimmed[protein]
        np.testing.assert_array_equal(got[here], want)
    gradient = jax.grad(lambda p: jnp.sum(trim(p, limit, INDEX, jnp.asarray(FIRST))[0]))(p)
    np.testing.assert_array_equal(gradient[np.asarray(got) > 0], 1)
    np.testing.assert_array_equal(gradient[(np.asarray(got) == 0) & (p > 0)], 0)


# Steps 7 to 9


def test_members():
    p = jnp.array([0.5, 0.51, 0.0, 1.0])
    np.testing.assert_array_equal(qualifies(p), [False, True, False, True])
    np.testing.assert_array_equal(members(jnp.array([False, False, True, False]), p), [0, 1, 1, 1])


def numpy_soft_mean(x, weight):
    return np.stack(
        [(weight[rows(g)] @ x[rows(g)]) / max(weight[rows(g)].sum(), 1) for g in range(G)]
    )  # fmt: skip


def test_soft_mean(rng):
    x, weight = normal(rng, N, D), rng.random(N).astype(np.float32)
    assert weight[rows(1)].sum() < 1 < weight[rows(2)].sum()  # both sides of the clamp
    assert_close(soft_mean(x, weight, INDEX, G), numpy_soft_mean(x.astype(np.float64), weight))


def test_straight_through_mean(rng):
    """Forward the mean of the members. Backward that mean's gradient into x, and all of the soft mean's."""
    x, weight, cotangent = normal(rng, N, D), rng.random(N).astype(np.float32), normal(rng, G, D)
    member, exists = rng.random(N) < 0.5, np.array([True, False, True, False, False])
    member[[0, FIRST[2]]] = True
    got, pullback = jax.vjp(lambda x, w: straight_through_mean(x, member, w, exists, INDEX), x, weight)
    into_x, into_weight = pullback(cotangent)
    value, want_x, want_weight = np.zeros((G, D)), np.zeros((N, D)), np.zeros(N)
    for g in np.flatnonzero(exists):
        here = rows(g)
        inside = here[member[here]]
        value[g] = x[inside].mean(0)
        total = weight[here].sum()
        want_x[inside] += cotangent[g] / len(inside)
        want_x[here] += weight[here, None] * cotangent[g] / max(total, 1)
        soft = weight[here] @ x[here] / max(total, 1)
        want_weight[here] = (x[here] - soft * (total > 1)) @ cotangent[g] / max(total, 1)
    assert_close(got, value)
    assert_close(into_x, want_x)
    assert_close(into_weight, want_weight)


@pytest.mark.parametrize("number", [0, 1, 6, 3000])
@pytest.mark.parametrize("largest", [1, 4, 25])
def test_expected_size(number, largest):
    got = expected_size(jnp.float32(number), largest)
    assert got == pytest.approx(min(max(2 + 3 * np.log(number + 1), 1), largest), rel=1e-6)


def test_cardinality_term(rng):
    size, expected, exists = normal(rng, G), normal(rng, G), np.array([True, False, True, True, False])
    want = np.mean([(size[g] - expected[g]) ** 2 for g in np.flatnonzero(exists)])
    assert cardinality_term(size, expected, exists) == pytest.approx(want, rel=1e-5)
    assert cardinality_term(size, expected, np.zeros(G, bool)) == 0


def test_context_update(rng):
    context, feature, weight = normal(rng, G, H), normal(rng, G, D), normal(rng, D, H)

    def update(feature):
        return updated_context(context, feature, lambda c: c @ weight + 1.0)

    np.testing.assert_allclose(update(feature), context + 0.1 * (feature @ weight + 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda f: jnp.sum(update(f)))(feature), 0)
