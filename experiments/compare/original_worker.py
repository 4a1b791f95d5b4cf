"""The authors' own ParToken, unmodified, from a local checkout (`--original PATH`).

Timed, but not compared: its inference draws random numbers and its attention gets no gradient
(docs/REFERENCE.md, faults 1 and 3), so its results cannot be those of anything else. It starts from weights
of its own.
"""

import importlib
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from experiments.compare.protocol import ORIGINAL_MODELS, Settings
from experiments.compare.torch_worker import TorchWorker
from experiments.torch_peer.features import featurise
from experiments.torch_peer.training import make_optimiser
from partoken_jax.config import ModelConfig


class OriginalWorker(TorchWorker):
    """The model of a checkout (`ORIGINAL_MODELS`). Features are ours: the original reads them ready made."""

    def __init__(self, settings: Settings):
        super().__init__("torch_loops", settings)
        self.model = load_original(self.config.model).to(self.target)

    model: Any  # the authors' class

    def _logits(self) -> tuple[torch.Tensor, dict[str, Any]]:
        graph = featurise(self.proteins)
        logits, _, extra = self.model(
            (graph.node_s, graph.node_v),
            graph.edge_index,
            (graph.edge_s, graph.edge_v),
            batch=graph.batch,
        )
        return logits, extra

    def _forward(self):
        def call():
            self.model.eval()
            with torch.inference_mode():
                return self._logits()

        return call

    def _train_step(self):
        optimiser = make_optimiser(self.model, float(self.settings.learning_rate))

        def call():
            self.model.train()
            optimiser.zero_grad(set_to_none=True)
            logits, extra = self._logits()
            loss, _ = self.model.compute_total_loss(logits, self.proteins.label, extra)
            loss.backward()
            optimiser.step()

        return call


def load_original(config: ModelConfig) -> nn.Module:
    """The authors' model in the given configuration, from the checkout that this process was started
    with on its PYTHONPATH. Raises ImportError for what it needs and lacks."""
    module, name = next((module, name) for module, name in ORIGINAL_MODELS if find_spec(module) is not None)
    model = getattr(importlib.import_module(module), name)
    part, codebook = config.partitioner, config.codebook
    return model(
        node_in_dim=config.node_in,
        node_h_dim=config.node_hidden,
        edge_in_dim=config.edge_in,
        edge_h_dim=config.edge_hidden,
        num_classes=config.num_classes,
        num_layers=config.num_layers,
        drop_rate=config.dropout,
        pooling=config.pooling,
        max_clusters=part.max_clusters,
        nhid=part.hidden,
        k_hop=part.k_hop,
        cluster_size_max=part.cluster_size_max,
        termination_threshold=part.termination_threshold,
        codebook_size=codebook.size,
        codebook_beta=codebook.beta,
        codebook_decay=codebook.decay,
        codebook_eps=codebook.epsilon,
    )
