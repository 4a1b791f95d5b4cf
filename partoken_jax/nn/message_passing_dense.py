"""The messages of a conv over a table of neighbours: the fast form of `message_passing.GVPConv`.

Two exact rewritings make it fast: at the published widths 22.1 k instead of 57.6 k multiply-adds per edge and
layer.

Split: the first message GVP is linear in its three inputs before its norm, so the sender and receiver parts
are projected once per node and gathered. Tail: without an activation the last message GVP commutes with the
sum over neighbours, so its W_s, b and W_v run once per node.

Legend: N nodes, K neighbours, R receivers (all nodes, or those of a chunk), E = R K edges, D scalars,
C vectors.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from partoken_jax.graphs.types import HiddenGraph
from partoken_jax.nn.gather import ReverseNeighbours, gather_senders
from partoken_jax.nn.gvp import GVP, Features
from partoken_jax.nn.linear import affine, apply, kernel, product
from partoken_jax.nn.norms import vector_norm


def aggregated_messages(
    gvps: Sequence[GVP],
    graph: HiddenGraph,
    *,
    mean: bool = True,
    chunk: int | None = None,
    reverse: ReverseNeighbours | None = None,
) -> Features:
    """Σ or mean over each node's neighbours of the messages that `gvps` compute.

    Args:
      gvps: the message GVPs over [s_j, e_ij, s_i] and [V_j, E_ij, V_i].
      graph: a table of neighbours.
      mean: the mean instead of the sum; 0 for a node without edges.
      chunk: the messages of so many receivers at a time are computed, and computed again in the backward
        pass: what belongs to an edge never exists for all edges at once and stays in the cache.
      reverse: the senders' gradient is read through it instead of scattered (not in chunks).

    Returns:
      (s [N, D'], v [N, C', 3]).
    """
    (s, v), edges, neighbours = graph.nodes, graph.edges, graph.senders
    weight = edges.mask.astype(jnp.float32)
    if mean:
        weight = weight / jnp.maximum(jnp.sum(weight, axis=1), 1.0)[:, None]
    first, last = gvps[0], gvps[-1]
    has_tail = len(gvps) > 1 and last.wg is None and last.wh is not None
    sender, receiver = _project_nodes(first, s, jnp.swapaxes(v, -1, -2))
    rows = _Receivers(
        *receiver,
        edge_s=edges.scalars,
        edge_v=jnp.swapaxes(edges.vectors, -1, -2),
        neighbours=neighbours,
        weight=weight,
    )

    flat = chunk is not None  # a CPU's loops are faster the fewer axes; elsewhere it would be a copy

    def summed(row: _Receivers) -> Features:
        """Σ_k weight_k of what the tail needs, for R receivers."""
        sent = _gather(sender, row.neighbours, reverse)
        message_s, message_v = first.activate(*_first_of_edges(first, sent, row, flat=flat))
        for gvp in gvps[1 : -1 if has_tail else None]:
            message_s, message_v = gvp.columns(message_s, message_v)
        if has_tail:
            message_v = apply(last.wh, message_v)  # type: ignore[arg-type]
            message_s = jnp.concatenate([message_s, vector_norm(message_v, axis=-2)], axis=-1)
        return _neighbour_sum(row.weight, message_s, flat), _neighbour_sum(row.weight, message_v, flat)

    out_s, out_v = summed(rows) if chunk is None else _by_chunks(summed, rows, chunk)
    if has_tail:
        ws, bias = affine(last.ws)
        total = jnp.sum(weight, axis=1)  # 1 for a mean with edges, 0 without
        out_s = product(out_s, ws) + total[:, None] * bias
        out_v = apply(last.wv, out_v) if last.wv is not None else out_v[..., :0]
    return out_s, jnp.swapaxes(out_v, -1, -2)


class _Receivers(NamedTuple):
    """What the messages of R receivers read besides their senders."""

    s: jax.Array  # [R, so]: receiver part of s' and the bias
    vh: jax.Array  # [R, 3, hidden]: receiver part of vh
    edge_s: jax.Array  # [R, K, De]
    edge_v: jax.Array  # [R, K, 3, Ce]
    neighbours: jax.Array  # [R, K]
    weight: jax.Array  # [R, K]


def _by_chunks(function: Callable[[_Receivers], Features], rows: _Receivers, chunk: int) -> Features:
    """`function` of so many receivers at a time, and of those that remain, computed again in the backward
    pass.

    As `jax.lax.map` with `batch_size`, but `function` sees the receivers of a chunk at once and not, through
    vmap, one by one: only then do its products have two axes.
    """
    function = jax.checkpoint(function)
    num_rows = rows.neighbours.shape[0]
    whole = num_rows // chunk * chunk
    parts = []
    if whole:
        chunks = jax.tree.map(lambda x: x[:whole].reshape(whole // chunk, chunk, *x.shape[1:]), rows)
        of_chunks = jax.lax.map(function, chunks)
        parts.append(jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), of_chunks))
    if whole < num_rows:
        parts.append(function(jax.tree.map(lambda x: x[whole:], rows)))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def _project_nodes(gvp: GVP, s: jax.Array, v: jax.Array) -> tuple[Features, Features]:
    """Sender and receiver parts of the first GVP's s' [N, so] and vh [N, 3, hidden].

    From s [N, D] and v [N, 3, C]; the bias is in the receiver part.
    """
    ws, bias = affine(gvp.ws)
    ns, nv = s.shape[-1], v.shape[-1]
    norms = gvp.hidden
    sender_s = product(s, ws[:ns])
    receiver_s = product(s, ws[ws.shape[0] - norms - ns : ws.shape[0] - norms]) + bias
    if gvp.wh is None:
        none = jnp.zeros((s.shape[0], 3, 0), sender_s.dtype)
        return (sender_s, none), (receiver_s, none)
    wh = kernel(gvp.wh)
    return (sender_s, product(v, wh[:nv])), (receiver_s, product(v, wh[wh.shape[0] - nv :]))


def _gather(sender: Features, neighbours: jax.Array, reverse: ReverseNeighbours | None) -> Features:
    """The senders' parts [R, K, ...] of what nodes have [N, ...]."""
    if reverse is None:
        return jax.tree.map(lambda x: x[neighbours], sender)
    return jax.tree.map(lambda x: gather_senders(x, neighbours, reverse), sender)


