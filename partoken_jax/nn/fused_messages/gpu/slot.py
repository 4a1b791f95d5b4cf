"""The messages of a block of edges on a warpgroup: one slot of the 64 receivers of a tile.

Products read both their sides from shared memory, as bfloat16; "float32" and "tensorfloat32" split a number
into several of them, as `products` does. What is computed from products stays in registers, as float32.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from partoken_jax.nn.fused_messages.gpu.layout import Blocks
from partoken_jax.nn.fused_messages.products import in_parts, pairs
from partoken_jax.nn.norms import MIN_SQUARED_NORM

Ref = Any
"""A reference to an array in one of the memories of a GPU."""
Operand = list[Ref]
"""One side of a product: bfloat16 [rows, columns] for every part."""


class Slot(NamedTuple):
    """What a slot reads."""

    rows: Ref
    """[R, S + 3 V]: the senders' rows."""
    edge: Ref
    """[R, E]"""
    received: Ref
    """[R, F]"""


class Message(NamedTuple):
    """The message of every edge of a slot, and all that its gradient needs; vectors have 3 coordinates."""

    n1: jax.Array  # [R, H]
    vh1: list[jax.Array]  # [R, H]
    s1: jax.Array  # [R, S]
    u1: list[jax.Array]  # [R, C], before the gate
    vh2: list[jax.Array]
    n2: jax.Array
    s2: jax.Array  # [R, S]
    u2: list[jax.Array]
    vh3: list[jax.Array]
    n3: jax.Array


def message(slot: Slot, weights: Blocks, stage: Ref) -> Message:
    """`message.messages` of the TPU's kernels, for R edges.

    Args:
      weights: references to bfloat16 [P, in, out].
      stage: reference to bfloat16 [P, R, *], where the left sides of products are put.
    """
    s, h = weights.s2.shape[2], weights.h1.shape[2]
    put_inputs(stage, slot, weights)
    width, vectors = weights.edge.shape[1], weights.h1.shape[1]
    edge = operand(stage, 0, width)
    before = load(slot.received.at[:, pl.ds(0, s)]) + load(slot.rows.at[:, pl.ds(0, s)]).astype(jnp.float32)
    before = before + product((edge, operand(weights.edge, 0, s)))
    vh1 = [
        load(slot.received.at[:, pl.ds(s + i * h, h)])
        + product(
            (edge, operand(weights.edge, s + i * h, h)),
            (operand(stage, width + i * vectors, vectors), whole(weights.h1)),
        )
        for i in range(3)
    ]
    n1 = norm(vh1)
    put(stage, [n1])
    s1 = relu(before + product((operand(stage, 0, h), whole(weights.n1))))
    u1 = of_vectors(stage, vh1, weights.v1)
    vh2 = of_vectors(stage, gated(u1), weights.h2)
    n2 = norm(vh2)
    put(stage, [s1, n2])
    s2 = relu(product((operand(stage, 0, weights.s2.shape[1]), whole(weights.s2))))
    u2 = of_vectors(stage, vh2, weights.v2)
    vh3 = of_vectors(stage, gated(u2), weights.h3)
    return Message(n1, vh1, s1, u1, vh2, n2, s2, u2, vh3, norm(vh3))


def put_inputs(stage: Ref, slot: Slot, weights: Blocks) -> None:
    """Edge features and the senders' vectors, coordinate after coordinate, onto the stage."""
    s, vectors = weights.s2.shape[2], weights.h1.shape[1]
    senders = [load(slot.rows.at[:, pl.ds(s + i * vectors, vectors)]) for i in range(3)]
    put(stage, [load(slot.edge), *senders])


def of_vectors(stage: Ref, v: list[jax.Array], weight: Ref) -> list[jax.Array]:
    """v [3][R, in] · weight [in, out] for each coordinate."""
    put(stage, v)
    rows = weight.shape[1]
    return [product((operand(stage, i * rows, rows), whole(weight))) for i in range(3)]


def put(stage: Ref, arrays: Sequence[jax.Array]) -> None:
    """Arrays [R, *] side by side onto the stage, in as many parts as it has, and ready for products."""
    at = 0
    for x in arrays:
        for i, part in enumerate(in_parts(x.astype(jnp.float32), stage.shape[0])):
            plgpu.store(stage.at[i, :, pl.ds(at, x.shape[1])], part)
        at += x.shape[1]
    plgpu.commit_smem()


def operand(reference: Ref, at: int, width: int) -> Operand:
    """`width` columns of an array [P, rows, columns]."""
    return [reference.at[part, :, pl.ds(at, width)] for part in range(reference.shape[0])]


def whole(reference: Ref) -> Operand:
    """All of an array [P, rows, columns]."""
    return [reference.at[part] for part in range(reference.shape[0])]


def transposed(side: Operand) -> Operand:
    """The same with rows for columns."""
    return [part.transpose((1, 0)) for part in side]


def product(*terms: tuple[Operand, Operand]) -> jax.Array:
    """Σ left [rows, k] · right [k, columns] over terms, float32 [rows, columns]."""
    rows, columns = terms[0][0][0].shape[0], terms[0][1][0].shape[1]

    def summed(total):
        for left, right in terms:
            for i, j in pairs(len(left)):
                plgpu.wgmma(total, left[i], right[j])
        return total[...]

    return pl.run_scoped(summed, plgpu.ACC((rows, columns), jnp.float32))


def load(reference: Ref) -> jax.Array:
    """An array from the GPU's memory into registers, in whatever layout what follows has."""
    return plgpu.load(reference, optimized=False)


def norm(v: list[jax.Array]) -> jax.Array:
    """`norms.vector_norm` of 3 coordinates."""
    squared = v[0] * v[0] + v[1] * v[1] + v[2] * v[2]
    return jnp.sqrt(jnp.where(squared > MIN_SQUARED_NORM, squared, MIN_SQUARED_NORM))


def gate(v: list[jax.Array]) -> jax.Array:
    """sigmoid(|v|)"""
    return 1.0 / (1.0 + jnp.exp(-norm(v)))


def gated(v: list[jax.Array]) -> list[jax.Array]:
    """`gvp.norm_gated` for 3 coordinates: v · sigmoid(|v|)."""
    scale = gate(v)
    return [x * scale for x in v]


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0)"""
    return jnp.where(x > 0, x, 0.0)
