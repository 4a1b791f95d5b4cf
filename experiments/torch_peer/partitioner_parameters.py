"""What the partitioner learns, under the original's names."""

import torch
from torch import Tensor, nn

from experiments.torch_peer.partition import SCORE_WIDTH
from partoken_jax.config import PartitionerConfig

THRESHOLD_WIDTH = 128
SEED_DROPOUT = 0.1


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


class PartitionerParameters(nn.Module):
    """All parameters, as both bookkeepings read them."""

    def __init__(self, width: int, config: PartitionerConfig):
        super().__init__()
        self.config = config
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
