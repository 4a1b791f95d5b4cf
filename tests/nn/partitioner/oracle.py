"""The partitioner once more, in float64 numpy: one protein, one residue, one edge at a time.

Written from the published algorithm alone, to check the vectorised one.
"""

from dataclasses import dataclass, field

import numpy as np

from partoken_jax.config import PartitionerConfig
from partoken_jax.graphs.types import edge_list


@dataclass
class ProteinGraph:
    """One protein: its real residues (numbers in the flat batch) and its edges as (sender, receiver)."""

    residues: list[int]
    edges: list[tuple[int, int]]

    def within(self, seed: int, hops: int) -> set[int]:
        """Residues at most `hops` steps from the seed, the seed included (breadth-first)."""
        reached, frontier = {seed}, {seed}
        for _ in range(hops):
            frontier = {receiver for sender, receiver in self.edges if sender in frontier} - reached
            reached |= frontier
        return reached

    def out_degree(self, residue: int) -> int:
        return sum(sender == residue for sender, _ in self.edges)


@dataclass
class Round:
    seed: int
    p: dict[int, float] = field(default_factory=dict)
    members: set[int] = field(default_factory=set)
    feature: np.ndarray | None = None
    theta: float = np.nan
    phi: np.ndarray | None = None
    link_share: dict[int, float] = field(default_factory=dict)
    trimmed: bool = False
    squared: float = 0.0
    margin: float = np.inf
    """How far the closest decision was from being another one."""


def split(graph) -> list[ProteinGraph]:
    """The proteins of a batch, padding graph left out."""
    graph = edge_list(graph)
    first = np.cumsum(graph.n_node) - graph.n_node
    proteins = []
    for start, size in list(zip(first, graph.n_node, strict=True))[:-1]:
        residues = [n for n in range(start, start + size) if graph.nodes.mask[n]]
        ends = zip(graph.senders, graph.receivers, graph.edges.mask, strict=True)
        inside = [(int(s), int(r)) for s, r, real in ends if real and start <= r < start + size]
        proteins.append(ProteinGraph(residues, inside))
    return proteins


def partition(
    protein: ProteinGraph,
    x: np.ndarray,
    weights: dict[str, np.ndarray],
    config: PartitionerConfig,
    tau: float,
    uniform: np.ndarray | None,
) -> list[Round]:
    """All rounds of one protein; a round without a seed has seed -1."""

    def linear(name, value):
        bias = weights.get(f"{name}.bias", 0.0)
        return value @ weights[f"{name}.kernel"] + bias

    def mlp(name, value):
        return float(linear(f"{name}.layers.1", np.maximum(linear(f"{name}.layers.0", value), 0))[0])

    width = weights["context.kernel"].shape[0]
    available, total = set(protein.residues), len(protein.residues)
    mean = np.mean([x[n] for n in protein.residues], axis=0) if total else np.zeros(width)
    context, active, rounds = linear("context", mean), True, []
    for number in range(config.max_clusters):
        assigned = np.float32(total - len(available))
        if number > 0 and assigned >= np.float32(config.termination_threshold) * np.float32(total):
            active = False
        step = Round(-1)
        if active and available:
            step = _grow(number, protein, available, x, context, linear, mlp, config, tau, uniform)
            available -= step.members
        rounds.append(step)
        context = context + 0.1 * linear("context", np.zeros(width) if step.seed < 0 else step.feature)
    return rounds


def _grow(number, protein, available, x, context, linear, mlp, config, tau, uniform) -> Round:
    value = {}
    for n in sorted(available):
        value[n] = mlp("seed_selector", np.concatenate([x[n], context]))
        if uniform is not None:
            value[n] += -np.log(-np.log(uniform[number, n] + 1e-8) + 1e-8)
    seed = max(value, key=lambda n: (value[n], -n))
    step = Round(seed)
    others = [value[seed] - v for n, v in value.items() if n != seed]
    step.margin = min([step.margin, *others])

    candidates = sorted((protein.within(seed, config.k_hop) & available) - {seed})
    count, degree = len(candidates), protein.out_degree(seed)
    from_seed = sum(s == seed and r in candidates for s, r in protein.edges)
    inside = sum(s in candidates and r in candidates for s, r in protein.edges)
    pairs = max(count * (count - 1) / 2, 1)
    step.phi = np.array([np.log(count + 1), from_seed / max(degree, 1), inside / 2 / pairs])
    step.theta = mlp("threshold", np.concatenate([x[seed], context, step.phi]))
    query = linear("query", x[seed])
    for n in protein.residues:
        step.link_share[n] = sum(e == (n, seed) for e in protein.edges) / max(protein.out_degree(n), 1)
    for n in candidates:
        score = linear("key", x[n]) @ query / 8 + 0.2 * step.link_share[n]
        step.p[n] = 1 / (1 + np.exp(-(score - step.theta) / tau))
        step.margin = min(step.margin, abs(step.p[n] - 0.5))

    limit = config.cluster_size_max - 1
    if sum(p > 0.5 for p in step.p.values()) > limit:
        step.trimmed = True
        order = sorted(step.p, key=lambda n: (-step.p[n], n))
        step.margin = min(step.margin, step.p[order[limit - 1]] - step.p[order[limit]])
        step.p = {n: step.p[n] for n in order[:limit]}
    step.members = {seed} | {n for n, p in step.p.items() if p > 0.5}
    step.feature = np.mean([x[n] for n in sorted(step.members)], axis=0)
    expected = np.clip(2 + 3 * np.log(count + 1), 1, config.cluster_size_max)
    step.squared = (sum(step.p.values()) - expected) ** 2
    return step
