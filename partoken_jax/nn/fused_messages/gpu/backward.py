"""The kernel of the gradient: it computes the messages of a slot again, and differentiates them on the spot.

Every block adds up its own gradients of the weights, slot after slot and tile after tile, and XLA the sums of
the blocks: no atomic addition, the same bits on every run.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from partoken_jax.nn.fused_messages.gpu.forward import (
    How,
    copy_weights,
    in_parts_of,
    in_shared,
    interpreted,
    of_rows,
)
from partoken_jax.nn.fused_messages.gpu.layout import TILE, Blocks, SlotEdges
from partoken_jax.nn.fused_messages.gpu.slot import (
    Message,
    Operand,
    Ref,
    Slot,
    gate,
    gated,
    load,
    message,
    norm,
    operand,
    product,
    put,
    put_inputs,
    transposed,
    whole,
)
from partoken_jax.nn.fused_messages.layout import rounded_up
from partoken_jax.nn.norms import MIN_SQUARED_NORM

BLOCKS = 132
"""Blocks at most, one for each processor of an H100, which take turns with the tiles."""


def gradients(
    how: How, edges: SlotEdges, rows: jax.Array, received: jax.Array, weights: Blocks, gradient: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, Blocks]:
    """The gradients of `edges.features`, `rows`, `received` and `weights` of `forward.summed_messages`, from
    `gradient` float32 [n, S + 4 C] of its result."""
    split = in_parts_of(weights, how.parts)
    grid = min(BLOCKS, len(received) // TILE)
    sums = {name: jax.ShapeDtypeStruct((grid, *shape), jnp.float32) for name, shape in _sums(weights).items()}
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
            plgpu.Barrier(num_arrivals=len(split)),
        ],
        **interpreted(how),
    )
    features, d_rows, d_received, *added = call(
        rows, edges.features, edges.weight, received, gradient, *split
    )
    total = {name: jnp.sum(x, axis=0) for name, x in zip(sums, added, strict=True)}
    return features, d_rows, d_received, _of_blocks(total, weights)


def _sums(weights: Blocks) -> dict[str, tuple[int, int]]:
    """Shapes of the sums of a block: left sides of products, whose rows are whole groups of 64, times right
    sides."""
    (v, h), (e, _), (sc, s) = weights.h1.shape, weights.edge.shape, weights.s2.shape
    c = sc - s
    return {
        "first": (_m(h + e), s),  # norms and edge features, times the gradient of s'
        "second": (_m(sc), s),
        "v1": (_m(h), c),
        "h2": (_m(c), c),
        "v2": (_m(c), c),
        "h3": (_m(c), c),
        "h1": (_m(v), h),
        "edge0": (_m(e), h),  # edge features, times the gradient of vh, for each coordinate
        "edge1": (_m(e), h),
        "edge2": (_m(e), h),
    }


def _of_blocks(total: dict[str, jax.Array], weights: Blocks) -> Blocks:
    """The gradients of the weights from those sums."""
    (v, h), e = weights.h1.shape, len(weights.edge)
    edge = [total["first"][h : h + e], *(total[f"edge{i}"][:e] for i in range(3))]
    return Blocks(
        edge=jnp.concatenate(edge, axis=1),
        h1=total["h1"][:v],
        n1=total["first"][:h],
        s2=total["second"][: len(weights.s2)],
        **{name: total[name][: len(getattr(weights, name))] for name in ("v1", "h2", "v2", "h3")},
    )


def _stage_widths(weights: Blocks) -> tuple[int, int]:
    """Columns of the two sides of products that a block has at once; left ones are read 64 at a time."""
    (v, h), (sc, s), e = weights.h1.shape, weights.s2.shape, len(weights.edge)
    return max(e + 2 * v + _m(v), _m(h + e), 2 * h + _m(h), _m(sc)), max(s, 3 * h)


def _m(rows: int) -> int:
    return rounded_up(rows, TILE)


def _kernel(rows, features, weight, received, gradient, *rest):
    count = len(Blocks._fields)
    d_features, d_rows, d_received, *sums = rest[count:-4]
    left, right, weights, copied = rest[-4:]
    copy_weights(rest[:count], weights, copied)
    block = jax.lax.axis_index("block")
    names = _sums(Blocks(*[jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in weights]))
    added = {name: x.at[block] for name, x in zip(names, sums, strict=True)}
    for x in added.values():
        store(x, jnp.zeros(x.shape, jnp.float32))
    tiles = weight.shape[1] // TILE
    grid = sums[0].shape[0]

    def of_tile(turn, nothing):
        here = pl.ds((block + turn * grid) * TILE, TILE)
        store(d_received.at[here], jnp.zeros((TILE, d_received.shape[1]), jnp.float32))

        def of_slot(slot, nothing):
            read = Slot(rows.at[slot, here], features.at[slot, here], received.at[here])
            to = Slot(d_rows.at[slot, here], d_features.at[slot, here], d_received.at[here])
            by = load(weight.at[slot, here])
            _differentiate(read, to, by, gradient.at[here], weights, left, right, added)
            return nothing

        return jax.lax.fori_loop(0, rows.shape[0], of_slot, nothing)

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
    found = message(read, weights, left)
    s, h, c = weights.s2.shape[2], weights.h1.shape[2], weights.h2.shape[1]
    v, e = weights.h1.shape[1], weights.edge.shape[1]

    def arrived(at: int, width: int) -> jax.Array:
        return load(gradient.at[:, pl.ds(at, width)]) * of_rows(by, width)

    # The third GVP: p = gated(u2) is on the stage.
    d_vh3 = [arrived(s + c + i * c, c) for i in range(3)]
    d_vh3 = add_of_norm(d_vh3, arrived(s, c), found.vh3)
    d_p2 = _through_vectors(d_vh3, weights.h3, left, right, added["h3"])
    # The second.
    put(left, found.vh2)
    d_vh2 = _through_vectors(of_gate(d_p2, found.u2), weights.v2, left, right, added["v2"])
    put(left, [found.s1, found.n2])
    put(right, [arrived(0, s) * positive(found.s2)])
    d_s2 = operand(right, 0, s)
    add(added["second"], product((_columns(left, 0, s + c), d_s2)))
    d_s1 = product((d_s2, transposed([x.at[pl.ds(0, s)] for x in whole(weights.s2)])))
    d_n2 = product((d_s2, transposed([x.at[pl.ds(s, c)] for x in whole(weights.s2)])))
    put(left, gated(found.u1))
    d_vh2 = add_of_norm(d_vh2, d_n2, found.vh2)
    d_p1 = _through_vectors(d_vh2, weights.h2, left, right, added["h2"])
    # The first.
    put(left, found.vh1)
    d_vh1 = _through_vectors(of_gate(d_p1, found.u1), weights.v1, left, right, added["v1"])
    put(left, [found.n1, load(read.edge)])
    d_s1 = d_s1 * positive(found.s1)
    put(right, [d_s1])
    add(added["first"], product((_columns(left, 0, h + e), operand(right, 0, s))))
    d_n1 = product((operand(right, 0, s), transposed(whole(weights.n1))))
    d_edge = product((operand(right, 0, s), transposed(operand(weights.edge, 0, s))))
    store(to.rows.at[:, pl.ds(0, s)], d_s1.astype(to.rows.dtype))
    add(to.received.at[:, pl.ds(0, s)], d_s1)
    d_vh1 = add_of_norm(d_vh1, d_n1, found.vh1)
    put_inputs(left, read, weights)
    put(right, d_vh1)
    for i in range(3):
        d_vh = operand(right, i * h, h)
        add(added["h1"], product((_columns(left, e + i * v, v), d_vh)))
        add(added[f"edge{i}"], product((_columns(left, 0, e), d_vh)))
        d_edge = d_edge + product((d_vh, transposed(operand(weights.edge, s + i * h, h))))
        d_sender = product((d_vh, transposed(whole(weights.h1))))
        store(to.rows.at[:, pl.ds(s + i * v, v)], d_sender.astype(to.rows.dtype))
        add(to.received.at[:, pl.ds(s + i * h, h)], d_vh1[i])
    store(to.edge, d_edge.astype(to.edge.dtype))


def _through_vectors(
    d_out: list[jax.Array], weight: Ref, left: Ref, right: Ref, total: Ref
) -> list[jax.Array]:
    """The gradient of v [3][R, in] of `slot.of_vectors`, with v on the left stage; the weight's is added."""
    _, rows, columns = weight.shape
    put(right, d_out)
    sides = [operand(right, i * columns, columns) for i in range(3)]
    add(total, product(*[(_columns(left, i * rows, rows), side) for i, side in enumerate(sides)]))
    return [product((side, transposed(whole(weight)))) for side in sides]


def _columns(left: Ref, at: int, width: int) -> Operand:
    """Columns of the left stage as rows of a product: whole groups of 64, of which the last ones are others'."""
    return transposed(operand(left, at, _m(width)))


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
