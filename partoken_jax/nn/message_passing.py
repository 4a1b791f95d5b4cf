"""GVP message passing over a graph, in its plain form, and the layer around it.

The plain form works on any list of edges with segment operations; over a table of neighbours the same conv
takes the fast form of `message_passing_dense`, or on TPUs that of `message_passing_blocks` or
`fused_messages`. All have the same parameters and give the same numbers.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from partoken_jax.graphs.types import HiddenGraph, HiddenNodes
from partoken_jax.nn.dropout import tuple_dropout
from partoken_jax.nn.fused_messages.layout import LaneEdges
from partoken_jax.nn.gather import ReverseNeighbours
from partoken_jax.nn.gvp import GVP, Dims, Features
from partoken_jax.nn.message_passing_blocks import BlockEdges, block_messages
from partoken_jax.nn.message_passing_dense import aggregated_messages
from partoken_jax.nn.noise import Noise
from partoken_jax.nn.norms import TupleLayerNorm


class GVPConv(nnx.Module):
    """Message for edge j→i: GVPs over [s_j, e_ij, s_i], [V_j, E_ij, V_i]; mean or sum over incoming edges."""

    def __init__(
        self,
        dims_in: Dims,
        dims_out: Dims,
        edge_dims: Dims,
        *,
        num_gvps: int = 3,
        aggregate: str = "mean",
        vector_gate: bool = False,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """A conv with `num_gvps` message GVPs, of which all but the last are activated.

        The published models have 3 of them, take the mean and have no `vector_gate`; the original's layer
        offers the other choices, and its recorded numbers (golden case 1: `conv_n1`, `conv_add_gate`) hold
        them.

        `aggregate`: "mean" or "sum", in float32 whatever the `dtype` of the messages.
        """
        if aggregate not in ("mean", "sum"):
            raise ValueError(f"aggregate is {aggregate!r}, but must be 'mean' or 'sum'")
        first = (2 * dims_in[0] + edge_dims[0], 2 * dims_in[1] + edge_dims[1])
        widths = [first] + [dims_out] * num_gvps
        self.aggregate = aggregate
        self.message = nnx.List(
            [
                GVP(
                    a,
                    b,
                    activations=(None, None) if i == num_gvps - 1 else (jax.nn.relu, jax.nn.sigmoid),
                    vector_gate=vector_gate,
                    dtype=dtype,
                    rngs=rngs,
                )
                for i, (a, b) in enumerate(itertools.pairwise(widths))
            ]
        )

    def __call__(
        self,
        graph: HiddenGraph,
        *,
        chunk: int | None = None,
        reverse: ReverseNeighbours | None = None,
        lanes: LaneEdges | BlockEdges | None = None,
    ) -> Features:
        """The messages that arrive at every node, (s [N, D'], v [N, C', 3]); 0 for a node without edges.

        A table of neighbours takes the fast form, for which `chunk` and `reverse` are (see
        `message_passing_dense.aggregated_messages`); a list of edges takes the plain form. With `lanes`, the
        edges in columns, a conv as the published models have it takes a form for TPUs, which knows the mean
        of three message GVPs without gates of scalars.

        REFERENCE.md section 3, message and mean.
        """
        if isinstance(lanes, BlockEdges):
            return block_messages(self.message, graph.nodes, lanes)
        if lanes is not None:
            # Here, because a program without the kernels need not wait for Pallas.
            from partoken_jax.nn.fused_messages.messages import fused_messages

            return fused_messages(self.message, graph.nodes, lanes)
        mean = self.aggregate == "mean"
        if graph.receivers is None:
            return aggregated_messages(self.message, graph, mean=mean, chunk=chunk, reverse=reverse)
        (s, v), edges = graph.nodes, graph.edges
        senders, receivers, num_nodes = graph.senders, graph.receivers, s.shape[0]
        message_s = jnp.concatenate([s[senders], edges.scalars, s[receivers]], axis=-1)
        message_v = jnp.concatenate([v[senders], edges.vectors, v[receivers]], axis=-2)
        for gvp in self.message:
            message_s, message_v = gvp(message_s, message_v)
        weight = edges.mask.astype(jnp.float32)
        if mean:
            count = jax.ops.segment_sum(weight, receivers, num_nodes)
            weight = weight / jnp.maximum(count, 1.0)[receivers]
        out_s = jax.ops.segment_sum(message_s * weight[:, None], receivers, num_nodes)
        out_v = jax.ops.segment_sum(message_v * weight[:, None, None], receivers, num_nodes)
        return out_s, out_v


class GVPConvLayer(nnx.Module):
    """x ← norm0(x + drop(conv)); x ← norm1(x + drop(FF(x))), FF = 2 GVPs of width (4·ns, 2·nv)."""

    def __init__(
        self,
        node_dims: Dims,
        edge_dims: Dims,
        *,
        dropout: float = 0.1,
        vector_gate: bool = False,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        """`vector_gate`: no published model has it, but golden case 1 (`layer_gate`) holds a layer with it.
        `dtype`: of products, by default that of the inputs; norms and sums are float32."""
        wide = (4 * node_dims[0], 2 * node_dims[1])
        self.rate = dropout
        self.conv = GVPConv(
            node_dims,
            node_dims,
            edge_dims,
            vector_gate=vector_gate,
            dtype=dtype,
            rngs=rngs,
        )
        self.norms = nnx.List([TupleLayerNorm(node_dims, rngs=rngs) for _ in range(2)])
        self.feed_forward = nnx.List(
            [
                GVP(node_dims, wide, vector_gate=vector_gate, dtype=dtype, rngs=rngs),
                GVP(
                    wide,
                    node_dims,
                    activations=(None, None),
                    vector_gate=vector_gate,
                    dtype=dtype,
                    rngs=rngs,
                ),
            ]
        )

    def __call__(
        self,
        graph: HiddenGraph,
        *,
        noise: Noise | None = None,
        chunk: int | None = None,
        reverse: ReverseNeighbours | None = None,
        lanes: LaneEdges | BlockEdges | None = None,
    ) -> HiddenNodes:
        """The updated nodes. Dropout acts only when noise is given; the others as in `GVPConv`.

        REFERENCE.md section 3, layer.
        """
        first, second = (None, None) if noise is None else (noise.fold_in(0), noise.fold_in(1))
        with jax.named_scope("conv"):
            message = self.conv(graph, chunk=chunk, reverse=reverse, lanes=lanes)
        with jax.named_scope("residual_norm"):
            x = _residual(self.norms[0], graph.nodes, tuple_dropout(*message, self.rate, first))
        with jax.named_scope("feed_forward"):
            update: Features = x
            for gvp in self.feed_forward:
                update = gvp(*update)
        with jax.named_scope("residual_norm"):
            return _residual(self.norms[1], x, tuple_dropout(*update, self.rate, second))


def _residual(norm: TupleLayerNorm, x: HiddenNodes, update: Features) -> HiddenNodes:
    return HiddenNodes(*norm(x.scalars + update[0], x.vectors + update[1]))
