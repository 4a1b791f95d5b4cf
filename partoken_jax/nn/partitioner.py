"""The partitioner: S rounds, each of which grows at most one cluster of residues per protein.

Flat over a batch and static in every shape: a protein that is done simply takes no further part.
The steps of a round are numbered as in docs/REFERENCE.md, section 4: seed by Gumbel straight-through,
candidates within k hops, score against a learned threshold.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import jraph
from flax import nnx

from partoken_jax.config import PartitionerConfig
from partoken_jax.graphs.segments import (
    first_node,
    graph_index,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
)
from partoken_jax.nn.dropout import dropout
from partoken_jax.nn.linear import MLP, affine, linear

SCORE_WIDTH = 64
THRESHOLD_WIDTH = 128
SEED_DROPOUT = 0.1


class Rounds(NamedTuple):
    """What each of the S rounds decided, over the G graphs of the batch (padding graph included)."""

    seed: jax.Array
    """int32 [S, G]: node index of the seed in the flat batch, -1 where there is none."""
    soft_p: jax.Array
    """[S, N]: probability of joining, after trimming; 0 outside the candidates."""
    theta: jax.Array
    """[S, G]: learned threshold (meaningless where there is no seed)."""
    phi: jax.Array
    """[S, G, 3]: log of the number of candidates + 1, seed's edge share, density."""
    link_share: jax.Array
    """[S, N]: share z of a residue's out-edges that end in its protein's seed."""
    trimmed: jax.Array
    """bool [S, G]: more residues qualified than the size limit allows."""


class Partition(NamedTuple):
    """Clusters of a batch of G graphs (padding graph included)."""

    features: jax.Array
    """[G, S, D]: mean of the members' features, 0 where there is no cluster."""
    mask: jax.Array
    """bool [G, S]: the cluster exists."""
    cluster_of_residue: jax.Array
    """int32 [N]: round in which the residue was assigned, -1 if never."""
    cardinality: jax.Array
    """[]: Σ over rounds of the mean over proteins with a seed of (Σp - μ)²."""
    rounds: Rounds


class _State(NamedTuple):
    available: jax.Array  # bool [N]
    cluster: jax.Array  # int32 [N]
    context: jax.Array  # [G, H]
    active: jax.Array  # bool [G]


class _Graph(NamedTuple):
    """The parts of the graph that every round reads."""

    senders: jax.Array  # [N, K] or [E]
    receivers: jax.Array | None  # None or [E]
    edge: jax.Array  # bool [N, K] or [E]
    protein: jax.Array  # [N] number of the graph
    degree: jax.Array  # [N] edges out of a node
    size: jax.Array  # [G] real residues
    first: jax.Array  # [G] where each graph begins


