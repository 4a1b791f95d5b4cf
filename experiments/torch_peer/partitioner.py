"""The partitioner, with a choice of bookkeeping.

Both bookkeepers give the same numbers: `vectorised.py`, segment operations over the whole batch that never
wait for the device; `loops.py`, loops over proteins and residues that read every decision, as published.
"""

from typing import Literal

from torch import Tensor

from experiments.torch_peer.loops import partition_by_loops
from experiments.torch_peer.partition import Partition
from experiments.torch_peer.partitioner_parameters import PartitionerParameters
from experiments.torch_peer.vectorised import partition_vectorised
from partoken_jax.config import PartitionerConfig

Bookkeeping = Literal["vectorised", "loops"]


class Partitioner(PartitionerParameters):
    """Cuts every protein of a batch into at most S clusters."""

    def __init__(self, width: int, config: PartitionerConfig, bookkeeping: Bookkeeping = "vectorised"):
        super().__init__(width, config)
        self.bookkeeping = bookkeeping

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
