"""The messages of a conv layer by the kernels, with their gradient."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from partoken_jax.nn.fused_messages import backward, forward
from partoken_jax.nn.fused_messages.forward import How
from partoken_jax.nn.fused_messages.layout import LaneEdges
from partoken_jax.nn.fused_messages.weights import (
    LaneWeights,
    lane_weights,
    node_parts,
    precision_of,
    tail,
    widths,
)
from partoken_jax.nn.fused_messages.window import WINDOW
from partoken_jax.nn.gvp import GVP, Features


def fused_messages(
    gvps: Sequence[GVP], nodes: Features, edges: LaneEdges, *, interpret: bool = False, window: int = WINDOW
) -> Features:
    """The mean over each residue's neighbours of the messages that three GVPs compute.

    The same as `message_passing_dense.aggregated_messages` without gates of scalars. It runs on TPUs; under
    jit, scan and jax.checkpoint, but not under vmap. The gradient is the same on every run.

    Args:
      gvps: the three message GVPs over [s_j, e_ij, s_i] and [V_j, E_ij, V_i].
      nodes: s [N, D] and v [N, C, 3].
      edges: those of the table of neighbours, from `layout.lane_edges`.
      interpret: compute it as ordinary operations, on any platform: for tests.
      window: chunks of 128 residues that a kernel holds; the result is the same for any.

    Returns:
      (s [N, D'], v [N, C', 3]), float32.
    """
    wide = widths(gvps)
    table, received = node_parts(gvps, nodes, edges.sender.shape[1], wide)
    how = How(precision_of(gvps), interpret, window)
    summed = _summed(how, edges, table, received, lane_weights(gvps, nodes, wide))
    return tail(gvps, summed, jnp.sum(edges.weight, axis=0)[: nodes[0].shape[0]], wide)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(
    how: How, edges: LaneEdges, table: jax.Array, received: jax.Array, weights: LaneWeights
) -> jax.Array:
    return forward.summed_messages(how, edges, table, received, weights)


def _forward(how, *inputs):
    return _summed(how, *inputs), inputs


def _backward(how, inputs, gradient):
    edges, table, received, weights = inputs
    features, *others = backward.gradients(how, edges, table, received, weights, gradient)
    # None says that there is no gradient.
    return (LaneEdges(features, None, None, None, None), *others)  # type: ignore[arg-type]


_summed.defvjp(_forward, _backward)
