"""The two models, the one that pretrains their encoder, and the record that each returns.

All read a `FeaturisedGraph` (see `partoken_jax.graphs.featurise`) of B proteins and one padding graph;
outputs cover the B proteins. A table of neighbours, which is what this package packs, is read in the fast
form, unless `message_passing` is "general"; a list of edges is read in the general form whatever the setting.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from partoken_jax.config import ModelConfig
from partoken_jax.graphs.segments import first_node, graph_index, segment_sum
from partoken_jax.graphs.types import FeaturisedGraph
from partoken_jax.nn.attention import ClusterAttention
from partoken_jax.nn.codebook import codebook_use
from partoken_jax.nn.devices import Counts, shares, sum_over_devices
from partoken_jax.nn.encoder import GVPEncoder
from partoken_jax.nn.forms import Target, in_form
from partoken_jax.nn.fusion import GatedFusion
from partoken_jax.nn.linear import MLP
from partoken_jax.nn.noise import Noise, protein_noise, residue_noise
from partoken_jax.nn.partitioner import build_partitioner, seed_noise
from partoken_jax.nn.pooling import Pool
from partoken_jax.nn.presence import coverage_loss, log_absence, presence
from partoken_jax.nn.residual_codebook import build_codebook
from partoken_jax.nn.residue_types import NUM_TYPES, drawn_residues, types_to_tell, without_types

T = TypeVar("T")


def _in_set_precision(call: Callable[..., Any]) -> Callable[..., Any]:
    """Float32 products in the precision that the model is set to, never in the device's own choice."""

    @functools.wraps(call)
    def wrapped(self, *args, **kwargs):
        with jax.default_matmul_precision(matmul_precision(self.config)):
            return call(self, *args, **kwargs)

    return wrapped


def matmul_precision(config: ModelConfig) -> str:
    """What `jax.default_matmul_precision` calls the precision of float32 products."""
    return "tensorfloat32" if config.precision == "tensorfloat32" else "highest"


class GVPOutput(NamedTuple):
    """What `GVPClassifier` returns for B proteins of N residues."""

    logits: jax.Array
    """[B, C]"""
    node_features: jax.Array
    """[N, D], non-negative."""
    protein_features: jax.Array
    """[B, D]: proteins as the classifier reads them, the pooled residues."""


class ResidueOutput(NamedTuple):
    """What `ResidueModel` returns for N residues."""

    logits: jax.Array
    """[N, 20]"""
    targets: jax.Array
    """int32 [N]: the type to be told; -1 where there is none: it was seen, is unknown, or is padding."""


class AuxiliaryLosses(NamedTuple):
    """The three regularisers, unweighted scalars; 0 where the codebook is absent or bypassed."""

    vq: jax.Array
    """β mean((z - e)²): pulls clusters towards their code."""
    coverage: jax.Array
    """-mean over proteins of the probability that any code is present."""
    cardinality: jax.Array
    """Σ over rounds of the mean squared distance of the soft cluster size from its expected size."""


class ParTokenOutput(NamedTuple):
    """What `ParToken` returns for B proteins of N residues, S clusters, K codes, D channels, C classes."""

    logits: jax.Array
    """[B, C]"""
    cluster_of_residue: jax.Array
    """int32 [N]: cluster 0 … S-1 of each residue, -1 where it is in none."""
    seeds: jax.Array
    """int32 [B, S]: the residue, counted within its protein, that each cluster grew from; -1 if none."""
    cluster_features: jax.Array
    """[B, S, D]: mean of the members' features, 0 where there is no cluster."""
    cluster_mask: jax.Array
    """bool [B, S]: the cluster exists."""
    cluster_sizes: jax.Array
    """int32 [B, S]: residues per cluster."""
    codes: jax.Array
    """int32 [B, S]: token of each cluster; -1 where there is none or the codebook is bypassed. Of residual VQ
    it is the code of the first codebook, and so are `presence`, `usage`, `perplexity` and `entropy_loss`."""
    squared_errors: jax.Array
    """[B, S]: squared distance of a cluster's features from what its codes stand for; 0 where it has none."""
    importances: jax.Array
    """[B, S]: attention weight of each cluster; a protein's weights sum to 1."""
    presence: jax.Array
    """[B, K]: probability that the protein carries the code; zeros when bypassed."""
    usage: jax.Array
    """[K]: share of each code in the codebook's moving counts."""
    perplexity: jax.Array
    """[]: effective number of codes in use."""
    entropy_loss: jax.Array
    """[]: Σ p (log p - log(1/K + ε)), p = usage. Reported, not trained on."""
    node_features: jax.Array
    """[N, D]: residues, non-negative."""
    protein_features: jax.Array
    """[B, D]: proteins as the classifier reads them, the pooled residues fused with the clusters."""
    losses: AuxiliaryLosses
    """With several devices, this one's part of them."""
    shares: Counts | None
    """This device's share of what the means over the batch count; None where there is one device."""