def _first_of_edges(gvp: GVP, sent: Features, row: _Receivers, *, flat: bool) -> Features:
    """s' before activation [R, K, so] and vh [R, K, 3, hidden] of a GVP over [sender, edge, receiver], or
    `flat` [E, so] and [E, 3, hidden]. `sent` [R, K, ...] are the sender's parts."""
    edges = _flat if flat else lambda x: x
    ws, _ = affine(gvp.ws)
    es, ev = row.edge_s.shape[-1], row.edge_v.shape[-1]
    ns = (ws.shape[0] - es - gvp.hidden) // 2
    pre, edge_s, edge_ws = edges(sent[0] + row.s[:, None]), edges(row.edge_s), ws[ns : ns + es]
    if gvp.wh is None:
        pre = pre + product(edge_s, edge_ws)
        return pre, jnp.zeros((*pre.shape[:-1], 3, 0), pre.dtype)
    wh, norm_ws = kernel(gvp.wh), ws[ws.shape[0] - gvp.hidden :]
    nv = (wh.shape[0] - ev) // 2
    vh = edges(sent[1] + row.vh[:, None]) + product(edges(row.edge_v), wh[nv : nv + ev])
    norm = vector_norm(vh, axis=-2)
    return pre + _sum_of_products((edge_s, edge_ws), (norm, norm_ws)), vh


Factors = tuple[jax.Array, jax.Array]


def _sum_of_products(first: Factors, second: Factors) -> jax.Array:
    """x₁ W₁ + x₂ W₂ as one product: on a GPU an array [R, K, so] less is written and read."""
    (x1, w1), (x2, w2) = first, second
    return product(jnp.concatenate([x1, x2], axis=-1), jnp.concatenate([w1, w2]))


def _flat(x: jax.Array) -> jax.Array:
    """[R, K, ...] → [E, ...]."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _neighbour_sum(weight: jax.Array, x: jax.Array, flat: bool) -> jax.Array:
    """Σ_k weight[r, k] x[r, k, ...] [R, ...]; x flat or not, as in `_first_of_edges`."""
    if not flat:
        return jnp.sum(weight.reshape(*weight.shape, *(1,) * (x.ndim - 2)) * x, axis=1)
    channels = x.reshape(*weight.shape, math.prod(x.shape[1:]))
    return jnp.sum(weight[..., None] * channels, axis=1).reshape(weight.shape[0], *x.shape[1:])