class Partitioner(nnx.Module):
    """Cuts every protein of a batch into at most S clusters."""

    def __init__(self, width: int, config: PartitionerConfig, *, rngs: nnx.Rngs):
        """`width`: D of the node features."""
        self.config = config
        hidden = config.hidden
        self.context = linear(width, hidden, rngs=rngs)
        self.seed_selector = MLP((width + hidden, hidden, 1), dropout=SEED_DROPOUT, rngs=rngs)
        self.query = linear(width, SCORE_WIDTH, bias=False, rngs=rngs)
        self.key = linear(width, SCORE_WIDTH, bias=False, rngs=rngs)
        self.threshold = MLP((width + hidden + 3, THRESHOLD_WIDTH, 1), rngs=rngs)

    def __call__(
        self,
        x: jax.Array,  # [N, D]
        mask: jax.Array,  # bool [N]
        graph: jraph.GraphsTuple,
        *,
        temperature: jax.Array | float,
        uniform: jax.Array | None = None,  # [S, N] in [0, 1)
        key: jax.Array | None = None,
    ) -> Partition:
        """Partitions the batch. `uniform` turns on Gumbel sampling of the seeds, `key` dropout."""
        chex.assert_rank(x, 2)
        chex.assert_shape(mask, x.shape[:1])
        if uniform is not None:
            chex.assert_shape(uniform, (self.config.max_clusters, x.shape[0]))
        num_graphs = graph.n_node.shape[0]
        index = graph_index(graph)
        edge = graph.edges.mask
        degree = jax.ops.segment_sum(edge.astype(x.dtype).reshape(-1), graph.senders.reshape(-1), x.shape[0])
        size = segment_sum(mask.astype(x.dtype), index, num_graphs)
        data = _Graph(graph.senders, graph.receivers, edge, index, degree, size, first_node(graph))

        # What does not change between rounds: the residue half of the seed MLP, and W_k x.
        seed_weight, seed_bias = affine(self.seed_selector.layers[0])
        seed_hidden = x @ seed_weight[: x.shape[1]] + seed_bias
        keys = self.key(x)

        state = _State(
            available=mask,
            cluster=jnp.full(x.shape[:1], -1, jnp.int32),
            context=self.context(segment_mean(x, mask, index, num_graphs)),
            active=jnp.ones(num_graphs, bool),
        )

        def body(state: _State, inputs):
            number, noise = inputs
            round_key = None if key is None else jax.random.fold_in(key, number)
            return self._round(state, number, noise, round_key, x, seed_hidden, keys, data, temperature)

        numbers = jnp.arange(self.config.max_clusters)
        state, (features, exists, cardinality, rounds) = jax.lax.scan(body, state, (numbers, uniform))
        return Partition(
            features=jnp.swapaxes(features, 0, 1),
            mask=exists.T,
            cluster_of_residue=state.cluster,
            cardinality=jnp.sum(cardinality),
            rounds=rounds,
        )

    def _round(self, state, number, noise, key, x, seed_hidden, keys, data: _Graph, temperature):
        num_graphs = data.size.shape[0]
        index = data.protein

        # 1. A protein is done when enough of it is assigned.
        assigned = data.size - segment_sum(state.available.astype(x.dtype), index, num_graphs)
        done = (assigned >= self.config.termination_threshold * data.size) & (number > 0)
        active = state.active & ~done

        # 2. Seed. Whether there is one is decided from masks, never from the size of a logit.
        selectable = state.available & active[index]
        logits = self._seed_logits(seed_hidden, state.context, index, key)
        if noise is not None:
            logits = logits - jnp.log(-jnp.log(noise + 1e-8) + 1e-8)
        seed, soft_seed = _choose(logits / temperature, selectable, index, num_graphs)
        exists = seed >= 0
        row = jnp.maximum(seed, 0)
        is_seed = exists[index] & (row[index] == jnp.arange(x.shape[0]))
        available = state.available & ~is_seed
        # Value exactly 0; carries the gradient of the softmax behind the hard choice.
        straight = soft_seed - jax.lax.stop_gradient(soft_seed)
        seed_weight = is_seed + straight
        x_seed = jnp.where(exists[:, None], x[row], 0.0) + segment_sum(
            straight[:, None] * jax.lax.stop_gradient(x), index, num_graphs
        )

        # 3., 4. Candidates and what the threshold sees of them.
        reached, from_seed = self._reach(is_seed, data)
        candidate = reached & available
        phi, num_candidates = self._describe(candidate, from_seed, data, data.degree[row])
        phi = jax.lax.stop_gradient(phi)

        # 5. Score against the threshold.
        link_share = self._links_to_seed(is_seed, exists, row, data) / jnp.maximum(data.degree, 1.0)
        score = jnp.sum(keys * self.query(x_seed)[index], axis=-1) / SCORE_WIDTH**0.5 + 0.2 * link_share
        theta = self.threshold(jnp.concatenate([x_seed, state.context, phi], axis=-1))[:, 0]
        p = jnp.where(candidate, jax.nn.sigmoid((score - theta[index]) / temperature), 0.0)

        # 6. Trim to the size limit.
        limit = self.config.cluster_size_max - 1
        qualified = segment_sum((p > 0.5).astype(jnp.int32), index, num_graphs)
        trimmed = qualified > limit
        kept = ~trimmed[index] | (_rank(jax.lax.stop_gradient(p), index, data.first) < limit)
        p = jnp.where(kept, p, 0.0)

        # 7. Join.
        member = is_seed | (p > 0.5)
        available = available & ~member
        cluster = jnp.where(member, number.astype(jnp.int32), state.cluster)

        # 8. Feature: the hard mean, plus the gradient (but not the value) of the soft mean.
        hard = segment_mean(x, member, index, num_graphs)
        weight = seed_weight + p
        soft = segment_sum(weight[:, None] * x, index, num_graphs)
        soft = soft / jnp.maximum(segment_sum(weight, index, num_graphs), 1.0)[:, None]
        feature = jnp.where(exists[:, None], hard + soft - jax.lax.stop_gradient(soft), 0.0)
        expected = jnp.clip(
            2.0 + 3.0 * jnp.log(num_candidates + 1.0), 1.0, float(self.config.cluster_size_max)
        )
        squared = jnp.square(segment_sum(p, index, num_graphs) - expected)
        cardinality = jnp.sum(jnp.where(exists, squared, 0.0)) / jnp.maximum(jnp.sum(exists), 1)

        # 9. The context remembers what was taken.
        context = state.context + 0.1 * self.context(jax.lax.stop_gradient(feature))
        rounds = Rounds(jnp.where(exists, seed, -1), p, theta, phi, link_share, trimmed)
        return _State(available, cluster, context, active), (feature, exists, cardinality, rounds)

    def _seed_logits(self, seed_hidden, context, index, key):
        first, last = self.seed_selector.layers
        context_part = context @ first.kernel[...][-context.shape[1] :]
        hidden = jax.nn.relu(seed_hidden + context_part[index])
        return last(dropout(hidden, self.seed_selector.rate, key))[:, 0]

    def _reach(self, is_seed, data: _Graph):
        """Nodes within k hops of the seed along sender→receiver edges, and edges seed→node [N]."""
        from_seed = self._incoming(is_seed[data.senders] & data.edge, data)
        reached = is_seed | (from_seed > 0)
        for _ in range(self.config.k_hop - 1):
            reached = reached | (self._incoming(reached[data.senders] & data.edge, data) > 0)
        return reached, from_seed

    def _describe(self, candidate, from_seed, data: _Graph, seed_degree):
        """φ [G, 3] and the number of candidates [G]."""
        num_graphs = data.size.shape[0]
        count = segment_sum(candidate.astype(jnp.float32), data.protein, num_graphs)
        inside = self._incoming(candidate[data.senders] & data.edge, data)
        links = segment_sum(
            jnp.where(candidate[:, None], jnp.stack([from_seed, inside], axis=-1), 0.0),
            data.protein,
            num_graphs,
        )
        share = links[:, 0] / jnp.maximum(seed_degree, 1.0)
        density = (links[:, 1] / 2) / jnp.maximum(count * (count - 1) / 2, 1.0)
        return jnp.stack([jnp.log(count + 1.0), share, density], axis=-1), count

    def _links_to_seed(self, is_seed, exists, row, data: _Graph):
        """[N]: edges from a node into its protein's seed."""
        num_nodes = is_seed.shape[0]
        if data.receivers is not None:
            into_seed = is_seed[data.receivers] & data.edge
            return jax.ops.segment_sum(into_seed.astype(jnp.float32), data.senders, num_nodes)
        into_seed = (data.edge[row] & exists[:, None]).astype(jnp.float32)
        return jnp.zeros(num_nodes).at[data.senders[row]].add(into_seed)

    def _incoming(self, flag, data: _Graph):
        """[N]: number of flagged edges [E] that end in each node."""
        num_nodes = data.protein.shape[0]
        if data.receivers is None:
            return jnp.sum(flag, axis=1, dtype=jnp.float32)
        return jax.ops.segment_sum(flag.astype(jnp.float32), data.receivers, num_nodes)


