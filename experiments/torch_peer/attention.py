"""How clusters reach the classifier: attention of the whole protein over its clusters, then a gate."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attended(NamedTuple):
    pooled: Tensor
    """[B, D]"""
    importance: Tensor
    """[B, S]: attention weight of each cluster, mean over heads."""
    weights: Tensor
    """[B, heads, S]"""


class ClusterAttention(nn.Module):
    """One query from the pooled protein, keys and values from its clusters; no biases."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.rate = dropout
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self,
        protein: Tensor,  # [B, D]
        clusters: Tensor,  # [B, S, D]
        mask: Tensor,  # bool [B, S]
        temperature: float = 1.0,
    ) -> Attended:
        """Logits are divided by sqrt(D / heads) · `temperature`; without clusters all is 0."""
        weights = self.weights(protein, clusters, mask, temperature)
        values = self.v(clusters).unflatten(-1, (self.heads, -1))
        pooled = torch.einsum("bhs,bshd->bhd", F.dropout(weights, self.rate, self.training), values)
        return Attended(self.out(pooled.flatten(1)), weights.mean(dim=1), weights)

    def weights(self, protein: Tensor, clusters: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """[B, heads, S]: 0 on invalid clusters, summing to 1 over the valid ones."""
        query = self.q(protein).unflatten(-1, (self.heads, -1))
        keys = self.k(clusters).unflatten(-1, (self.heads, -1))
        logits = torch.einsum("bhd,bshd->bhs", query, keys) / (query.shape[-1] ** 0.5 * temperature)
        valid = mask[:, None, :]
        weights = logits.masked_fill(~valid, -1e9).softmax(dim=-1) * valid
        return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-6)


class GatedFusion(nn.Module):
    """β = sigmoid(MLP([protein, clusters])); LayerNorm(protein + β · Linear(clusters))."""

    def __init__(self, width: int, *, dropout: float = 0.0):
        super().__init__()
        self.beta_mlp = nn.Sequential(
            nn.Linear(2 * width, width // 2), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width // 2, width)
        )
        self.proj_c = nn.Linear(width, width, bias=False)
        self.ln = nn.LayerNorm(width)

    def forward(self, protein: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor]:
        """The fused vector [B, D] and β [B, D], from [B, D] each."""
        beta = self.beta_mlp(torch.cat([protein, clusters], dim=-1)).sigmoid()
        return self.ln(protein + beta * self.proj_c(clusters)), beta
