"""The partitioner's parameters, under the original's names, and the choice of bookkeeping.

Both bookkeepings give the same numbers: `vectorised.py`, segment operations over the whole batch that never
wait for the device; `loops.py`, loops over proteins and residues that read every decision, as published.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from experiments.torch_peer.loops import partition_by_loops
from experiments.torch_peer.partition import SCORE_WIDTH, Partition
from experiments.torch_peer.vectorised import partition_vectorised
from partoken_jax.config import PartitionerConfig

THRESHOLD_WIDTH = 128
SEED_DROPOUT = 0.1

Bookkeeping = Literal["vectorised", "loops"]


class ThresholdHead(nn.Module):
    """θ from the seed, the context and φ."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, THRESHOLD_WIDTH), nn.ReLU(), nn.Linear(THRESHOLD_WIDTH, 1))

    def forward(self, seed: Tensor, context: Tensor, phi: Tensor) -> Tensor:
        """[...] from [..., D], [..., H] and [..., 3]."""
        return self.mlp(torch.cat([seed, context, phi], dim=-1)).squeeze(-1)


class Expander(nn.Module):
    """The parameters that grow a cluster from its seed."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.Wq = nn.Linear(width, SCORE_WIDTH, bias=False)
        self.Wk = nn.Linear(width, SCORE_WIDTH, bias=False)
        self.threshold_head = ThresholdHead(width + hidden + 3)


class Partitioner(nn.Module):
    """Cuts every protein of a batch into at most S clusters."""

    def __init__(self, width: int, config: PartitionerConfig, bookkeeping: Bookkeeping = "vectorised"):
        super().__init__()
        self.config = config
        self.bookkeeping = bookkeeping
        self.seed_selector = nn.Sequential(
            nn.Linear(width + config.hidden, config.hidden),
            nn.ReLU(),
            nn.Dropout(SEED_DROPOUT),
            nn.Linear(config.hidden, 1),
        )
        self.context_encoder = nn.Linear(width, config.hidden)
        self.expander = Expander(width, config.hidden)
        # The original works τ out from this count of epochs; here τ is an argument, and the count only
        # completes the state_dict.
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        x: Tensor,  # [N, D]
        mask: Tensor,  # bool [N]
        edge_index: Tensor,  # int64 [2, E]
        batch: Tensor,  # int64 [N], ascending
        num_proteins: int,
        *,
        temperature: Tensor | float,
        uniform: Tensor | None = None,  # [S, N] in [0, 1)
    ) -> Partition:
        """Partitions the batch; `uniform` turns on Gumbel sampling of the seeds."""
        partition = partition_by_loops if self.bookkeeping == "loops" else partition_vectorised
        return partition(self, x, mask, edge_index, batch, num_proteins, temperature, uniform)
