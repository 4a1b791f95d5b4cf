"""Geometric features of residues and edges from coordinates in Å (docs/REFERENCE.md, section 2)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.torch_peer.graphs import ProteinBatch, ProteinGraph

NUM_GAUSSIANS = 16
MAX_DISTANCE = 20.0
NUM_WAVES = 16
COSINE_LIMIT = 1 - 1e-7


def featurise(proteins: ProteinBatch) -> ProteinGraph:
    """Adds features to a batch.

    An angle or a vector that touches a residue with a missing atom, or the end of a chain, is 0
    (cos 1, sin 0).
    """
    mask, batch = proteins.mask, proteins.batch
    backbone = torch.where(mask[:, None, None], proteins.backbone, 0.0)
    # linked[i]: residues i and i + 1 are complete and of the same protein.
    linked = mask[:-1] & mask[1:] & (batch[:-1] == batch[1:])
    edge_s, edge_v = edge_features(backbone[:, 1], proteins.edge_index)
    return ProteinGraph(
        node_s=dihedral_features(backbone, linked),
        node_v=direction_features(backbone, linked, mask),
        residue_type=proteins.residue_type,
        mask=mask,
        edge_index=proteins.edge_index,
        edge_s=edge_s,
        edge_v=edge_v,
        batch=batch,
        label=proteins.label,
    )


def dihedral_features(backbone: Tensor, linked: Tensor) -> Tensor:
    """[N, 6]: cos φ, cos ψ, cos ω, sin φ, sin ψ, sin ω (IUPAC signs) of a backbone [N, 4, 3].

    `linked` bool [N - 1]: residues i and i + 1 are bonded.
    """
    n, ca, c = backbone[:, :3].unbind(1)
    next_n, next_ca, previous_c = n.roll(-1, 0), ca.roll(-1, 0), c.roll(1, 0)
    has_next, has_previous = F.pad(linked, (0, 1)), F.pad(linked, (1, 0))
    points = torch.stack(
        [
            torch.stack([previous_c, n, ca, c]),  # φ
            torch.stack([n, ca, c, next_n]),  # ψ
            torch.stack([ca, c, next_n, next_ca]),  # ω
        ],
        dim=1,
    )
    valid = torch.stack([has_previous, has_next, has_next])
    u2, u1, u0 = unit(points.diff(dim=0))  # each [3, N, 3]
    n2, n1 = unit(torch.linalg.cross(u2, u1)), unit(torch.linalg.cross(u1, u0))
    cosine = (n2 * n1).sum(-1).clamp(-COSINE_LIMIT, COSINE_LIMIT)
    sign = (u2 * n1).sum(-1).sign()
    sine = sign * (1 - cosine * cosine).sqrt()
    on_a_line = (n2 == 0).all(-1) | (n1 == 0).all(-1)  # not where the sign is 0: docs/PARITY.md
    cosine = torch.where(valid & ~on_a_line, cosine, 1.0)
    return torch.cat([cosine, torch.where(valid, sine, 0.0)]).T


def direction_features(backbone: Tensor, linked: Tensor, mask: Tensor) -> Tensor:
    """[N, 3, 3]: unit vectors CA→next CA, CA→previous CA, and an idealised side-chain direction."""
    n, ca, c = backbone[:, :3].unbind(1)
    step = torch.where(linked[:, None], unit(ca.diff(dim=0)), 0.0)
    to_c, to_n = unit(c - ca), unit(n - ca)
    side = -math.sqrt(1 / 3) * unit(to_c + to_n) - math.sqrt(2 / 3) * unit(torch.linalg.cross(to_c, to_n))
    side = torch.where(mask[:, None], side, 0.0)
    return torch.stack([F.pad(step, (0, 0, 0, 1)), F.pad(-step, (0, 0, 1, 0)), side], dim=1)


def edge_features(ca: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
    """Scalars [E, 32]: 16 Gaussians of the CA distance, 8 cosines and 8 sines of the sequence offset;
    vectors [E, 1, 3]: unit(CA_sender - CA_receiver)."""
    sender, receiver = edge_index
    difference = ca.index_select(0, sender) - ca.index_select(0, receiver)
    distance = difference.norm(dim=-1, keepdim=True)
    centres = torch.linspace(0.0, MAX_DISTANCE, NUM_GAUSSIANS, dtype=ca.dtype, device=ca.device)
    gaussians = (-((distance - centres) / (MAX_DISTANCE / NUM_GAUSSIANS)).square()).exp()
    exponents = torch.arange(0, NUM_WAVES, 2, dtype=ca.dtype, device=ca.device) / NUM_WAVES
    phase = (sender - receiver)[:, None] * (-math.log(1e4) * exponents).exp()
    return torch.cat([gaussians, phase.cos(), phase.sin()], dim=-1), unit(difference)[:, None]


def unit(x: Tensor) -> Tensor:
    """x / |x| along the last axis; 0 for the zero vector."""
    return torch.nan_to_num(x / x.norm(dim=-1, keepdim=True))