class GVPClassifier(nnx.Module):
    """The GVP-GNN baseline: encoder, pooling, classifier D → 2D → D → C."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.node_hidden[0]
        self.config = config
        self.encoder = _encoder(config, rngs)
        self.pool = Pool(config.pooling, width, norm=config.norm_pooled, rngs=rngs)
        self.classifier = MLP(
            (width, 2 * width, width, config.num_classes), dropout=config.dropout, rngs=rngs
        )

    @_in_set_precision
    def __call__(
        self, graph: FeaturisedGraph, *, key: jax.Array | None = None, target: Target | None = None
    ) -> GVPOutput:
        """Classifies a batch. A key turns on dropout; without one the result is deterministic. `target`: what
        the program is made for, by default the default device.

        Raises TypeError for a graph that is not featurised, ValueError for one of no known layout.
        """
        graph, form = in_form(graph, self.config, target)
        keys = _split(key, 2)
        num_graphs = graph.n_node.shape[0]
        with jax.named_scope("encoder"):
            x = self.encoder(graph, key=keys[0], form=form)
        with jax.named_scope("pooling"):
            pooled = self.pool(x, graph.nodes.mask, graph_index(graph), num_graphs)[:-1]
        with jax.named_scope("classifier"):
            return GVPOutput(self.classifier(pooled, noise=_noise(keys[1], graph)), x, pooled)


class ParToken(nnx.Module):
    """Encoder → partitioner → codebook → attention over clusters → gate → classifier D → 4D → 2D → C."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.node_hidden[0]
        self.config = config
        self.encoder = _encoder(config, rngs)
        self.pool = Pool(config.pooling, width, norm=config.norm_pooled, rngs=rngs)
        self.partitioner = build_partitioner(width, config.partitioner, rngs=rngs)
        self.codebook = build_codebook(width, config.codebook, rngs=rngs) if config.codebook.enabled else None
        self.attention = ClusterAttention(width, config.attention_heads, dropout=config.dropout, rngs=rngs)
        self.fusion = GatedFusion(width, dropout=config.dropout, rngs=rngs)
        self.classifier = MLP(
            (width, 4 * width, 2 * width, config.num_classes), dropout=config.dropout, rngs=rngs
        )

    @_in_set_precision
    def __call__(
        self,
        graph: FeaturisedGraph,
        *,
        key: jax.Array | None = None,
        temperature: jax.Array | float = 1.0,
        uniform: jax.Array | None = None,
        update_codebook: bool | jax.Array = False,
        bypass_codebook: bool = False,
        axis_name: str | None = None,
        target: Target | None = None,
    ) -> ParTokenOutput:
        """Classifies a batch.

        Args:
          graph: featurised batch.
          key: turns on dropout and, unless `uniform` is given, Gumbel sampling of the seeds (training).
            Without it and without `uniform` the result is deterministic.
          temperature: τ of seeds and expansion.
          uniform: [S, N] uniform numbers for the sampling of seeds (`partoken_jax.nn.partitioner.seed_noise`
            makes some that do not depend on the batch).
          update_codebook: move the codebook's averages after quantising; may be traced, so that freezing
            needs no other program.
          bypass_codebook: leave the codebook out (stage 0).
          axis_name: of the devices that share the batch, inside `jax.shard_map`. The codebook then moves by
            the clusters of all of them, and `losses` are this device's part of the means over all.
          target: what the program is made for, by default the default device.

        Raises TypeError for a graph that is not featurised, ValueError for one of no known layout.
        """
        graph, form = in_form(graph, self.config, target)
        keys = _split(key, 6)
        index = graph_index(graph)
        mask = graph.nodes.mask
        num_graphs = graph.n_node.shape[0]
        if uniform is None and key is not None:
            uniform = seed_noise(keys[1], graph, self.config.partitioner.max_clusters)

        with jax.named_scope("encoder"):
            x = self.encoder(graph, key=keys[0], form=form)
        with jax.named_scope("pooling"):
            protein = self.pool(x, mask, index, num_graphs)[:-1]
        with jax.named_scope("partitioner"):
            partition = self.partitioner(
                x, mask, graph, temperature=temperature, uniform=uniform, key=keys[2]
            )
        clusters, cluster_mask = partition.features[:-1], partition.mask[:-1]

        with jax.named_scope("codebook"):
            tokens = self._tokens(clusters, cluster_mask, graph, update_codebook, bypass_codebook, axis_name)
        cardinality = partition.cardinality
        if tokens.shares is not None:
            cardinality = jnp.sum(partition.cardinality_terms * tokens.shares.of_round)
        quantised = self.config.codebook.classify_quantised
        with jax.named_scope("attention"):
            attended = self.attention(
                protein,
                tokens.features if quantised else clusters,
                cluster_mask,
                noise=_noise(keys[3], graph),
            )
        with jax.named_scope("fusion"):
            fused, _ = self.fusion(protein, attended.pooled, noise=_noise(keys[4], graph))
        with jax.named_scope("classifier"):
            logits = self.classifier(fused, noise=_noise(keys[5], graph))

        first = first_node(graph)[:-1, None]
        seeds = partition.rounds.seed.T[:-1]
        one_hot = jax.nn.one_hot(partition.cluster_of_residue, clusters.shape[1], dtype=jnp.int32)
        return ParTokenOutput(
            logits=logits,
            cluster_of_residue=partition.cluster_of_residue,
            seeds=jnp.where(seeds >= 0, seeds - first, -1),
            cluster_features=clusters,
            cluster_mask=cluster_mask,
            cluster_sizes=segment_sum(one_hot, index, num_graphs)[:-1],
            codes=tokens.codes,
            squared_errors=tokens.squared_errors,
            importances=attended.importance,
            presence=tokens.presence,
            usage=tokens.usage,
            perplexity=tokens.perplexity,
            entropy_loss=tokens.entropy_loss,
            node_features=x,
            protein_features=fused,
            losses=AuxiliaryLosses(tokens.vq, tokens.coverage, cardinality),
            shares=tokens.shares,
        )

    def _tokens(self, clusters, mask, graph, update, bypass: bool, axis_name: str | None) -> "_Tokens":
        zero = jnp.float32(0.0)
        if self.codebook is None or bypass:
            _, part = _over_devices((), mask, graph, axis_name)
            num_codes = self.config.codebook.size
            return _Tokens(
                clusters, jnp.full(mask.shape, -1, jnp.int32), jnp.zeros(mask.shape), zero, zero,
                jnp.zeros((mask.shape[0], num_codes)), jnp.zeros(num_codes), zero, zero, part,
            )  # fmt: skip
        out = self.codebook.quantise(clusters, mask)
        statistics: Any = self.codebook.statistics(clusters, out)
        statistics, part = _over_devices(statistics, mask, graph, axis_name)
        self.codebook.move(statistics, update)
        # Everything below reads the codebook after its update, as published.
        config = self.config.codebook
        use = codebook_use(self.codebook.counts[...], config.epsilon)
        absent = log_absence(self.codebook.embeddings[...], clusters, mask, config.presence_temperature)
        vq, coverage = out.loss, coverage_loss(absent, graph.globals.mask[:-1])
        if part is not None:
            vq, coverage = vq * part.clusters, coverage * part.proteins
        return _Tokens(
            out.features, out.codes, out.squared_errors, vq, coverage,
            presence(absent), use.usage, use.perplexity, use.entropy_loss, part,
        )  # fmt: skip


