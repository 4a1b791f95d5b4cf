"""Geometric features of residues and edges, computed on the device from coordinates.

The features of Jing et al. 2021 as ParToken uses them: dihedrals, directions along the chain and to the
side chain; distance Gaussians and sequence-offset waves on edges. N residues, K neighbours, E edges, in Å.
"""

import jax
import jax.numpy as jnp
import numpy as np

from partoken_jax.graphs.segments import graph_index
from partoken_jax.graphs.types import (
    EdgeFeatures,
    FeaturisedGraph,
    NodeFeatures,
    PackedGraph,
    ResidueNodes,
    check_layout,
)

NUM_GAUSSIANS = 16
MAX_DISTANCE = 20.0
NUM_WAVES = 16
COSINE_LIMIT = 1 - 1e-7
CENTRES = np.linspace(0.0, MAX_DISTANCE, NUM_GAUSSIANS).astype(np.float32)
# Rounded once, on the host: an offset of hundreds of residues multiplies any error in a frequency.
_EXPONENTS = np.arange(0, NUM_WAVES, 2, dtype=np.float32) * np.float32(-np.log(1e4) / NUM_WAVES)
FREQUENCIES = np.exp(_EXPONENTS.astype(np.float64)).astype(np.float32)


def featurise(graph: PackedGraph) -> FeaturisedGraph:
    """A packed batch → the same graph with geometric features, in the same layout.

    Nothing is NaN: an angle or a vector that touches an incomplete residue is 0 (cos 1, sin 0), and
    masked edges carry zeros. Scalars do not change when a protein is rotated or moved; vectors rotate.

    Raises TypeError for what is no packed batch, ValueError for a graph that is neither a table of neighbours
    nor a list of edges.
    """
    nodes = getattr(graph, "nodes", graph)
    if not isinstance(nodes, ResidueNodes):
        raise TypeError(
            f"featurise takes a packed batch, not {type(nodes).__name__}; call "
            "partoken_jax.pack(proteins, tables) first"
        )
    check_layout(graph)
    mask, edge_mask = jnp.asarray(graph.nodes.mask), jnp.asarray(graph.edges.mask)  # NumPy as packed
    senders = jnp.asarray(graph.senders)
    receivers = None if graph.receivers is None else jnp.asarray(graph.receivers)
    backbone = jnp.where(mask[:, None, None], graph.nodes.backbone, 0.0)
    protein = graph_index(graph)
    # linked[i]: residues i and i + 1 are complete and of the same protein.
    linked = mask[:-1] & mask[1:] & (protein[:-1] == protein[1:])
    return FeaturisedGraph(
        nodes=NodeFeatures(
            scalars=dihedral_features(backbone, linked),
            vectors=direction_features(backbone, linked, mask),
            residue_type=jnp.asarray(graph.nodes.residue_type),
            mask=mask,
        ),
        edges=edge_features(backbone[:, 1], senders, receivers, edge_mask),
        globals=jax.tree.map(jnp.asarray, graph.globals),
        senders=senders,
        receivers=receivers,
        n_node=jnp.asarray(graph.n_node),
        n_edge=jnp.asarray(graph.n_edge),
    )


def dihedral_features(
    backbone: jax.Array,  # [N, 4, 3]
    linked: jax.Array,  # bool [N - 1]
) -> jax.Array:
    """[N, 6]: cos φ, cos ψ, cos ω, sin φ, sin ψ, sin ω (IUPAC signs); a missing angle counts as 0.

    REFERENCE.md section 2, backbone dihedrals.
    """
    n, ca, c = backbone[:, 0], backbone[:, 1], backbone[:, 2]
    next_n, next_ca = jnp.roll(n, -1, axis=0), jnp.roll(ca, -1, axis=0)
    no_link = jnp.zeros(1, bool)
    has_next = jnp.concatenate([linked, no_link])
    has_previous = jnp.concatenate([no_link, linked])
    angles = (
        (jnp.roll(c, 1, axis=0), n, ca, c, has_previous),  # φ
        (n, ca, c, next_n, has_next),  # ψ
        (ca, c, next_n, next_ca, has_next),  # ω
    )
    cosines, sines = zip(*(dihedral(*points) for points in angles), strict=True)
    return jnp.stack([*cosines, *sines], axis=-1)


