"""Partitioners that learn nothing, to measure what learned clusters are worth (experiments/does_it_pay.py).

They take the place of `Partitioner` and return the same record; what they do not compute is 0 in it, the
cardinality term included. Legend: N residues, G graphs (padding graph included), S rounds, D channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
from flax import nnx

from partoken_jax.graphs.segments import first_node, graph_index, segment_mean, segment_sum
from partoken_jax.model_config import PartitionerConfig
from partoken_jax.nn.noise import residue_noise, uniform_by_round
from partoken_jax.nn.partitioner.candidates import candidates
from partoken_jax.nn.partitioner.cardinality import expected_size
from partoken_jax.nn.partitioner.edges import Edges, edges_from, edges_of
from partoken_jax.nn.partitioner.module import Partition, Partitioner
from partoken_jax.nn.partitioner.round import RoundRecord
from partoken_jax.nn.partitioner.seed import choose_seed
from partoken_jax.nn.partitioner.termination import enough_assigned
from partoken_jax.nn.partitioner.trim import rank

INFERENCE_SEED = 0
"""Of the numbers that draw clusters in inference: every evaluation of a data set has the same ones."""


class RandomPartitioner(nnx.Module):
    """Clusters of the expected size around random seeds: as local as learned ones, and about nothing."""

    def __init__(self, config: PartitionerConfig):
        self.config = config

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
        """Draws the clusters of a batch: anew for every `key` (training), always the same ones without.

        `uniform` draws the seeds where it is given. The draws belong to the key, the number of the protein in
        its data set and the residue (`nn/noise.py`): in another set a protein has other clusters. The
        temperature changes nothing.
        """
        config, num_graphs, index = self.config, graph.n_node.shape[0], graph_index(graph)
        noise = residue_noise(jax.random.key(INFERENCE_SEED) if key is None else key, graph)
        draws = uniform_by_round(noise, 2 * config.max_clusters)
        seed_draws = draws[: config.max_clusters] if uniform is None else uniform
        residues = _Residues(
            x, index, segment_sum(mask.astype(x.dtype), index, num_graphs), first_node(graph)
        )
        edges = edges_of(graph, x.shape[0])

        def body(state: _State, inputs):
            number, seed_draw, member_draw = inputs
            return _random_round(state, number, seed_draw, member_draw, residues, edges, config)

        state = _State(mask, jnp.full(x.shape[:1], -1, jnp.int32), jnp.ones(num_graphs, bool))
        numbers = jnp.arange(config.max_clusters)
        state, (feature, exists, record) = jax.lax.scan(
            body, state, (numbers, seed_draws, draws[config.max_clusters :])
        )
        return Partition(
            features=jnp.swapaxes(feature, 0, 1),
            mask=exists.T,
            cluster_of_residue=state.cluster,
            cardinality=jnp.float32(0.0),
            cardinality_terms=jnp.zeros(config.max_clusters),
            rounds=record,
        )


class WholeProtein(nnx.Module):
    """One cluster per protein, of all its real residues: no partition at all. S is 1."""

    def __call__(
        self,
        x: jax.Array,  # [N, D]
        mask: jax.Array,  # bool [N]
        graph: jraph.GraphsTuple,
        *,
        temperature: jax.Array | float,
        uniform: jax.Array | None = None,
        key: jax.Array | None = None,
    ) -> Partition:
        """The mean of every protein's residues as its only cluster. Nothing is random, nothing anneals."""
        num_graphs, index = graph.n_node.shape[0], graph_index(graph)
        exists = segment_sum(mask.astype(jnp.int32), index, num_graphs) > 0
        nowhere = jnp.full((1, num_graphs), -1, jnp.int32)
        return Partition(
            features=segment_mean(x, mask, index, num_graphs)[:, None],
            mask=exists[:, None],
            cluster_of_residue=jnp.where(mask, 0, -1).astype(jnp.int32),
            cardinality=jnp.float32(0.0),
            cardinality_terms=jnp.zeros(1),
            rounds=_record(nowhere, mask[None].astype(x.dtype)),
        )


def build_partitioner(
    width: int, config: PartitionerConfig, *, rngs: nnx.Rngs
) -> Partitioner | RandomPartitioner | WholeProtein:
    """The partitioner that `config.kind` names; `width` is D of the node features."""
    if config.kind == "random":
        return RandomPartitioner(config)
    return WholeProtein() if config.kind == "whole" else Partitioner(width, config, rngs=rngs)


def random_members(
    is_seed: jax.Array,  # bool [N]
    candidate: jax.Array,  # bool [N]
    draw: jax.Array,  # [N] in [0, 1)
    index: jax.Array,  # int32 [N]
    first: jax.Array,  # int32 [G]
    limit: int,
) -> jax.Array:
    """bool [N]: the seed, and of its n candidates round(μ) drawn without replacement (all, if there are
    fewer), at most `limit` residues together. μ is what the cardinality term asks of a learned cluster
    (`cardinality.expected_size`)."""
    count = segment_sum(candidate.astype(jnp.float32), index, first.shape[0])
    size = jnp.minimum(jnp.round(expected_size(count, limit)), limit - 1).astype(jnp.int32)
    return is_seed | (candidate & (rank(jnp.where(candidate, draw, -1.0), index, first) < size[index]))


class _Residues(NamedTuple):
    x: jax.Array  # [N, D]
    protein: jax.Array  # int32 [N]
    size: jax.Array  # [G]
    first: jax.Array  # int32 [G]


class _State(NamedTuple):
    """As `round.State`, without the context that only a learned choice reads."""

    available: jax.Array  # bool [N]
    cluster: jax.Array  # int32 [N]
    active: jax.Array  # bool [G]


def _random_round(
    state: _State,
    number: jax.Array,  # int32 []
    seed_draw: jax.Array,  # [N]
    member_draw: jax.Array,  # [N]
    residues: _Residues,
    edges: Edges,
    config: PartitionerConfig,
) -> tuple[_State, tuple[jax.Array, jax.Array, RoundRecord]]:
    """One more cluster in every protein that is not done."""
    x, index, size, first = residues
    num_graphs = size.shape[0]
    assigned = size - segment_sum(state.available.astype(x.dtype), index, num_graphs)
    done = enough_assigned(assigned, size, config.termination_threshold) & (number > 0)
    active = state.active & ~done

    seed = choose_seed(seed_draw, state.available & active[index], index, num_graphs)
    exists, is_seed = seed >= 0, seed[index] == jnp.arange(x.shape[0])
    available = state.available & ~is_seed
    candidate = candidates(is_seed, edges_from(is_seed, edges), available, edges, config.k_hop)
    member = random_members(is_seed, candidate, member_draw, index, first, config.cluster_size_max)

    feature = jnp.where(exists[:, None], segment_mean(x, member, index, num_graphs), 0.0)
    cluster = jnp.where(member, number.astype(jnp.int32), state.cluster)
    record = _record(seed, (member & ~is_seed).astype(x.dtype))
    return _State(available & ~member, cluster, active), (feature, exists, record)


def _record(seed: jax.Array, soft_p: jax.Array) -> RoundRecord:
    """What a round decided, for seeds [..., G] and memberships [..., N]."""
    zero = jnp.zeros(seed.shape)
    return RoundRecord(
        seed=seed,
        soft_p=soft_p,
        theta=zero,
        phi=jnp.zeros((*seed.shape, 3)),
        link_share=jnp.zeros(soft_p.shape),
        trimmed=jnp.zeros(seed.shape, bool),
    )
