"""The partitioner's weights, and its S rounds as one scan.

Legend: N residues, G graphs (padding graph included), S rounds, D channels.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import jraph
from flax import nnx

from partoken_jax.graphs.segments import first_node, graph_index, segment_mean, segment_sum
from partoken_jax.model_config import SCORE_WIDTH, THRESHOLD_WIDTH, PartitionerConfig
from partoken_jax.nn.linear import MLP, linear
from partoken_jax.nn.noise import residue_noise
from partoken_jax.nn.partitioner.edges import edges_of
from partoken_jax.nn.partitioner.round import Maps, Residues, RoundRecord, State, partition_round
from partoken_jax.nn.partitioner.seed import residue_half

SEED_DROPOUT = 0.1


class Partition(NamedTuple):
    """Clusters of a batch."""

    features: jax.Array
    """[G, S, D]: mean of the members' features, 0 where there is no cluster."""
    mask: jax.Array
    """bool [G, S]: the cluster exists."""
    cluster_of_residue: jax.Array
    """int32 [N]: round in which the residue was assigned, -1 if never."""
    cardinality: jax.Array
    """[]: Σ over rounds of the mean over proteins with a seed of (Σp - μ)²."""
    cardinality_terms: jax.Array
    """[S]: what each round adds to it."""
    rounds: RoundRecord
    """What each round decided: every field with a leading axis [S]."""


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
        """Partitions the batch. `uniform` turns on Gumbel sampling of the seeds, `key` dropout.

        A graph without receivers is a table of neighbours, any other a list of edges
        (`partoken_jax.graphs.types`).
        """
        chex.assert_rank(x, 2)
        chex.assert_shape(mask, x.shape[:1])
        if uniform is not None:
            chex.assert_shape(uniform, (self.config.max_clusters, x.shape[0]))
        num_graphs, index = graph.n_node.shape[0], graph_index(graph)
        maps = Maps(self.seed_selector, self.query, self.threshold, self.context)
        residues = Residues(
            x=x,
            seed_half=residue_half(self.seed_selector, x),
            keys=self.key(x),
            protein=index,
            size=segment_sum(mask.astype(x.dtype), index, num_graphs),
            first=first_node(graph),
            edges=edges_of(graph, x.shape[0]),
        )
        state = State(
            available=mask,
            cluster=jnp.full(x.shape[:1], -1, jnp.int32),
            context=self.context(segment_mean(x, mask, index, num_graphs)),
            active=jnp.ones(num_graphs, bool),
        )

        noise = None if key is None else residue_noise(key, graph)

        def body(state: State, inputs):
            number, uniform = inputs
            round_noise = None if noise is None else noise.fold_in(number)
            return partition_round(
                state, number, uniform, round_noise, residues, maps, self.config, temperature
            )

        numbers = jnp.arange(self.config.max_clusters)
        state, clusters = jax.lax.scan(body, state, (numbers, uniform))
        return Partition(
            features=jnp.swapaxes(clusters.feature, 0, 1),
            mask=clusters.exists.T,
            cluster_of_residue=state.cluster,
            cardinality=jnp.sum(clusters.cardinality),
            cardinality_terms=clusters.cardinality,
            rounds=clusters.record,
        )
