"""Small proteins, graphs and models, and the comparisons that the tests share."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from partoken_jax.config import CodebookConfig, ModelConfig, PartitionerConfig
from partoken_jax.graphs import neighbour_tables, pack
from partoken_jax.graphs.segments import graph_index
from partoken_jax.graphs.types import (
    EdgeFeatures,
    FeaturisedGraph,
    NodeFeatures,
    PackedGraph,
    ProteinGlobals,
    edge_list,
)
from partoken_jax.models import ParToken
from partoken_jax.nn.noise import Noise
from partoken_jax.proteins import LabelColumn, Protein, write_prepared
from partoken_jax.training.objective import named_arrays as by_path  # noqa: F401

TINY = ModelConfig(
    num_classes=3,
    node_hidden=(16, 4),
    edge_hidden=(8, 1),
    num_layers=2,
    partitioner=PartitionerConfig(hidden=10, max_clusters=3, cluster_size_max=6),
    codebook=CodebookConfig(size=8),
)
NEIGHBOURS = 6


def tiny(**changes) -> ModelConfig:
    return dataclasses.replace(TINY, **changes)


def one_layer_partoken(codes=None, **changes) -> ParToken:
    """A ParToken of one layer, what is proven of which holds for several, and whose cluster sizes differ.

    `codes` [8, 16] are its codebook.
    """
    model = ParToken(tiny(num_layers=1, **changes), rngs=nnx.Rngs(0))
    scaled_parameters(model.partitioner, 2.0)
    # Freshly initialised, every residue stays below the threshold; now about half of them pass.
    threshold = model.partitioner.threshold.layers[-1].bias
    threshold[...] = threshold[...] - 0.75
    if codes is None:
        codes = jax.random.uniform(jax.random.key(1), model.codebook.embeddings[...].shape)
    model.codebook.embeddings[...], model.codebook.sums[...] = codes, codes
    model.codebook.counts[...] = jnp.ones(codes.shape[0])
    return model


def noise_of(rows: int, seed: int = 0) -> Noise:
    """Noise for the residues of one protein, or for anything else that has rows."""
    return Noise(jax.random.key(seed), jnp.zeros(rows, jnp.uint32), jnp.arange(rows, dtype=jnp.uint32))


def crop(protein: Protein, start: int, length: int) -> Protein:
    """`length` residues of a protein from `start` on."""
    part = slice(start, start + length)
    return Protein(
        name=protein.name,
        sequence=protein.sequence[part],
        backbone=protein.backbone[part],
        label=protein.label,
    )


def moved(protein: Protein, rotation=None, shift=0.0) -> Protein:
    """The protein with every atom rotated about the origin and then shifted, in float64."""
    coordinates = protein.backbone.astype(np.float64)
    if rotation is not None:
        coordinates = coordinates @ rotation.T
    return dataclasses.replace(protein, backbone=(coordinates + shift).astype(np.float32))


def without_atoms(protein: Protein, residues, atom: int = 3) -> Protein:
    """The protein with one atom (O unless told) of some residues missing."""
    backbone = protein.backbone.copy()
    backbone[list(residues), atom] = np.nan
    return dataclasses.replace(protein, backbone=backbone)


def batch(proteins, *, num_nodes=96, batch_size=4, indices=None) -> PackedGraph:
    """A packed batch with `NEIGHBOURS` neighbours per residue."""
    return pack(
        proteins,
        neighbour_tables(proteins, NEIGHBOURS),
        num_nodes=num_nodes,
        batch_size=batch_size,
        indices=indices,
    )


def random_rotation(rng: np.random.Generator) -> np.ndarray:
    """float64 [3, 3]: a proper rotation."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q *= np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def random_graph(
    rng: np.random.Generator,
    sizes,
    *,
    k: int,
    num_nodes: int,
    node_dims=(6, 3),
    edge_dims=(32, 1),
    incomplete=(),
) -> FeaturisedGraph:
    """A featurised batch of random directed graphs as a table of neighbours, padding graph last.

    Residues have 0 to k neighbours within their protein; those in `incomplete` have none and are nobody's.
    """
    sizes = np.asarray(sizes)
    first = np.cumsum(sizes) - sizes
    mask = np.arange(num_nodes) < sizes.sum()
    mask[list(incomplete)] = False
    table = np.full((num_nodes, k), -1)
    for start, size in zip(first, sizes, strict=True):
        there = [n for n in range(start, start + size) if mask[n]]
        for node in there:
            others = rng.permutation([n for n in there if n != node])[: rng.integers(k + 1)]
            table[node, : len(others)] = others
    keep = table >= 0
    senders = np.where(keep, table, np.arange(num_nodes)[:, None])
    n_node = np.append(sizes, num_nodes - sizes.sum())

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return FeaturisedGraph(
        nodes=NodeFeatures(
            scalars=normal(num_nodes, node_dims[0]),
            vectors=normal(num_nodes, node_dims[1], 3),
            residue_type=rng.integers(20, size=num_nodes).astype(np.int32),
            mask=mask,
        ),
        edges=EdgeFeatures(
            scalars=normal(num_nodes, k, edge_dims[0]),
            vectors=normal(num_nodes, k, edge_dims[1], 3),
            mask=keep,
        ),
        senders=senders.astype(np.int32),
        receivers=None,
        n_node=n_node.astype(np.int32),
        n_edge=(n_node * k).astype(np.int32),
        globals=ProteinGlobals(
            label=np.append(np.arange(len(sizes)) % 3, -1).astype(np.int32),
            protein=np.append(np.arange(len(sizes)), -1).astype(np.int32),
            mask=np.append(np.ones(len(sizes), bool), False),
        ),
    )