class _Tokens(NamedTuple):
    features: jax.Array
    codes: jax.Array
    squared_errors: jax.Array
    vq: jax.Array
    coverage: jax.Array
    presence: jax.Array
    usage: jax.Array
    perplexity: jax.Array
    entropy_loss: jax.Array
    shares: Counts | None


def _over_devices(
    statistics: T, mask: jax.Array, graph: FeaturisedGraph, axis_name: str | None
) -> tuple[T, Counts | None]:
    """The statistics of all devices, and this one's share of what is counted: one all-reduce for all that the
    forward pass has to know of the other devices."""
    if axis_name is None:
        return statistics, None
    proteins = graph.globals
    mine = Counts(
        labelled=jnp.sum(proteins.mask & (proteins.label >= 0)),
        proteins=jnp.sum(proteins.mask),
        clusters=jnp.sum(mask),
        of_round=jnp.sum(mask, axis=0),
    )
    statistics, of_all = sum_over_devices((statistics, mine), axis_name)
    return statistics, shares(mine, of_all)


class ResidueModel(nnx.Module):
    """The encoder of both models with a head that tells residue types, D → 2D → 20: pretraining."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.node_hidden[0]
        self.config = config
        self.encoder = _encoder(config, rngs)
        self.residue_head = MLP((width, 2 * width, NUM_TYPES), dropout=config.dropout, rngs=rngs)

    @_in_set_precision
    def __call__(
        self,
        graph: FeaturisedGraph,
        *,
        key: jax.Array | None = None,
        hidden: jax.Array | None = None,
        target: Target | None = None,
    ) -> ResidueOutput:
        """Tells the hidden residue types of a batch.

        Args:
          graph: featurised batch.
          key: turns on dropout and, unless `hidden` is given, draws the residues whose types are hidden as
            `config.pretraining.masked` says. Without it the result is deterministic.
          hidden: bool [N], the residues whose types are hidden; without it and without a key, all. A model
            that does not see types has to tell all of them, whatever is given.
          target: what the program is made for, by default the default device.

        Raises TypeError for a graph that is not featurised, ValueError for one of no known layout.
        """
        graph, form = in_form(graph, self.config, target)
        keys = _split(key, 3)
        if not self.config.residue_types or (hidden is None and key is None):
            hidden = jnp.ones(graph.nodes.mask.shape, bool)
        elif hidden is None:
            hidden = drawn_residues(residue_noise(keys[1], graph), self.config.pretraining.masked)
        targets = types_to_tell(graph.nodes, hidden)
        with jax.named_scope("encoder"):
            x = self.encoder(without_types(graph, hidden), key=keys[0], form=form)
        noise = None if key is None else residue_noise(keys[2], graph)
        with jax.named_scope("classifier"):
            return ResidueOutput(self.residue_head(x, noise=noise), targets)


def build_model(config: ModelConfig, *, rngs: nnx.Rngs) -> GVPClassifier | ParToken | ResidueModel:
    """The model that `config.kind` names, freshly initialised."""
    if config.kind == "residues":
        return ResidueModel(config, rngs=rngs)
    return (GVPClassifier if config.kind == "gvp" else ParToken)(config, rngs=rngs)


def _encoder(config: ModelConfig, rngs: nnx.Rngs) -> GVPEncoder:
    return GVPEncoder(
        config.node_in,
        config.edge_in,
        config.node_hidden,
        config.edge_hidden,
        num_layers=config.num_layers,
        dropout=config.dropout,
        residue_types=config.residue_types,
        output_activation=jax.nn.silu if config.output_activation == "silu" else jax.nn.relu,
        dtype=jnp.bfloat16 if config.precision == "bfloat16" else None,
        rngs=rngs,
    )


def _noise(key: jax.Array | None, graph: FeaturisedGraph) -> Noise | None:
    return None if key is None else protein_noise(key, graph)


def _split(key: jax.Array | None, num: int):
    return (None,) * num if key is None else jax.random.split(key, num)
