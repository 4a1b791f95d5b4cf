"""The messages of a block of edges on a warpgroup: one slot of the 64 receivers of a tile. The arithmetic is
`fused_messages.message`'s.

Products read both their sides from shared memory, as bfloat16; "float32" and "tensorfloat32" split a number
into several of them, as `products` does. What is computed from products stays in registers, as float32.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu

from partoken_jax.nn.fused_messages.gpu.layout import Blocks
from partoken_jax.nn.fused_messages.products import in_parts, pairs
from partoken_jax.nn.norms import MIN_SQUARED_NORM

plgpu: Any = mosaic_gpu
"""Not every jax has all of it that the kernels use (`messages.too_old`)."""
Ref = Any
"""A reference to an array in one of the memories of a GPU."""
Operand = list[Ref]
"""One side of a product: bfloat16 [rows, columns] for every part."""


class Slot(NamedTuple):
    """What a slot reads."""

    rows: Ref
    """[R, W]: the senders' rows, in shared memory."""
    edge: Ref
    """[R, E + G]"""
    received: Ref
    """[R, F]"""


class Held(NamedTuple):
    """What a block holds of the senders, in shared memory."""

    rows: Ref
    """[R, W]"""
    numbers: Ref
    """int32 [R]"""
    known: Ref
    """Barrier of the numbers."""
    copied: Ref
    """Barrier of the rows."""


def fetch(sender: Ref, table: Ref, held: Held) -> None:
    """Brings the rows of the residues `sender` [R] from `table` [N, W]."""
    plgpu.copy_gmem_to_smem(sender, held.numbers, held.known)
    plgpu.barrier_wait(held.known)

    def copy(row, nothing):
        number = held.numbers[row]
        plgpu.copy_gmem_to_smem(table.at[pl.ds(number, 1)], held.rows.at[pl.ds(row, 1)], held.copied)
        return nothing

    jax.lax.fori_loop(0, held.rows.shape[0], copy, 0)
    plgpu.barrier_wait(held.copied)


class Vectors(NamedTuple):
    """The vectors of the three GVPs, which no scalar enters: 3 coordinates each."""

    n1: jax.Array  # [R, H]
    u1: list[jax.Array]  # [R, C], before the gate
    vh2: list[jax.Array]
    n2: jax.Array
    u2: list[jax.Array]
    vh3: list[jax.Array]


def vectors_of(slot: Slot, weights: Blocks, stage: Ref) -> Vectors:
    """From what a slot reads to the norms and vectors of the third GVP; `gated(u2)` is left on the stage.

    Args:
      weights: references to bfloat16 [P, in, out].
      stage: reference to bfloat16 [P, R, *], where the left sides of products are put.
    """
    vh1 = first_vectors(slot, weights, stage)
    u1 = of_vectors(stage, vh1, weights.v1)
    vh2 = of_vectors(stage, gated(u1), weights.h2)
    u2 = of_vectors(stage, vh2, weights.v2)
    vh3 = of_vectors(stage, gated(u2), weights.h3)
    return Vectors(norm(vh1), u1, vh2, norm(vh2), u2, vh3)


def first_vectors(slot: Slot, weights: Blocks, stage: Ref) -> list[jax.Array]:
    """The vectors vh of the first GVP, [R, H] for each coordinate; both inputs are left on the stage."""
    (_, g, _), (_, v, h), s = weights.edge_v.shape, weights.h1.shape, weights.s2.shape[2]
    put_vectors(stage, slot, weights)
    return [
        load(slot.received.at[:, pl.ds(s + i * h, h)])
        + product(
            (operand(stage, 0, g), operand(weights.edge_v, i * h, h)),
            (operand(stage, g + i * v, v), whole(weights.h1)),
        )
        for i in range(3)
    ]


def put_vectors(stage: Ref, slot: Slot, weights: Blocks) -> None:
    """The vectors of edges and of senders, those coordinate after coordinate, onto the stage."""
    (_, e, s), (_, g, _), v = weights.edge_s.shape, weights.edge_v.shape, weights.h1.shape[1]
    senders = [load(slot.rows.at[:, pl.ds(s + i * v, v)]) for i in range(3)]
    put(stage, [load(slot.edge.at[:, pl.ds(e, g)]), *senders])


def first_scalars(slot: Slot, n1: jax.Array, weights: Blocks, stage: Ref) -> jax.Array:
    """s [R, S] of the first GVP, from the norms of its vectors; both inputs are left on the stage."""
    put_scalars(stage, n1, slot, weights)
    (_, h, s), e = weights.n1.shape, weights.edge_s.shape[1]
    sides = (operand(stage, 0, h), whole(weights.n1)), (operand(stage, h, e), whole(weights.edge_s))
    of_nodes = load(slot.received.at[:, pl.ds(0, s)]) + load(slot.rows.at[:, pl.ds(0, s)]).astype(jnp.float32)
    return relu(of_nodes + product(*sides))


def put_scalars(stage: Ref, n1: jax.Array, slot: Slot, weights: Blocks) -> None:
    """Norms and the scalars of edges onto the stage."""
    put(stage, [n1, load(slot.edge.at[:, pl.ds(0, weights.edge_s.shape[1])])])


def second_scalars(s1: jax.Array, n2: jax.Array, weights: Blocks, stage: Ref) -> jax.Array:
    """The same of the second GVP."""
    put(stage, [s1, n2])
    return relu(product((operand(stage, 0, weights.s2.shape[1]), whole(weights.s2))))


def of_vectors(stage: Ref, v: list[jax.Array], weight: Ref) -> list[jax.Array]:
    """v, [R, in] for each coordinate, times weight [in, out]."""
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
