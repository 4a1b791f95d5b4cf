"""The two models, and the record that each returns. Modules carry the original's names."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.utils import scatter

from experiments.torch_peer.attention import ClusterAttention, GatedFusion
from experiments.torch_peer.codebook import VQCodebook, coverage_loss, presence
from experiments.torch_peer.graphs import ProteinGraph
from experiments.torch_peer.gvp import GVP, LINEAR, Features, GVPConvLayer, TupleLayerNorm
from experiments.torch_peer.partitioner import Bookkeeping, Partitioner
from partoken_jax.model_config import ModelConfig, Pooling

RESIDUE_TYPES = 20


class GVPOutput(NamedTuple):
    logits: Tensor
    """[B, C]"""
    node_features: Tensor
    """[N, D]"""


class AuxiliaryLosses(NamedTuple):
    """Unweighted scalars; 0 where the codebook is absent or bypassed."""

    vq: Tensor
    coverage: Tensor
    cardinality: Tensor


class ParTokenOutput(NamedTuple):
    """Fields as in `partoken_jax.models.ParTokenOutput`."""

    logits: Tensor
    cluster_of_residue: Tensor
    seeds: Tensor
    cluster_features: Tensor
    cluster_mask: Tensor
    codes: Tensor
    importances: Tensor
    presence: Tensor
    usage: Tensor
    perplexity: Tensor
    entropy_loss: Tensor
    losses: AuxiliaryLosses


class GVPClassifier(nn.Module):
    """The GVP-GNN baseline: encoder, pooling, classifier D → 2D → D → C."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.node_hidden[0]
        self.W_s = nn.Embedding(RESIDUE_TYPES, RESIDUE_TYPES) if config.residue_types else None
        self.W_v, self.W_e, self.layers, self.W_out = _encoder_parts(config)
        self.pooling = config.pooling
        self.attention = _attention_score(config)
        self.classifier = _classifier((width, 2 * width, width, config.num_classes), config.dropout)

    def forward(self, graph: ProteinGraph) -> GVPOutput:
        hidden, edge = embed(graph, self.W_s, self.W_v, self.W_e)
        for layer in self.layers:
            hidden = layer(hidden, graph.edge_index, edge)
        x = self.W_out(hidden)[0]
        return GVPOutput(self.classifier(pool(x, graph, self.pooling, self.attention)), x)


class ParToken(nn.Module):
    """Encoder → partitioner → codebook → attention over clusters → gate → classifier D → 4D → 2D → C.

    `state_dict` has the original's keys, less its `cluster_attention` and every `dummy_param`, which
    nothing computes with.
    """

    def __init__(self, config: ModelConfig, bookkeeping: Bookkeeping = "vectorised"):
        super().__init__()
        width = config.node_hidden[0]
        self.config = config
        self.sequence_embedding = nn.Embedding(RESIDUE_TYPES, RESIDUE_TYPES) if config.residue_types else None
        self.node_encoder, self.edge_encoder, self.gvp_layers, self.output_projection = _encoder_parts(config)
        self.attention = _attention_score(config)
        self.partitioner = Partitioner(width, config.partitioner, bookkeeping)
        self.codebook = VQCodebook(width, config.codebook) if config.codebook.enabled else None
        self.global_cluster_attn = ClusterAttention(width, config.attention_heads, dropout=config.dropout)
        self.fw_gate = GatedFusion(width, dropout=config.dropout)
        self.classifier = _classifier((width, 4 * width, 2 * width, config.num_classes), config.dropout)

    def encode(self, graph: ProteinGraph) -> Tensor:
        """Node features [N, D], non-negative."""
        hidden, edge = embed(graph, self.sequence_embedding, self.node_encoder, self.edge_encoder)
        for layer in self.gvp_layers:
            hidden = layer(hidden, graph.edge_index, edge)
        return self.output_projection(hidden)[0]

    def forward(
        self,
        graph: ProteinGraph,
        *,
        temperature: Tensor | float = 1.0,
        uniform: Tensor | None = None,
        update_codebook: bool = False,
        bypass_codebook: bool = False,
    ) -> ParTokenOutput:
        """Classifies a batch. In training mode there is dropout, and seeds are sampled.

        Args:
          temperature: τ of seeds and expansion; a tensor where it changes in a compiled model.
          uniform: [S, N] uniform numbers for the sampling of seeds, in any mode; drawn here when training.
          update_codebook: move the codebook's averages after quantising.
          bypass_codebook: leave the codebook out (stage 0).
        """
        num_proteins = graph.label.shape[0]
        x = self.encode(graph)
        if uniform is None and self.training:
            uniform = torch.rand(self.config.partitioner.max_clusters, len(x), dtype=x.dtype, device=x.device)
        protein = pool(x, graph, self.config.pooling, self.attention)
        partition = self.partitioner(
            x,
            graph.mask,
            graph.edge_index,
            graph.batch,
            num_proteins,
            temperature=temperature,
            uniform=uniform,
        )
        clusters, mask = partition.features, partition.mask
        tokens = self._tokens(clusters, mask, update_codebook, bypass_codebook)
        quantised = self.config.codebook.classify_quantised
        attended = self.global_cluster_attn(protein, tokens.features if quantised else clusters, mask)
        fused, _ = self.fw_gate(protein, attended.pooled)
        seeds = partition.rounds.seed.T
        count = scatter(torch.ones_like(graph.batch), graph.batch, dim_size=num_proteins, reduce="sum")
        first = (count.cumsum(0) - count)[:, None]
        return ParTokenOutput(
            logits=self.classifier(fused),
            cluster_of_residue=partition.cluster_of_residue,
            seeds=torch.where(seeds >= 0, seeds - first, -1),
            cluster_features=clusters,
            cluster_mask=mask,
            codes=tokens.codes,
            importances=attended.importance,
            presence=tokens.presence,
            usage=tokens.usage,
            perplexity=tokens.perplexity,
            entropy_loss=tokens.entropy_loss,
            losses=AuxiliaryLosses(tokens.vq, tokens.coverage, partition.cardinality),
        )

    def _tokens(self, clusters: Tensor, mask: Tensor, update: bool, bypass: bool) -> "_Tokens":
        config = self.config.codebook
        if self.codebook is None or bypass:
            zero = clusters.new_zeros(())
            nothing = clusters.new_zeros(len(clusters), config.size)
            codes = torch.full_like(mask, -1, dtype=torch.int64)
            return _Tokens(clusters, codes, zero, zero, nothing, nothing.new_zeros(config.size), zero, zero)
        out = self.codebook(clusters, mask, update=update)
        # Everything below reads the codebook after its update, as published.
        use = self.codebook.use()
        absent = self.codebook.log_absence(clusters, mask, config.presence_temperature)
        return _Tokens(
            out.features, out.codes, out.loss, coverage_loss(absent),
            presence(absent), use.usage, use.perplexity, use.entropy_loss,
        )  # fmt: skip