def _choose(logits, selectable, index, num_graphs):
    """Per graph, the selectable node with the largest logit (first one on ties; -1 if none) [G], and
    the softmax over the selectable nodes [N]."""
    position, num_nodes = jnp.arange(logits.shape[0]), logits.shape[0]
    fixed = jax.lax.stop_gradient(logits)
    best = selectable & (fixed == segment_max(fixed, selectable, index, num_graphs)[index])
    first = jax.ops.segment_min(
        jnp.where(best, position, num_nodes), index, num_graphs, indices_are_sorted=True
    )
    soft = segment_softmax(logits, selectable, index, num_graphs)
    return jnp.where(first < num_nodes, first, -1), soft


def _rank(p, index, first):
    """int32 [N]: place of each node in its graph by descending p, from 0; ties by position. `first` [G]
    is where each graph begins, in the sorted order as in the batch."""
    position = jnp.arange(p.shape[0], dtype=jnp.int32)
    _, _, order = jax.lax.sort((index, -p, position), num_keys=2, is_stable=True)
    return jnp.zeros_like(position).at[order].set(position - first[index[order]])


def seed_noise(
    key: jax.Array,
    graph: jraph.GraphsTuple,
    num_rounds: int,
) -> jax.Array:
    """Uniform numbers [S, N] for Gumbel sampling that depend on the key, the protein and the residue
    only, so that a protein draws the same ones in every batch and at every place.

    A counter-based hash (the 32-bit finaliser "lowbias32" of C. Wellons) instead of a stream:
    a few integer operations per number.
    """
    index = graph_index(graph)
    residue = (jnp.arange(index.shape[0]) - first_node(graph)[index]).astype(jnp.uint32)
    protein = graph.globals.protein.astype(jnp.uint32)[index]
    words = jax.random.bits(key, (2,), jnp.uint32)
    per_residue = _hash(residue + _hash(protein ^ words[0]))
    rounds = jnp.arange(num_rounds, dtype=jnp.uint32)[:, None]
    bits = _hash(per_residue ^ _hash(words[1] + rounds))
    return (bits >> 8).astype(jnp.float32) * 2.0**-24


def _hash(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
