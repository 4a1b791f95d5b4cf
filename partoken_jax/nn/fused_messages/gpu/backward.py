"""The kernel of the gradient: it computes the messages of a slot again, and differentiates them on the spot.

Every block adds up its own gradients of the weights, slot after slot and tile after tile, and XLA the sums of
the blocks: no atomic addition, the same bits on every run.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from partoken_jax.nn.fused_messages.gpu.forward import (
    How,
    copy_weights,
    in_parts_of,
    in_shared,
    interpreted,
    of_rows,
    room_for_rows,
)
from partoken_jax.nn.fused_messages.gpu.layout import TILE, Blocks, SlotEdges
from partoken_jax.nn.fused_messages.gpu.slot import (
    Operand,
    Ref,
    Slot,
    fetch,
    first_scalars,
    first_vectors,
    gate,
    gated,
    load,
    norm,
    operand,
    plgpu,
    product,
    put,
    put_scalars,
    put_vectors,
    second_scalars,
    transposed,
    vectors_of,
    whole,
)
from partoken_jax.nn.fused_messages.layout import rounded_up
from partoken_jax.nn.norms import MIN_SQUARED_NORM

BLOCKS = 132
"""Blocks at most, one for each processor of an H100, which take turns with the tiles."""


def gradients(
    how: How, edges: SlotEdges, table: jax.Array, received: jax.Array, weights: Blocks, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, Blocks]:
    """The gradients of `edges.features`, of the rows that edges read of `table`, [K, n, S + 3 V], of
    `received` and of `weights` of `forward.summed_messages`, from `gradient` float32 [n, S + 4 C] of its
    result."""
    split = in_parts_of(weights, how.parts)
    grid = min(BLOCKS, len(received) // TILE)
    sums = {name: jax.ShapeDtypeStruct((grid, *shape), jnp.float32) for name, shape in _sums(weights).items()}
    (v, _), s = weights.h1.shape, weights.s2.shape[1]
    rows = jax.ShapeDtypeStruct((*edges.sender.shape, s + 3 * v), table.dtype)
    given = edges.features, rows, received
    left, right = _stage_widths(weights)
    call = plgpu.kernel(
        _kernel,
        out_type=[*(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in given), *sums.values()],
        grid=(grid,),
        grid_names=("block",),
        scratch_types=[
            in_shared((how.parts, TILE, left)),
            in_shared((how.parts, TILE, right)),
            Blocks(*[in_shared(x.shape) for x in split]),
            room_for_rows(table),
            plgpu.Barrier(num_arrivals=len(split)),
        ],
        kernel_name="gvp_messages_gradient",
        **interpreted(how),
    )
    features, d_rows, d_received, *added = call(
        edges.sender, edges.features, edges.weight, table, received, gradient, *split
    )
    total = {name: jnp.sum(x, axis=0) for name, x in zip(sums, added, strict=True)}
    return features, d_rows, d_received, _of_blocks(total, weights)


def _sums(weights: Blocks) -> dict[str, tuple[int, int]]:
    """Shapes of the sums of a block: left sides of products, whose rows are whole groups of 64, times right
    sides."""
    (v, h), (g, _), (sc, s) = weights.h1.shape, weights.edge_v.shape, weights.s2.shape
    c, e = sc - s, len(weights.edge_s)
    of_vectors = {name: (_m(c), c) for name in ("h2", "v2", "h3")} | {"v1": (_m(h), c)}
    inputs = {f"inputs{i}": (_m(g + 3 * v), h) for i in range(3)}
    return {"first": (_m(h + e), s), "second": (_m(sc), s)} | of_vectors | inputs


def _of_blocks(total: dict[str, jax.Array], weights: Blocks) -> Blocks:
    """The gradients of the weights from those sums."""
    (v, h), (g, _), e = weights.h1.shape, weights.edge_v.shape, len(weights.edge_s)
    inputs = [total[f"inputs{i}"] for i in range(3)]
    return Blocks(
        edge_s=total["first"][h : h + e],
        edge_v=jnp.concatenate([x[:g] for x in inputs], axis=1),
        h1=functools.reduce(jnp.add, [x[g + i * v :][:v] for i, x in enumerate(inputs)]),
        n1=total["first"][:h],
        v1=total["v1"][:h],
        s2=total["second"][: len(weights.s2)],
        **{name: total[name][: len(weights.h2)] for name in ("h2", "v2", "h3")},
    )


def _stage_widths(weights: Blocks) -> tuple[int, int]:
    """Columns of the two sides of products that a block has at once; left ones are read 64 at a time."""
    (v, h), (g, _), (sc, s) = weights.h1.shape, weights.edge_v.shape, weights.s2.shape
    c, e = sc - s, len(weights.edge_s)
    left = max(_m(g + 3 * v), _m(h + e), _m(sc), 2 * h + _m(h), 2 * c + _m(c))
    return left, max(s, 3 * h)


def _m(rows: int) -> int:
    """Rows of a product: whole groups of 64."""
    return rounded_up(rows, TILE)


def _kernel(sender, features, weight, table, received, gradient, *rest):
    count = len(Blocks._fields)
    d_features, d_rows, d_received, *sums = rest[count:-5]
    left, right, weights, held, copied = rest[-5:]
    copy_weights(rest[:count], weights, copied)
    block = jax.lax.axis_index("block")
    shapes: list[Any] = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in weights]
    added = {name: x.at[block] for name, x in zip(_sums(Blocks(*shapes)), sums, strict=True)}
    for x in added.values():
        store(x, jnp.zeros(x.shape, jnp.float32))
    tiles = weight.shape[1] // TILE
    grid = sums[0].shape[0]

    def of_tile(turn, nothing):
        here = pl.ds((block + turn * grid) * TILE, TILE)
        store(d_received.at[here], jnp.zeros((TILE, d_received.shape[1]), jnp.float32))

        def of_slot(slot, nothing):
            fetch(sender.at[slot, here], table, held)
            read = Slot(held.rows, features.at[slot, here], received.at[here])
            to = Slot(d_rows.at[slot, here], d_features.at[slot, here], d_received.at[here])
            by = load(weight.at[slot, here])
            _differentiate(read, to, by, gradient.at[here], weights, left, right, added)
            return nothing

        return jax.lax.fori_loop(0, sender.shape[0], of_slot, nothing)

    jax.lax.fori_loop(0, (tiles - block + grid - 1) // grid, of_tile, 0)


def _differentiate(
    read: Slot,
    to: Slot,
    by: jax.Array,  # [R]
    gradient: Ref,  # [R, S + 4 C]
    weights: Blocks,
    left: Ref,
    right: Ref,
    added: dict[str, Ref],
) -> None:
    """Writes the gradients of what a slot reads, and adds those of the weights to their sums."""
    (_, e, _), (_, g, _), (_, v, h) = weights.edge_s.shape, weights.edge_v.shape, weights.h1.shape
    _, sc, s = weights.s2.shape
    c = sc - s

    def arrived(at: int, width: int) -> jax.Array:
        return load(gradient.at[:, pl.ds(at, width)]) * of_rows(by, width)

    found = vectors_of(read, weights, left)
    # Back through the third GVP and the vectors of the second. What is found here stays in registers, so
    # everything is used as soon as it can be.
    d_vh3 = [arrived(sc + i * c, c) for i in range(3)]
    d_p2 = _through(add_of_norm(d_vh3, arrived(s, c), found.vh3), weights.h3, left, right, added["h3"])
    put(left, found.vh2)
    d_vh2 = _through(of_gate(d_p2, found.u2), weights.v2, left, right, added["v2"])
    # The scalars.
    s1 = first_scalars(read, found.n1, weights, left)
    s2 = second_scalars(s1, found.n2, weights, left)
    put(right, [arrived(0, s) * positive(s2)])
    d_s2, into = operand(right, 0, s), whole(weights.s2)
    add_product(added["second"], left, d_s2)
    d_n2 = product((d_s2, transposed([part.at[pl.ds(s, c)] for part in into])))
    d_s1 = product((d_s2, transposed([part.at[pl.ds(0, s)] for part in into]))) * positive(s1)
    put_scalars(left, found.n1, read, weights)
    put(right, [d_s1])
    store(to.rows.at[:, pl.ds(0, s)], d_s1.astype(to.rows.dtype))
    add(to.received.at[:, pl.ds(0, s)], d_s1)
    add_product(added["first"], left, operand(right, 0, s))
    d_n1 = product((operand(right, 0, s), transposed(whole(weights.n1))))
    d_edge = product((operand(right, 0, s), transposed(whole(weights.edge_s))))
    store(to.edge.at[:, pl.ds(0, e)], d_edge.astype(to.edge.dtype))
    # The vectors of the second GVP and of the first one, which are computed again.
    put(left, gated(found.u1))
    d_vh2 = add_of_norm(d_vh2, d_n2, found.vh2)
    d_p1 = _through(d_vh2, weights.h2, left, right, added["h2"])
    d_u1 = of_gate(d_p1, found.u1)
    vh1 = first_vectors(read, weights, left)
    put(left, vh1)
    d_vh1 = add_of_norm(_through(d_u1, weights.v1, left, right, added["v1"]), d_n1, vh1)
    put_vectors(left, read, weights)
    put(right, d_vh1)
    sides = [operand(right, i * h, h) for i in range(3)]
    into = [transposed(operand(weights.edge_v, i * h, h)) for i in range(3)]
    store(to.edge.at[:, pl.ds(e, g)], product(*zip(sides, into, strict=True)).astype(to.edge.dtype))
    for i, side in enumerate(sides):
        add_product(added[f"inputs{i}"], left, side)
        d_sender = product((side, transposed(whole(weights.h1))))
        store(to.rows.at[:, pl.ds(s + i * v, v)], d_sender.astype(to.rows.dtype))
        add(to.received.at[:, pl.ds(s + i * h, h)], d_vh1[i])


def _through(d_out: list[jax.Array], weight: Ref, left: Ref, right: Ref, total: Ref) -> list[jax.Array]:
    """The gradient of v of `slot.of_vectors`, [R, in] for each coordinate, with v on the left stage; that of
    the weight is added to `total`."""
    _, rows, columns = weight.shape
    put(right, d_out)
    sides = [operand(right, i * columns, columns) for i in range(3)]
    of_stage = [transposed(operand(left, i * rows, total.shape[0])) for i in range(3)]
    add(total, product(*zip(of_stage, sides, strict=True)))
    return [product((side, transposed(whole(weight)))) for side in sides]


def add_product(total: Ref, left: Ref, d_out: Operand) -> None:
    """Adds columns of the left stage, as many as `total` has rows, times d_out; 64 at a time, for which a
    warpgroup has registers."""
    for group in range(0, total.shape[0], TILE):
        here = transposed(operand(left, group, TILE))
        add(total.at[pl.ds(group, TILE)], product((here, d_out)))


def add_of_norm(d_v: list[jax.Array], d_norm: jax.Array, v: list[jax.Array]) -> list[jax.Array]:
    """Adds the gradient that reaches v through its norm: 0 under the clamp."""
    squared = v[0] * v[0] + v[1] * v[1] + v[2] * v[2]
    scale = jnp.where(squared > MIN_SQUARED_NORM, d_norm / norm(v), 0.0)
    return [d + x * scale for d, x in zip(d_v, v, strict=True)]


def of_gate(d_out: list[jax.Array], v: list[jax.Array]) -> list[jax.Array]:
    """The gradient of v of `slot.gated`."""
    scale = gate(v)
    d_scale = d_out[0] * v[0] + d_out[1] * v[1] + d_out[2] * v[2]
    return add_of_norm([d * scale for d in d_out], d_scale * scale * (1.0 - scale), v)


def positive(x: jax.Array) -> jax.Array:
    """1 where x > 0, else 0."""
    return jnp.where(x > 0, 1.0, 0.0)


def add(total: Ref, x: jax.Array) -> None:
    """Adds to an array in the GPU's memory, of which every thread reads and writes its own numbers."""
    store(total, load(total) + x)


def store(reference: Ref, x: jax.Array) -> None:
    """Writes to the GPU's memory from whatever layout x has in registers."""
    plgpu.store(reference, x, optimized=False)