class _Tokens(NamedTuple):
    features: Tensor
    codes: Tensor
    vq: Tensor
    coverage: Tensor
    presence: Tensor
    usage: Tensor
    perplexity: Tensor
    entropy_loss: Tensor


def build_model(config: ModelConfig, bookkeeping: Bookkeeping = "vectorised") -> GVPClassifier | ParToken:
    """The model that `config.kind` names; `bookkeeping` is that of ParToken's partitioner. The settings
    `message_passing` and `rematerialise` have no meaning here."""
    return GVPClassifier(config) if config.kind == "gvp" else ParToken(config, bookkeeping)


def embed(
    graph: ProteinGraph, residue_embedding: nn.Module | None, node_encoder: nn.Module, edge_encoder: nn.Module
) -> tuple[Features, Features]:
    """Hidden nodes and hidden edges, before the first layer."""
    scalars = graph.node_s
    if residue_embedding is not None:
        scalars = torch.cat([scalars, residue_embedding(graph.residue_type)], dim=-1)
    # Channels to the last axis, where the layers expect them.
    nodes = node_encoder((scalars, graph.node_v.transpose(1, 2)))
    return nodes, edge_encoder((graph.edge_s, graph.edge_v.transpose(1, 2)))


def pool(x: Tensor, graph: ProteinGraph, pooling: Pooling, score: nn.Module | None) -> Tensor:
    """[B, D] from node features [N, D]: mean, max, sum or attention over the real residues. Attention needs
    `score`, which gives a logit [N, 1]; the others take None."""
    num_proteins, mask = graph.label.shape[0], graph.mask[:, None]

    def reduce(value: Tensor, how: str) -> Tensor:
        return scatter(value, graph.batch, dim_size=num_proteins, reduce=how)

    if pooling == "max":
        return reduce(x.masked_fill(~mask, -torch.inf), "max").nan_to_num(neginf=0.0)
    if score is not None:
        logits = score(x).masked_fill(~mask, -1e9)
        weight = (logits - reduce(logits.detach(), "max")[graph.batch]).exp() * mask
        return reduce(weight * x, "sum") / reduce(weight, "sum").clamp(min=1e-16)
    total = reduce(x * mask, "sum")
    return total / reduce(mask.to(x.dtype), "sum").clamp(min=1.0) if pooling == "mean" else total


def _encoder_parts(config: ModelConfig) -> tuple[nn.Module, nn.Module, nn.ModuleList, nn.Module]:
    """Node encoder, edge encoder, layers, output projection."""
    extra = RESIDUE_TYPES if config.residue_types else 0
    node_in = (config.node_in[0] + extra, config.node_in[1])
    nodes, edges = config.node_hidden, config.edge_hidden
    return (
        nn.Sequential(TupleLayerNorm(node_in), GVP(node_in, nodes, activations=LINEAR)),
        nn.Sequential(TupleLayerNorm(config.edge_in), GVP(config.edge_in, edges, activations=LINEAR)),
        nn.ModuleList(GVPConvLayer(nodes, edges, dropout=config.dropout) for _ in range(config.num_layers)),
        nn.Sequential(TupleLayerNorm(nodes), GVP(nodes, (nodes[0], 0))),
    )


def _attention_score(config: ModelConfig) -> nn.Module | None:
    if config.pooling != "attention":
        return None
    width = config.node_hidden[0]
    return nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1))


def _classifier(widths: tuple[int, int, int, int], dropout: float) -> nn.Module:
    a, b, c, classes = widths
    return nn.Sequential(
        nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(b, c), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(c, classes),
    )  # fmt: skip
