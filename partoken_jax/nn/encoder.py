"""The encoder: residue and edge features → node features, through GVP convolution layers."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from partoken_jax.config import ModelConfig
from partoken_jax.graphs.types import EdgeFeatures, FeaturisedGraph, HiddenGraph, HiddenNodes
from partoken_jax.nn.forms import Form, form_of
from partoken_jax.nn.fused_messages.layout import LaneEdges, lane_edges
from partoken_jax.nn.gather import reverse_neighbours
from partoken_jax.nn.gvp import GVP, Activation, Dims
from partoken_jax.nn.message_passing import GVPConvLayer
from partoken_jax.nn.message_passing_blocks import BlockEdges, block_edges
from partoken_jax.nn.noise import Noise, residue_noise
from partoken_jax.nn.norms import TupleLayerNorm

CHUNK = 64
"""Receivers whose messages are computed at a time. At K = 30 and the published widths an edge array of a
chunk has 0.8 MB (`python -m experiments.conv_forms` compares other sizes)."""
BLOCK, FEWEST_BLOCKS = 512, 16
"""Rows of a large batch come in whole blocks, of which there are so many that those added are few."""


class GVPEncoder(nnx.Module):
    """Residue and edge features → node features [N, D], non-negative where, as published, the last step is a
    ReLU."""

    def __init__(
        self,
        node_in: Dims,
        edge_in: Dims,
        node_hidden: Dims,
        edge_hidden: Dims,
        *,
        num_layers: int,
        dropout: float,
        residue_types: bool,
        output_activation: Activation = jax.nn.relu,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """`dtype`: of products, by default float32; the node features between layers, norms and sums are
        float32."""
        self.residue_embedding = (
            nnx.Embed(20, 20, embedding_init=nnx.initializers.normal(1.0), rngs=rngs)
            if residue_types
            else None
        )
        if residue_types:
            node_in = (node_in[0] + 20, node_in[1])
        self.node_norm = TupleLayerNorm(node_in, rngs=rngs)
        self.node_gvp = GVP(node_in, node_hidden, activations=(None, None), dtype=dtype, rngs=rngs)
        self.edge_norm = TupleLayerNorm(edge_in, rngs=rngs)
        self.edge_gvp = GVP(edge_in, edge_hidden, activations=(None, None), dtype=dtype, rngs=rngs)
        self.layers = nnx.List(
            [
                GVPConvLayer(node_hidden, edge_hidden, dropout=dropout, dtype=dtype, rngs=rngs)
                for _ in range(num_layers)
            ]
        )
        self.output_norm = TupleLayerNorm(node_hidden, rngs=rngs)
        self.output_gvp = GVP(
            node_hidden,
            (node_hidden[0], 0),
            activations=(output_activation, jax.nn.sigmoid),
            dtype=dtype,
            rngs=rngs,
        )

    def embed(self, graph: FeaturisedGraph) -> HiddenGraph:
        """Hidden nodes and edges of a featurised graph, before the first layer.

        GVP(LayerNorm(features)) without activations; residue types join the node scalars as an embedding.

        REFERENCE.md section 3, encoders.
        """
        nodes, edges = graph.nodes, graph.edges
        scalars = nodes.scalars
        if self.residue_embedding is not None:
            # A residue of unknown type has no row in the table; its embedding is zero.
            known = nodes.residue_type < self.residue_embedding.num_embeddings
            embedding = self.residue_embedding(jnp.where(known, nodes.residue_type, 0))
            scalars = jnp.concatenate([scalars, jnp.where(known[:, None], embedding, 0.0)], axis=-1)
        hidden = jax.tree.map(_float32, self.node_gvp(*self.node_norm(scalars, nodes.vectors)))
        edge_s, edge_v = self.edge_gvp(*self.edge_norm(edges.scalars, edges.vectors))
        return HiddenGraph(
            nodes=HiddenNodes(*hidden),
            edges=EdgeFeatures(edge_s, edge_v, edges.mask),
            globals=graph.globals,
            senders=graph.senders,
            receivers=graph.receivers,
            n_node=graph.n_node,
            n_edge=graph.n_edge,
        )

    def __call__(
        self, graph: FeaturisedGraph, *, key: jax.Array | None = None, form: Form | None = None
    ) -> jax.Array:
        """Node features [N, D] of a featurised graph: relu(GVP(LayerNorm(nodes after the last layer))).
        `form`: how the layers are computed; by default as suits the default device.

        REFERENCE.md section 3, output projection.
        """
        form = form or form_of(ModelConfig(), None, graph)
        with jax.named_scope("embedding"):
            hidden = self.embed(graph)
        with jax.named_scope("layers"):
            nodes, _ = self.run_layers(hidden, key, form)
        with jax.named_scope("output_projection"):
            return _float32(self.output_gvp(*self.output_norm(*nodes))[0])

    def run_layers(
        self, graph: HiddenGraph, key: jax.Array | None, form: Form, *, every: bool = False
    ) -> tuple[HiddenNodes, HiddenNodes | None]:
        """The nodes after the last layer, and with `every` those after each one, stacked.

        All layers are one scan over stacked weights: compiled once, and with rematerialisation the backward
        pass keeps only the node features between layers. Where the dense form keeps everything, the scan is
        unrolled: what a layer leaves to the backward pass is then read where it is, not copied together.
        """
        splits = [nnx.split(layer) for layer in self.layers]
        graphdef = splits[0][0]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[state for _, state in splits])
        noise = None if key is None else residue_noise(key, graph)
        numbers = jnp.arange(len(self.layers))
        table = graph.receivers is None
        num_nodes = graph.nodes.scalars.shape[0]
        dense = table and form.message_passing == "dense"
        if dense and form.rematerialise != "chunk":
            graph, noise = whole_blocks(graph, noise)
        chunk = reverse = None
        lanes: LaneEdges | BlockEdges | None = None
        if table and form.message_passing == "fused":
            lanes = lane_edges(graph.edges, graph.senders)
        elif table and form.message_passing == "blocks":
            lanes = block_edges(graph.edges, graph.senders)
        elif table and form.rematerialise == "chunk":
            chunk = form.chunk or chunk_size(num_nodes)
        elif table and form.sender_gradient == "gather":
            reverse = reverse_neighbours(graph.senders, graph.edges.mask)

        def body(nodes: HiddenNodes, weights_and_number):
            weights, number = weights_and_number
            layer = nnx.merge(graphdef, weights)
            here = graph._replace(nodes=nodes)
            layer_noise = None if noise is None else noise.fold_in(number)
            out = layer(here, noise=layer_noise, chunk=chunk, reverse=reverse, lanes=lanes)
            return out, out if every else None

        step = jax.checkpoint(body) if form.rematerialise == "layer" else body
        unroll = dense and form.rematerialise == "none"
        last, layers = jax.lax.scan(step, graph.nodes, (stacked, numbers), unroll=unroll)
        return (
            jax.tree.map(lambda x: x[:num_nodes], last),
            jax.tree.map(lambda x: x[:, :num_nodes], layers),
        )


def whole_blocks(graph: HiddenGraph, noise: Noise | None) -> tuple[HiddenGraph, Noise | None]:
    """A large batch and its noise with rows up to the next multiple of `BLOCK`: residues of no protein, with
    masked edges. Sums over all edges, as of the gradients of weights, are cut into up to `BLOCK` parts on a
    GPU; where they do not fit, it copies every array that it sums over."""
    rows = graph.nodes.scalars.shape[0]
    if rows < FEWEST_BLOCKS * BLOCK:
        return graph, noise

    def padded(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, -rows % BLOCK), *((0, 0),) * (x.ndim - 1)))

    nodes, edges = jax.tree.map(padded, (graph.nodes, graph.edges))
    if noise is not None:
        noise = noise._replace(protein=padded(noise.protein), residue=padded(noise.residue))
    return graph._replace(nodes=nodes, edges=edges, senders=padded(graph.senders)), noise


def _float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


def chunk_size(num_nodes: int) -> int:
    """Receivers per chunk: `CHUNK`, or half of it where that leaves no remainder to compile apart."""
    return CHUNK // 2 if num_nodes % CHUNK == CHUNK // 2 else CHUNK