def dihedral(
    a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array, valid: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """cos and sin of the dihedral a-b-c-d of points [N, 3], both [N]; (1, 0) where not valid.

    The angle between the planes abc and bcd; the cosine is clamped to ±(1 - 1e-7).

    REFERENCE.md section 2, dihedral angle.
    """
    u2, u1, u0 = unit(b - a), unit(c - b), unit(d - c)
    n2, n1 = unit(jnp.cross(u2, u1)), unit(jnp.cross(u1, u0))
    cosine = jnp.clip(jnp.sum(n2 * n1, axis=-1), -COSINE_LIMIT, COSINE_LIMIT)
    sign = jnp.sign(jnp.sum(u2 * n1, axis=-1))
    sine = sign * jnp.sqrt(1 - cosine * cosine)
    # As published, sign · arccos(cos) would be 0 where the sign is. In a planar peptide bond, whose angle is
    # π, that is a matter of the last bit, which differs between programs of different shapes. So only points
    # on a line, which have no angle, get 0.
    on_a_line = (n2 == 0).all(axis=-1) | (n1 == 0).all(axis=-1)
    return jnp.where(valid & ~on_a_line, cosine, 1.0), jnp.where(valid, sine, 0.0)


def direction_features(
    backbone: jax.Array,  # [N, 4, 3]
    linked: jax.Array,  # bool [N - 1]
    mask: jax.Array,  # bool [N]
) -> jax.Array:
    """[N, 3, 3]: unit vectors CA→next CA, CA→previous CA, and an idealised side-chain direction.

    REFERENCE.md section 2, directions along the chain.
    """
    n, ca, c = backbone[:, 0], backbone[:, 1], backbone[:, 2]
    step = jnp.where(linked[:, None], unit(ca[1:] - ca[:-1]), 0.0)
    end = jnp.zeros((1, 3), step.dtype)
    side = jnp.where(mask[:, None], side_chain_direction(n, ca, c), 0.0)
    return jnp.stack([jnp.concatenate([step, end]), jnp.concatenate([end, -step]), side], axis=1)


def side_chain_direction(n: jax.Array, ca: jax.Array, c: jax.Array) -> jax.Array:
    """[N, 3]: -sqrt(1/3) unit(c + n) - sqrt(2/3) unit(c × n), with c and n the unit vectors CA→C and CA→N.

    REFERENCE.md section 2, side-chain direction.
    """
    to_c, to_n = unit(c - ca), unit(n - ca)
    return -((1 / 3) ** 0.5) * unit(to_c + to_n) - (2 / 3) ** 0.5 * unit(jnp.cross(to_c, to_n))


def edge_features(
    ca: jax.Array,  # [N, 3]
    senders: jax.Array,  # [N, K] or [E]
    receivers: jax.Array | None,  # None or [E]
    mask: jax.Array,  # bool [N, K] or [E]
) -> EdgeFeatures:
    """Scalars [..., 32]: 16 Gaussians of the CA distance, then 8 cosines and 8 sines of the sequence
    offset; vectors [..., 1, 3]: unit(CA_sender - CA_receiver).

    REFERENCE.md section 2, edge vector.
    """
    if receivers is None:  # row i of a table belongs to receiver i
        offset = senders - jnp.arange(ca.shape[0], dtype=senders.dtype)[:, None]
        difference = ca[senders] - ca[:, None]
    else:
        offset = senders - receivers
        difference = ca[senders] - ca[receivers]
    scalars = jnp.concatenate(
        [distance_gaussians(safe_norm(difference)), positional_features(offset)], axis=-1
    )
    return EdgeFeatures(
        scalars=jnp.where(mask[..., None], scalars, 0.0),
        vectors=jnp.where(mask[..., None], unit(difference), 0.0)[..., None, :],
        mask=mask,
    )


def distance_gaussians(distance: jax.Array) -> jax.Array:
    """[..., 16]: exp(-((d - c) / w)²) of distances [..., 1] in Å, centres c = linspace(0, 20, 16), w = 20/16.

    REFERENCE.md section 2, distance Gaussians.
    """
    return jnp.exp(-jnp.square((distance - CENTRES) / (MAX_DISTANCE / NUM_GAUSSIANS)))


def positional_features(offset: jax.Array) -> jax.Array:
    """[..., 16]: 8 cosines, then 8 sines, of o · exp(-ln(10⁴) · 2i/16), i = 0 … 7.

    For offsets o = sender - receiver along the chain, int32 [...].

    REFERENCE.md section 2, positional features.
    """
    phase = offset.astype(jnp.float32)[..., None] * FREQUENCIES
    return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], axis=-1)


def unit(x: jax.Array) -> jax.Array:
    """x / |x| along the last axis; 0 for the zero vector, in value and gradient."""
    norm = safe_norm(x)
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1.0), 0.0)


def safe_norm(x: jax.Array) -> jax.Array:
    """|x| [..., 1] along the last axis; its gradient at 0 is 0."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
