"""The VQ codebook with moving averages (van den Oord et al. 2017; docs/REFERENCE.md, section 5)."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partoken_jax.config import CodebookConfig


class Quantised(NamedTuple):
    features: Tensor
    """[B, S, D]: the chosen code, with the gradient of the input (straight-through)."""
    codes: Tensor
    """int64 [B, S]: chosen code, -1 where the cluster is not valid."""
    loss: Tensor
    """[]: β mean((z - e)²) over valid clusters and channels."""


class CodebookUse(NamedTuple):
    usage: Tensor
    """[K]"""
    perplexity: Tensor
    """[]"""
    entropy_loss: Tensor
    """[]"""


class VQCodebook(nn.Module):
    """K codes of width D. All state is in buffers: no optimiser moves it."""

    embeddings: Tensor  # [K, D]
    ema_counts: Tensor  # [K]
    ema_sums: Tensor  # [K, D]

    def __init__(self, width: int, config: CodebookConfig):
        super().__init__()
        self.config = config
        bound = 1.0 / config.size
        self.register_buffer("embeddings", torch.empty(config.size, width).uniform_(-bound, bound))
        self.register_buffer("ema_counts", torch.zeros(config.size))
        self.register_buffer("ema_sums", torch.zeros(config.size, width))

    def forward(self, z: Tensor, mask: Tensor, *, update: bool = False) -> Quantised:
        """Replaces every valid cluster of z [B, S, D] by its nearest code, others pass through; with
        `update` the averages then move."""
        codes = self.nearest(z.detach())
        chosen = self.embeddings[codes]
        valid = mask[..., None]
        features = torch.where(valid, z + (chosen - z).detach(), z)
        squared = torch.where(valid, (z - chosen).square(), 0.0).sum()
        loss = self.config.beta * squared / (mask.sum() * z.shape[-1]).clamp(min=1)
        codes = torch.where(mask, codes, -1)
        if update:
            self._move(z.detach(), codes)
        return Quantised(features, codes, loss)

    def nearest(self, z: Tensor) -> Tensor:
        """int64 [B, S]: nearest code, the first one on ties."""
        if self.config.metric == "cosine":
            unit = F.normalize(self.embeddings, dim=-1, eps=1e-12)
            return (1.0 - F.normalize(z, dim=-1, eps=1e-12) @ unit.T).argmin(dim=-1)
        return self._distance(z).argmin(dim=-1)

    def _distance(self, z: Tensor) -> Tensor:
        # Sums of squared differences: the form with a product loses digits, more so in reduced precision.
        flat = torch.cdist(z.flatten(0, 1), self.embeddings, compute_mode="donot_use_mm_for_euclid_dist")
        return flat.unflatten(0, z.shape[:2])

    @torch.no_grad()
    def _move(self, z: Tensor, codes: Tensor) -> None:
        """Counts and sums decay; code = sum / (count + ε). Nothing moves without valid clusters."""
        config = self.config
        # Invalid clusters are counted for one code too many, which is cut off.
        target = torch.where(codes >= 0, codes, config.size).flatten()
        counts = z.new_zeros(config.size + 1).index_add(0, target, z.new_ones(target.shape))[:-1]
        sums = z.new_zeros(config.size + 1, z.shape[-1]).index_add(0, target, z.flatten(0, 1))[:-1]
        any_valid = (codes >= 0).any()
        new_counts = config.decay * self.ema_counts + (1 - config.decay) * counts
        new_sums = config.decay * self.ema_sums + (1 - config.decay) * sums
        moved = new_sums / (new_counts + config.epsilon)[:, None]
        if config.keep_unused:
            moved = torch.where(counts[:, None] > 0, moved, self.embeddings)
        # New tensors, not changes in place: a compiled backward pass gathers the chosen codes again, and has
        # to find those from before the update.
        self.ema_counts = torch.where(any_valid, new_counts, self.ema_counts)
        self.ema_sums = torch.where(any_valid, new_sums, self.ema_sums)
        self.embeddings = torch.where(any_valid, moved, self.embeddings)

    def use(self) -> CodebookUse:
        """Usage, perplexity and entropy loss of the moving counts."""
        epsilon = self.config.epsilon
        usage = (self.ema_counts / (self.ema_counts.sum() + epsilon)).clamp(min=epsilon)
        perplexity = (-(usage * (usage + epsilon).log()).sum()).exp()
        uniform = math.log(1.0 / self.config.size + epsilon)
        return CodebookUse(usage, perplexity, (usage * (usage.log() - uniform)).sum())

    def log_absence(self, z: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """[B, K]: log of the probability that no cluster of the protein carries code k; P = softmax over
        codes of -|z - e|² / T per cluster, masked, clamped to [1e-6, 1 - 1e-6]; Σ log(1 - P)."""
        p = (-self._distance(z).square() / temperature).softmax(dim=-1) * mask[..., None]
        return (-p.clamp(1e-6, 1 - 1e-6)).log1p().sum(dim=1)


def presence(log_absence: Tensor) -> Tensor:
    """[B, K]: probability that a protein carries code k."""
    return 1.0 - log_absence.exp()


def coverage_loss(log_absence: Tensor) -> Tensor:
    """-mean over proteins of 1 - Π_k (1 - presence_k)."""
    return log_absence.sum(dim=-1).expm1().mean()
