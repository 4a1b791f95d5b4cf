"""A start of the partitioner from data: clusters of their expected size, whatever the seed of the weights.

Fresh weights score all candidates of all proteins nearly alike: the features of residues are a large common
part and small differences, and products of the common part, which differ from seed to seed, outweigh those of
the differences. So one number, the last bias of the threshold, decides for all candidates at once. The start
changes the values of three parameters, and neither their number nor any formula:

    W_k  loses what it makes of the mean residue (`blind_to`),
    W_k, W_q  grow together until the scores of the candidates of a seed spread by a few τ,
    the threshold's last bias  is set so that clusters have their expected size.

Legend: N residues, G graphs, D channels, S rounds, d width of the score.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jraph
import numpy as np

from partoken_jax.graphs.segments import graph_index, segment_mean, segment_sum
from partoken_jax.graphs.types import Array
from partoken_jax.nn.partitioner.candidates import candidates
from partoken_jax.nn.partitioner.cardinality import expected_size
from partoken_jax.nn.partitioner.edges import edges_from, edges_of
from partoken_jax.nn.partitioner.module import Partition, Partitioner
from partoken_jax.nn.partitioner.score import LINK_WEIGHT, score


class Start(NamedTuple):
    """What the start does to the weights of a partitioner."""

    mean_residue: Array
    """[D]: what W_k becomes blind to; zeros leave it as it is."""
    scale: jax.Array | np.floating
    """[]: of the product ⟨W_k x, W_q x_seed⟩."""
    bias: jax.Array | np.floating
    """[]: the threshold's last bias."""


class ClusterSums(NamedTuple):
    """Sums over the clusters of all rounds and proteins of a batch, all []."""

    clusters: jax.Array
    """How many there are."""
    residues: jax.Array
    """Real residues."""
    assigned: jax.Array
    """Residues in a cluster."""
    soft_size: jax.Array
    """Σp, the seeds left out."""
    expected: jax.Array
    """μ"""
    candidates: jax.Array
    grown: jax.Array
    """Clusters with candidates."""
    margin: jax.Array
    """Of these: the mean of score - θ over the candidates."""
    compared: jax.Array
    """Clusters with two candidates or more."""
    variance: jax.Array
    """Of these: the variance over the candidates of ⟨W_k x, W_q x_seed⟩ / sqrt(d)."""


def blind_to(kernel: jax.Array, direction: Array) -> jax.Array:
    """W - m (mᵀ W) / (mᵀ m): the map W [D, d] without what it makes of the direction m [D]."""
    direction = jnp.asarray(direction)
    square = jnp.sum(jnp.square(direction))
    return kernel - jnp.outer(direction, direction @ kernel) / jnp.where(square > 0, square, 1.0)


def apply_start(partitioner: Partitioner, start: Start) -> None:
    """Changes W_k, W_q and the threshold's last bias in place, and nothing else."""
    each = jnp.sqrt(start.scale)  # both maps alike, so that neither learns faster than the other
    key, query, last = partitioner.key, partitioner.query, partitioner.threshold.layers[-1]
    key.kernel[...] = each * blind_to(key.kernel[...], start.mean_residue)
    query.kernel[...] = each * query.kernel[...]
    assert last.bias is not None
    last.bias[...] = jnp.full_like(last.bias[...], start.bias)


def cluster_sums(
    partitioner: Partitioner,
    partition: Partition,
    x: jax.Array,  # [N, D]
    mask: jax.Array,  # bool [N]
    graph: jraph.GraphsTuple,
) -> ClusterSums:
    """What `partition`, which the partitioner made of a batch, says of sizes and scores."""
    index, num_graphs, number = graph_index(graph), graph.n_node.shape[0], jnp.arange(x.shape[0])
    edges, keys, config = edges_of(graph, x.shape[0]), partitioner.key(x), partitioner.config

    def of_round(round_number: jax.Array, seed: jax.Array, soft_p: jax.Array, theta: jax.Array, z: jax.Array):
        cluster, is_seed = partition.cluster_of_residue, seed[index] == number
        available = mask & ((cluster < 0) | (cluster >= round_number)) & ~is_seed
        candidate = candidates(is_seed, edges_from(is_seed, edges), available, edges, config.k_hop)
        count = segment_sum(candidate.astype(jnp.float32), index, num_graphs)

        def mean(values: jax.Array) -> jax.Array:
            return segment_mean(values[:, None], candidate, index, num_graphs)[:, 0]

        product = score(keys, partitioner.query(x[jnp.maximum(seed, 0)])[index], jnp.zeros_like(z))
        centre, link = mean(product), LINK_WEIGHT * mean(z)
        variance = mean(jnp.square(product - centre[index]))

        def over(proteins: jax.Array, values: jax.Array | float) -> jax.Array:
            return jnp.sum(jnp.where(proteins, values, 0.0))

        exists, grown, compared = seed >= 0, count > 0, count > 1
        return ClusterSums(
            clusters=over(exists, 1.0),
            residues=jnp.float32(0.0),
            assigned=jnp.float32(0.0),
            soft_size=jnp.sum(soft_p),
            expected=over(exists, expected_size(count, config.cluster_size_max)),
            candidates=over(exists, count),
            grown=over(grown, 1.0),
            margin=over(grown, centre + link - theta),
            compared=over(compared, 1.0),
            variance=over(compared, variance),
        )

    record = partition.rounds
    rounds = jnp.arange(config.max_clusters)
    sums = jax.vmap(of_round)(rounds, record.seed, record.soft_p, record.theta, record.link_share)
    return jax.tree.map(jnp.sum, sums)._replace(
        residues=jnp.sum(mask.astype(jnp.float32)),
        assigned=jnp.sum((partition.cluster_of_residue >= 0).astype(jnp.float32)),
    )
