"""The objective and one step of Adam (docs/REFERENCE.md, section 5)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.torch_peer.features import featurise
from experiments.torch_peer.graphs import ProteinBatch
from experiments.torch_peer.models import GVPOutput, ParTokenOutput
from partoken_jax.training.objective import LossWeights


class LossTerms(NamedTuple):
    """The objective and its terms, before weighting. All scalars."""

    total: Tensor
    cross_entropy: Tensor
    vq: Tensor
    coverage: Tensor
    cardinality: Tensor


def make_optimiser(model: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Adam as in `partoken_jax.training.optimiser`; the fused one keeps its count of steps on the device."""
    return torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)


def total_loss(out: GVPOutput | ParTokenOutput, label: Tensor, weights: LossWeights) -> LossTerms:
    """L = CE + λ_vq L_vq + λ_psc L_psc + λ_card L_card; cross entropy alone for the baseline."""
    ce = F.cross_entropy(out.logits, label)
    if isinstance(out, GVPOutput):
        zero = torch.zeros_like(ce)
        return LossTerms(ce, ce, zero, zero, zero)
    vq, coverage, cardinality = out.losses
    by_vq, by_coverage, by_cardinality = (float(weight) for weight in weights)
    total = ce + by_vq * vq + by_coverage * coverage + by_cardinality * cardinality
    return LossTerms(total, ce, vq, coverage, cardinality)


def train_step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    proteins: ProteinBatch,
    weights: LossWeights,
    **options,
) -> LossTerms:
    """Features, forward, backward, Adam. Changes model and optimiser; reads nothing from the device.

    `options` are the model's: temperature, uniform, update_codebook, bypass_codebook for ParToken.
    """
    optimiser.zero_grad(set_to_none=True)
    losses = total_loss(model(featurise(proteins), **options), proteins.label, weights)
    losses.total.backward()
    optimiser.step()
    return LossTerms(*(term.detach() for term in losses))