def shuffled_edges(graph, rng: np.random.Generator):
    """The real edges alone, in random order: a list that only the general form can read."""
    graph = edge_list(graph)
    keep = rng.permutation(np.flatnonzero(graph.edges.mask))
    graph_of_node = np.repeat(np.arange(len(graph.n_node)), graph.n_node)
    receivers = np.asarray(graph.receivers)[keep]
    return graph._replace(
        edges=jax.tree.map(lambda x: np.asarray(x)[keep], graph.edges),
        senders=np.asarray(graph.senders)[keep],
        receivers=receivers,
        n_edge=np.bincount(graph_of_node[receivers], minlength=len(graph.n_node)).astype(np.int32),
    )


def permuted_nodes(graph, order: np.ndarray):
    """The graph as a list of edges in which node `order[i]` became node i; proteins must stay together."""
    graph = edge_list(graph)
    place = np.argsort(order).astype(np.int32)
    return graph._replace(
        nodes=jax.tree.map(lambda x: np.asarray(x)[order], graph.nodes),
        senders=place[np.asarray(graph.senders)],
        receivers=place[np.asarray(graph.receivers)],
    )


def reordered_neighbours(graph, rng: np.random.Generator):
    """Every row of the neighbour table in random order, masked slots anywhere."""
    num_nodes, k = graph.senders.shape
    order = np.stack([rng.permutation(k) for _ in range(num_nodes)])
    rows = np.arange(num_nodes)[:, None]
    return graph._replace(
        edges=jax.tree.map(lambda x: np.asarray(x)[rows, order], graph.edges),
        senders=np.asarray(graph.senders)[rows, order],
    )


def rotated_vectors(graph, rotation: np.ndarray):
    """The featurised graph with node and edge vectors rotated."""
    turn = jnp.asarray(rotation.T, jnp.float32)
    precise = jax.lax.Precision.HIGHEST
    return graph._replace(
        nodes=graph.nodes._replace(vectors=jnp.matmul(graph.nodes.vectors, turn, precision=precise)),
        edges=graph.edges._replace(vectors=jnp.matmul(graph.edges.vectors, turn, precision=precise)),
    )


def assert_close(got, want, tolerance: float = 1e-5, what: str = "") -> None:
    """|got - want| is at most `tolerance` of the largest |want|, which must not be 0."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, what
    scale = np.abs(want).max()
    assert scale > 0, f"{what}: nothing to compare"
    error = np.abs(got - want).max() / scale
    assert error <= tolerance, f"{what}: relative error {error:.1e}"


def scaled_parameters(module: nnx.Module, factor: float) -> None:
    """Multiplies every parameter, so that decisions of a fresh module spread."""
    state = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda x: x * factor, state))


SLOTS = (4, 1, 0, 7)
"""Residues of each protein of `residues_in_slots`; the third slot is empty."""


def residues_in_slots(width: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x [N, width], mask, index): 15 nodes, the last 3 padding, one residue masked."""
    rng = np.random.default_rng(0)
    graph = random_graph(rng, SLOTS, k=2, num_nodes=15, incomplete=(6,))
    x = rng.normal(size=(15, width)).astype(np.float32) - 3  # negative, so that a 0 would win a maximum
    x[~graph.nodes.mask] = 50.0
    return jnp.asarray(x), jnp.asarray(graph.nodes.mask), graph_index(graph)


def real_protein(name: str, length: int, seed: int = 0, label: int = -1) -> Protein:
    """What structure files hold: unknown residues, missing atoms, gaps in the numbers, insertion codes."""
    rng = np.random.default_rng(seed)
    backbone = np.cumsum(rng.normal(size=(length, 1, 3)) * 2, axis=0) + rng.normal(size=(length, 4, 3))
    backbone[rng.random(length) < 0.1, 3] = np.nan
    return Protein(
        name=name,
        sequence="".join(rng.choice(list("ARNDCQEGHILKMFPSTWYVX"), length)),
        backbone=backbone.astype(np.float32),
        label=label,
        residue_numbers=np.cumsum(rng.integers(0, 3, length)) - 5,
        chain="AA",
        insertion_codes="".join(rng.choice(list("  AB"), length)),
    )


def prepared_set(folder, count: int = 23, neighbours: int = 6) -> tuple[Path, list[Protein]]:
    """A prepared set of proteins of 5 to 40 residues, and they: a column `kind` of 3 classes, where every
    seventh has none, a column `roles` of several per protein, and a scheme `random`."""
    lengths = np.random.default_rng(1).integers(5, 41, count)
    kind = np.where(np.arange(count) % 7 == 6, -1, np.arange(count) % 3)
    proteins = [
        real_protein(f"prøve {i}", int(length), i, int(label))
        for i, (length, label) in enumerate(zip(lengths, kind, strict=True))
    ]
    roles = np.arange(count) % 3  # of the first protein none, of the second one, of the third two, ...
    write_prepared(
        folder / "set",
        proteins,
        labels={
            "kind": LabelColumn(("a", "b", "c"), kind),
            "roles": LabelColumn(("x", "y"), np.arange(roles.sum()) % 2, np.append(0, np.cumsum(roles))),
        },
        splits={"random": np.select([np.arange(count) % 5 == 3, np.arange(count) % 5 == 4], [1, 2], 0)},
        neighbours=neighbours,
        sources=[{"file": "somewhere.pdb"}],
        skipped=[{"name": "other", "reason": "it has no residue with all four atoms"}],
    )
    return folder / "set", proteins


def flat(settings: dict, where: str = "") -> dict:
    """Nested settings by their dotted names."""
    found = {}
    for name, value in settings.items():
        found |= flat(value, f"{where}{name}.") if isinstance(value, dict) else {f"{where}{name}": value}
    return found
