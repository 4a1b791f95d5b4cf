"""The messages of a conv layer by the kernels for GPUs, with their gradient."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from partoken_jax.nn.fused_messages.gpu import backward, forward
from partoken_jax.nn.fused_messages.gpu.forward import How
from partoken_jax.nn.fused_messages.gpu.layout import Blocks, SlotEdges, blocks, node_tables, widths
from partoken_jax.nn.fused_messages.gpu.slot import plgpu
from partoken_jax.nn.fused_messages.layout import padded
from partoken_jax.nn.fused_messages.products import PARTS
from partoken_jax.nn.fused_messages.weights import message_weights, precision_of, tail
from partoken_jax.nn.gather import senders_gradient
from partoken_jax.nn.gvp import GVP, Features


def gpu_messages(
    gvps: Sequence[GVP], nodes: Features, edges: SlotEdges, *, interpret: bool = False
) -> Features:
    """The mean over each residue's neighbours of the messages that three GVPs compute, on a Hopper GPU.

    Experimental: compiled for an H100 and interpreted, never run on a device. The same as `fused_messages`,
    in the precisions "tensorfloat32" and "bfloat16"; float32 is interpreted only.

    Args:
      gvps: the three message GVPs over [s_j, e_ij, s_i] and [V_j, E_ij, V_i].
      nodes: s [N, D] and v [N, C, 3].
      edges: those of the table of neighbours, from `layout.slot_edges`.
      interpret: compute it as ordinary operations, on any platform: for tests.

    Returns:
      (s [N, D'], v [N, C', 3]), float32.

    Raises RuntimeError where jax is too old, ValueError in float32.
    """
    if said := too_old():
        raise RuntimeError(said)
    precision, wide = precision_of(gvps), widths(gvps)
    if precision == "float32" and not interpret:
        raise ValueError(
            "the kernels for GPUs do not compute in float32, for which shared memory has no room; set "
            'precision to "tensorfloat32" or "bfloat16", or use the dense form'
        )
    stored = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    table, received = node_tables(gvps, nodes, edges.sender.shape[1], stored)
    weights = blocks(gvps, message_weights(gvps, nodes, wide), nodes)
    summed = _summed(How(PARTS[precision], interpret), edges, table, received, weights)
    return tail(gvps, summed.T, jnp.sum(edges.weight, axis=0)[: nodes[0].shape[0]], wide)


def too_old() -> str | None:
    """One sentence where this jax has not what the kernels are written with."""
    if all(hasattr(plgpu, name) for name in ("store", "InterpretGPUParams")):
        return None
    return f"the kernels for GPUs need jax 0.12 or newer, but this is {jax.__version__}; install a newer one"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(how: How, edges: SlotEdges, table: jax.Array, received: jax.Array, weights: Blocks) -> jax.Array:
    return forward.summed_messages(how, edges, table, received, weights)


def _forward(how, *inputs):
    return _summed(how, *inputs), inputs


def _backward(how, inputs, gradient):
    edges, table, received, weights = inputs
    features, rows, *others = backward.gradients(how, edges, table, received, weights, gradient)
    d_table = padded(senders_gradient(rows, edges.sender, edges.reverse), *table.shape)
    # None says that there is no gradient.
    return (SlotEdges(features, None, None, None), d_table, *others)  # type: ignore[arg-type]


_summed.defvjp(_forward, _backward)
