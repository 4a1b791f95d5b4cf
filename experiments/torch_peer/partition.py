"""What the partitioner returns, and the formulas that both of its bookkeepings share."""

from typing import NamedTuple

from torch import Tensor

SCORE_WIDTH = 64


class Rounds(NamedTuple):
    """What each of the S rounds decided."""

    seed: Tensor
    """int64 [S, B]: index of the seed in the flat batch, -1 where there is none."""
    soft_p: Tensor
    """[S, N]: probability of joining, after trimming; 0 outside the candidates."""
    theta: Tensor
    """[S, B]: learned threshold (meaningless where there is no seed)."""
    phi: Tensor
    """[S, B, 3]: log of the number of candidates + 1, seed's edge share, density."""
    link_share: Tensor
    """[S, N]: share of a residue's out-edges that end in its protein's seed (with loops: of candidates)."""
    trimmed: Tensor
    """bool [S, B]: more residues qualified than the size limit allows."""


class Partition(NamedTuple):
    features: Tensor
    """[B, S, D]: mean of the members' features, 0 where there is no cluster."""
    mask: Tensor
    """bool [B, S]: the cluster exists."""
    cluster_of_residue: Tensor
    """int64 [N]: round in which the residue was assigned, -1 if never."""
    cardinality: Tensor
    """[]: Σ over rounds of the mean over proteins with a seed of (Σp - μ)²."""
    rounds: Rounds


def expected_size(num_candidates: Tensor, cluster_size_max: int) -> Tensor:
    """μ = clamp(2 + 3 log(n + 1), 1, cluster_size_max)."""
    return (2.0 + 3.0 * (num_candidates + 1.0).log()).clamp(1.0, float(cluster_size_max))


def gumbel(uniform: Tensor) -> Tensor:
    """-log(-log(u + 1e-8) + 1e-8)"""
    return -(-(uniform + 1e-8).log() + 1e-8).log()


def enough_assigned(assigned: Tensor, size: Tensor, threshold: float) -> Tensor:
    """bool: the assigned share of the residues reaches the threshold. In float32 whatever the model's
    precision, for in another one the products round to the other side."""
    return assigned.float() >= threshold * size.float()
