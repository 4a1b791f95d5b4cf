"""One round of the partitioner: the steps of docs/REFERENCE.md, section 4, in their order.

Flat over a batch and static in every shape: a protein that is done simply takes no further part.
Legend: N residues, G graphs (padding graph included), D channels, H hidden.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from partoken_jax.config import PartitionerConfig
from partoken_jax.graphs.segments import segment_sum
from partoken_jax.nn.linear import MLP
from partoken_jax.nn.noise import Noise
from partoken_jax.nn.partitioner.candidates import candidate_links, candidates, description
from partoken_jax.nn.partitioner.cardinality import cardinality_term, expected_size
from partoken_jax.nn.partitioner.cluster import members, straight_through_mean, updated_context
from partoken_jax.nn.partitioner.edges import Edges, edges_from, edges_into_seed
from partoken_jax.nn.partitioner.score import joining_probability, link_share, score, threshold
from partoken_jax.nn.partitioner.seed import (
    choose_seed,
    gumbel,
    seed_feature,
    seed_logits,
    straight_through_one_hot,
)
from partoken_jax.nn.partitioner.termination import enough_assigned
from partoken_jax.nn.partitioner.trim import trim


class Maps(NamedTuple):
    """The learned maps that a round applies."""

    seed_selector: MLP
    """[x, g] → logit"""
    query: nnx.Linear
    """W_q, D → 64"""
    threshold: MLP
    """[x_seed, g, φ] → θ"""
    context: nnx.Linear
    """D → H"""


class Residues(NamedTuple):
    """What no round changes of the residues and their edges."""

    x: jax.Array
    """[N, D]"""
    seed_half: jax.Array
    """[N, H]: the residue half of the seed MLP's first layer (`seed.residue_half`)."""
    keys: jax.Array
    """[N, 64]: W_k x"""
    protein: jax.Array
    """int32 [N]: number of the graph"""
    size: jax.Array
    """[G]: real residues"""
    first: jax.Array
    """int32 [G]: where each graph begins"""
    edges: Edges


class State(NamedTuple):
    """What a round leaves to the next."""

    available: jax.Array
    """bool [N]: real and in no cluster yet."""
    cluster: jax.Array
    """int32 [N]: round in which the residue was assigned, -1 if not yet."""
    context: jax.Array
    """[G, H]: g"""
    active: jax.Array
    """bool [G]: not done."""


class RoundRecord(NamedTuple):
    """What one round decided; the partitioner stacks S of them."""

    seed: jax.Array
    """int32 [G]: number of the seed in the flat batch, -1 where there is none."""
    soft_p: jax.Array
    """[N]: probability of joining, after trimming; 0 outside the candidates."""
    theta: jax.Array
    """[G]: learned threshold (meaningless where there is no seed)."""
    phi: jax.Array
    """[G, 3]: log of the number of candidates + 1, seed's edge share, density."""
    link_share: jax.Array
    """[N]: share z of a residue's out-edges that end in its protein's seed."""
    trimmed: jax.Array
    """bool [G]: more residues qualified than the size limit allows."""


class Clusters(NamedTuple):
    """What one round adds to the result."""

    feature: jax.Array
    """[G, D]"""
    exists: jax.Array
    """bool [G]"""
    cardinality: jax.Array
    """[]"""
    record: RoundRecord


def partition_round(
    state: State,
    number: jax.Array,  # int32 []: 0 … S-1
    uniform: jax.Array | None,  # [N]: turns on the sampling of seeds
    noise: Noise | None,  # turns on dropout
    residues: Residues,
    maps: Maps,
    config: PartitionerConfig,
    temperature: jax.Array | float,
) -> tuple[State, Clusters]:
    """One more cluster in every protein that is not done."""
    x, index, edges = residues.x, residues.protein, residues.edges
    num_graphs = residues.size.shape[0]

    def total(values: jax.Array) -> jax.Array:
        return segment_sum(values, index, num_graphs)

    # 1. A protein is done when enough of it is assigned.
    assigned = residues.size - total(state.available.astype(x.dtype))
    done = enough_assigned(assigned, residues.size, config.termination_threshold) & (number > 0)
    active = state.active & ~done

    # 2. Seed.
    selectable = state.available & active[index]
    logits = seed_logits(maps.seed_selector, residues.seed_half, state.context, index, noise)
    logits = (logits if uniform is None else logits + gumbel(uniform)) / temperature
    seed = choose_seed(logits, selectable, index, num_graphs)
    exists, is_seed = seed >= 0, seed[index] == jnp.arange(x.shape[0])
    w = straight_through_one_hot(is_seed, logits, selectable, index, num_graphs)
    x_seed = seed_feature(x, seed, w, index)
    available = state.available & ~is_seed

    # 3., 4. Candidates, and what the threshold sees of them.
    from_seed = edges_from(is_seed, edges)
    candidate = candidates(is_seed, from_seed, available, edges, config.k_hop)
    count = total(candidate.astype(jnp.float32))
    links = candidate_links(candidate, from_seed, edges, index, num_graphs)
    phi = description(count, *links, edges.out_degree[jnp.maximum(seed, 0)])

    # 5. Score against the threshold.
    z = link_share(edges_into_seed(is_seed, seed, edges), edges.out_degree)
    scores = score(residues.keys, maps.query(x_seed)[index], z)
    theta = threshold(maps.threshold, x_seed, state.context, phi)
    p = joining_probability(scores, theta[index], candidate, temperature)

    # 6. Trim to the size limit.
    p, trimmed = trim(p, config.cluster_size_max - 1, index, residues.first)

    # 7. Join.
    member = members(is_seed, p)
    cluster = jnp.where(member, number.astype(jnp.int32), state.cluster)

    # 8. Feature and cardinality.
    feature = straight_through_mean(x, member, w + p, exists, index)
    cardinality = cardinality_term(total(p), expected_size(count, config.cluster_size_max), exists)

    # 9. The context remembers what was taken.
    context = updated_context(state.context, feature, maps.context)

    record = RoundRecord(seed, p, theta, phi, z, trimmed)
    left = State(available & ~member, cluster, context, active)
    return left, Clusters(feature, exists, cardinality, record)
