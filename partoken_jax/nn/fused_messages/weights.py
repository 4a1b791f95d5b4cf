"""The three message GVPs cut into what belongs to residues, to edges, and to the sum over neighbours.

The same two rewritings as in `message_passing_dense`: the first GVP is linear before its norm, so senders and
receivers are projected once per residue; the last one commutes with the sum over neighbours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from partoken_jax.nn.fused_messages.layout import ROWS, padded, rounded_up
from partoken_jax.nn.fused_messages.products import Precision
from partoken_jax.nn.gvp import GVP, Features
from partoken_jax.nn.linear import affine, kernel


class MessageWeights(NamedTuple):
    """The weights of the three GVPs that belong to edges, float32 [out, in], named as in `GVP`; `wn` is the
    part of W_s that reads norms."""

    edge: jax.Array
    """[F, E]: from an edge's features to s' and vh of the first GVP."""
    wn1: jax.Array
    """[S, H]"""
    wv1: jax.Array
    """[C, H]"""
    ws2: jax.Array
    """[S, S]"""
    b2: jax.Array
    """[S, 1]"""
    wh2: jax.Array
    """[C, C]"""
    wn2: jax.Array
    """[S, C]"""
    wv2: jax.Array
    """[C, C]"""
    wh3: jax.Array
    """[C, C]: what is left of the last GVP, whose other weights follow the sum over neighbours."""


class LaneWeights(NamedTuple):
    """The same as few matrices, float32 [out, in], by which all features of edges in columns are multiplied
    at once: those for vectors act on x, y and z side by side, because a matrix unit of 128 × 128 takes as
    long for a small matrix as for a large one."""

    edge: jax.Array
    """[3 H, E]: from an edge's features to vh of the first GVP."""
    s1: jax.Array
    """[S, E + H]: from an edge's features and norms to its s'."""
    v1: jax.Array
    """[3 C, 3 H]"""
    s2: jax.Array
    """[S, S + C]: from scalars and norms."""
    b2: jax.Array
    """[S, 1]"""
    h2: jax.Array
    """[3 C, 3 C], as the next two."""
    v2: jax.Array
    h3: jax.Array

    @property
    def widths(self) -> "Widths":
        """S, H and C."""
        return Widths(self.b2.shape[0], self.edge.shape[0] // 3, self.h2.shape[0] // 3)


class Widths(NamedTuple):
    """S, H and C: room for scalars and hidden vectors of the first GVP, and for vectors of the others."""

    scalars: int
    hidden: int
    vectors: int


def widths(gvps: Sequence[GVP]) -> Widths:
    """Those of the forms for TPUs."""
    first = gvps[0]
    exact = affine(first.ws)[1].shape[0], first.hidden, first.vo
    return Widths(*[rounded_up(width, ROWS) for width in exact])


def precision_of(gvps: Sequence[GVP]) -> Precision:
    """That of the model: bfloat16 by the dtype of its layers, the others by how jax is set where it runs."""
    if kernel(gvps[0].ws).dtype == jnp.bfloat16:
        return "bfloat16"
    in_use = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return "tensorfloat32" if in_use == "tensorfloat32" else "float32"


def message_weights(gvps: Sequence[GVP], nodes: Features, wide: Widths) -> MessageWeights:
    """The weights that belong to edges, of GVPs over the features of `nodes` (s [N, D], v [N, C, 3])."""
    first, second, last = gvps
    s, h, c = wide
    (ws1, _), (ws2, b2), wh1 = affine(first.ws), affine(second.ws), kernel(_there(first.wh))
    own, ns, nv = ws1.shape[0] - first.hidden, nodes[0].shape[1], nodes[1].shape[1]
    edge_s, edge_v = ws1[ns : own - ns], wh1[nv : wh1.shape[0] - nv]
    scalars, vectors = edge_s.shape[0], edge_v.shape[0]
    columns = rounded_up(scalars + 3 * vectors, ROWS)
    parts = [padded(edge_s.T, s, columns)]
    for i in range(3):
        before = scalars + i * vectors
        after = columns - before - vectors
        parts.append(jnp.pad(edge_v.T, ((0, h - first.hidden), (before, after))))
    out = ws2.shape[1]
    weights = MessageWeights(
        edge=jnp.concatenate(parts),
        wn1=padded(ws1[own:].T, s, h),
        wv1=padded(kernel(_there(first.wv)).T, c, h),
        ws2=padded(ws2[:out].T, s, s),
        b2=padded(b2[:, None], s, 1),
        wh2=padded(kernel(_there(second.wh)).T, c, c),
        wn2=padded(ws2[out:].T, s, c),
        wv2=padded(kernel(_there(second.wv)).T, c, c),
        wh3=padded(kernel(_there(last.wh)).T, c, c),
    )
    return jax.tree.map(lambda x: x.astype(jnp.float32), weights)


def lane_weights(gvps: Sequence[GVP], nodes: Features, wide: Widths) -> LaneWeights:
    """`message_weights` as edges in columns are multiplied by them."""
    weights, rows = message_weights(gvps, nodes, wide), wide.scalars
    return LaneWeights(
        edge=weights.edge[rows:],
        s1=jnp.concatenate([weights.edge[:rows], weights.wn1], axis=1),
        v1=_of_each_coordinate(weights.wv1),
        s2=jnp.concatenate([weights.ws2, weights.wn2], axis=1),
        b2=weights.b2,
        h2=_of_each_coordinate(weights.wh2),
        v2=_of_each_coordinate(weights.wv2),
        h3=_of_each_coordinate(weights.wh3),
    )


def _of_each_coordinate(weight: jax.Array) -> jax.Array:
    """[3 o, 3 i] with `weight` [o, i] on its diagonal."""
    return jnp.kron(jnp.eye(3, dtype=weight.dtype), weight)


def node_parts(
    gvps: Sequence[GVP], nodes: Features, columns: int, wide: Widths
) -> tuple[jax.Array, jax.Array]:
    """Sender and receiver parts of s' and vh of the first GVP, each float32 [F, n].

    From s [N, D] and v [N, C, 3], for n = `columns`; the bias is in the receiver part.
    """
    (s, v), gvp = nodes, gvps[0]
    rows, hidden, _ = wide
    (ws, bias), wh = affine(gvp.ws), kernel(_there(gvp.wh))
    own, ns, nv = ws.shape[0] - gvp.hidden, s.shape[1], v.shape[1]

    def part(ws: jax.Array, wh: jax.Array, bias: jax.Array | float) -> jax.Array:
        scalars = _product("do,nd->on", ws, s) + bias
        vectors = padded(_product("ch,nci->ihn", wh, v), 3, hidden, columns)
        return jnp.concatenate([padded(scalars, rows, columns), vectors.reshape(3 * hidden, columns)])

    sender = part(ws[:ns], wh[:nv], 0.0)
    return sender, part(ws[own - ns : own], wh[wh.shape[0] - nv :], bias.astype(jnp.float32)[:, None])


def tail(gvps: Sequence[GVP], summed: jax.Array, total: jax.Array, wide: Widths) -> Features:
    """What the last GVP does after the sum over neighbours: (s [N, D'], v [N, C', 3]).

    `summed`: float32 [S + 4 C, n], scalars, norms and vectors; `total`: float32 [N], the sum of the weights.
    """
    last = gvps[-1]
    rows, _, c = wide
    ws, bias = affine(last.ws)
    norms, nodes = last.hidden, total.shape[0]
    summed = summed[:, :nodes]
    scalars = jnp.concatenate([summed[: ws.shape[0] - norms], summed[rows : rows + norms]])
    vectors = summed[rows + c :].reshape(3, c, nodes)[:, :norms]
    s = _product("do,dn->no", ws, scalars) + total[:, None] * bias.astype(jnp.float32)
    return s, _product("hc,ihn->nci", kernel(_there(last.wv)), vectors)


def _product(axes: str, weight: jax.Array, x: jax.Array) -> jax.Array:
    """A product in the dtype of the weight, summed in float32."""
    return jnp.einsum(axes, weight, x.astype(weight.dtype), preferred_element_type=jnp.float32)


def _there(layer: nnx.Linear | None) -> nnx.Linear:
    """The layer, which a GVP with vectors has."""
    assert layer is not None
    return layer
