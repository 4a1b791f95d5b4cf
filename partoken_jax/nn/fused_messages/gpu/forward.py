"""The kernel that computes the messages of a tile of receivers, slot after slot, and sums them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from partoken_jax.nn.fused_messages.gpu.layout import COLUMNS, TILE, Blocks, SlotEdges
from partoken_jax.nn.fused_messages.gpu.slot import (
    Held,
    Ref,
    Slot,
    fetch,
    first_scalars,
    load,
    norm,
    plgpu,
    second_scalars,
    vectors_of,
)
from partoken_jax.nn.fused_messages.products import in_parts


class How(NamedTuple):
    """How the kernels compute."""

    parts: int
    """P, as `products.PARTS` has it for a precision."""
    interpret: bool = False
    """As ordinary operations, on any platform: for tests."""


def summed_messages(
    how: How, edges: SlotEdges, table: jax.Array, received: jax.Array, weights: Blocks
) -> jax.Array:
    """Σ_k weight_k · what the last GVP needs of the message from the k-th neighbour, float32 [n, S + 4 C].

    `table`: float32 or bfloat16 [N, W], the senders' rows; `received`: float32 [n, F].
    """
    c, s = weights.h2.shape[0], weights.s2.shape[1]
    split = in_parts_of(weights, how.parts)
    call = plgpu.kernel(
        _kernel,
        out_type=jax.ShapeDtypeStruct((len(received), s + 4 * c), jnp.float32),
        grid=(len(received) // TILE,),
        grid_names=("tile",),
        scratch_types=[
            in_shared((how.parts, TILE, _stage_width(weights))),
            Blocks(*[in_shared(x.shape) for x in split]),
            room_for_rows(table),
            plgpu.Barrier(num_arrivals=len(split)),
        ],
        kernel_name="gvp_messages",
        **interpreted(how),
    )
    return call(edges.sender, edges.features, edges.weight, table, received, *split)


def _kernel(sender, features, weight, table, received, *rest):
    count = len(Blocks._fields)
    out, stage, weights, held, copied = rest[count:]
    copy_weights(rest[:count], weights, copied)
    here = pl.ds(jax.lax.axis_index("tile") * TILE, TILE)
    s, c = weights.s2.shape[2], weights.h2.shape[2]

    def add_slot(slot, total):
        fetch(sender.at[slot, here], table, held)
        read = Slot(held.rows, features.at[slot, here], received.at[here])
        found = vectors_of(read, weights, stage)
        s1 = first_scalars(read, found.n1, weights, stage)
        s2 = second_scalars(s1, found.n2, weights, stage)
        by = load(weight.at[slot, here])
        parts = [s2, norm(found.vh3), *found.vh3]
        return [so_far + x * of_rows(by, x.shape[1]) for so_far, x in zip(total, parts, strict=True)]

    nothing = [jnp.zeros((TILE, width), jnp.float32) for width in (s, c, c, c, c)]
    total = jax.lax.fori_loop(0, sender.shape[0], add_slot, nothing)
    at = 0
    for x in total:
        plgpu.store(out.at[here, pl.ds(at, x.shape[1])], x, optimized=False)
        at += x.shape[1]


def in_parts_of(weights: Blocks, parts: int) -> Blocks:
    """bfloat16 [P, in, out]"""
    return Blocks(*[jnp.stack(in_parts(x, parts)) for x in weights])


def copy_weights(source: Sequence[Ref], weights: Blocks, copied: Ref) -> None:
    """All weights into shared memory."""
    for given, held in zip(source, weights, strict=True):
        plgpu.copy_gmem_to_smem(given, held, copied)
    plgpu.barrier_wait(copied)


def _stage_width(weights: Blocks) -> int:
    """Columns of what is multiplied at once."""
    (v, h), (g, _), (sc, _) = weights.h1.shape, weights.edge_v.shape, weights.s2.shape
    return max(sc, 3 * h, g + 3 * v, h + len(weights.edge_s))


def room_for_rows(table: jax.Array) -> Held:
    """For a tile's rows of the table."""
    rows = plgpu.SMEM((TILE, table.shape[1]), table.dtype)
    numbers = plgpu.SMEM((TILE,), jnp.int32)
    return Held(rows, numbers, plgpu.Barrier(num_arrivals=1), plgpu.Barrier(num_arrivals=TILE))


def in_shared(shape: tuple[int, ...]) -> Any:
    """bfloat16 in shared memory, as products read it."""
    transforms = (plgpu.TilingTransform((8, COLUMNS)), plgpu.SwizzleTransform(2 * COLUMNS))
    return plgpu.SMEM(shape, jnp.bfloat16, transforms=transforms)


def of_rows(x: jax.Array, columns: int) -> jax.Array:
    """A number [R] of every row in all columns."""
    return jax.lax.broadcast_in_dim(x, (TILE, columns), (0,))


def interpreted(how: How) -> dict[str, Any]:
    """What `plgpu.kernel` needs to be interpreted."""
    return {"interpret": plgpu.InterpretGPUParams()} if how.interpret else {}
