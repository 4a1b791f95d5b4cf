"""The kernel of the gradient: it computes the messages of a tile again, and differentiates them on the spot.

Gradients of weights and of the senders' table are summed tile after tile and slot after slot, always in this
order: no scatter, no atomic addition, the same bits on every run.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from partoken_jax.nn.fused_messages.forward import (
    How,
    in_order,
    operands,
    slots_at_once,
    slots_of,
    tile_spec,
    tile_specs,
    whole_specs,
)
from partoken_jax.nn.fused_messages.layout import TILE, LaneEdges
from partoken_jax.nn.fused_messages.message import messages
from partoken_jax.nn.fused_messages.products import PARTS, Precision, in_parts, of_parts
from partoken_jax.nn.fused_messages.weights import LaneWeights
from partoken_jax.nn.fused_messages.window import fetched_with_sums, put_back, senders_of, start_empty

SLOTS = 2
"""As in `forward`; a slot takes more room here."""


def gradients(
    how: How,
    edges: LaneEdges,
    table: jax.Array,
    received: jax.Array,
    weights: LaneWeights,
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, LaneWeights]:
    """The gradients of `edges.features`, `table`, `received` and `weights` of `forward.summed_messages`, from
    `gradient` float32 [S + 4 C, n] of its result."""
    neighbours, width, columns = edges.features.shape
    rows = table.shape[0]
    kernel = functools.partial(_kernel, slots=slots_at_once(neighbours, SLOTS), precision=how.precision)
    wanted = [edges.features, received, table, *weights]
    inputs = [*operands(edges, table, received), *weights, gradient, jnp.zeros_like(table)]
    in_place = pl.BlockSpec(memory_space=pl.ANY)
    of_features = pl.BlockSpec((neighbours, width, TILE), lambda tile, *_: (0, 0, tile))
    window = pltpu.VMEM((how.window, rows, TILE), jnp.float32)
    d_features, d_received, d_table, *d_weights = pl.pallas_call(
        kernel,
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in wanted],
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(columns // TILE,),
            in_specs=[
                *tile_specs(edges, rows),
                *whole_specs(weights),
                tile_spec(gradient.shape[0]),
                in_place,
            ],
            out_specs=[of_features, tile_spec(rows), in_place, *whole_specs(weights)],
            scratch_shapes=[pltpu.SMEM((how.window,), jnp.int32), window, window, pltpu.SemaphoreType.DMA],
        ),
        input_output_aliases={len(inputs) - 1: 2},  # the sums of the table start at 0
        compiler_params=in_order(),
        interpret=how.interpret,
        name="gvp_messages_gradient",
    )(*inputs)
    return d_features, d_table, d_received, LaneWeights(*d_weights)


def _kernel(first, last, sender, weight, features, received, table, *rest, slots, precision):
    count = len(LaneWeights._fields)
    weights = LaneWeights(*[reference[...] for reference in rest[:count]])
    scalars = weights.widths.scalars
    gradient, _, d_features, d_received, d_table = rest[count : count + 5]
    d_weights = rest[count + 5 : 2 * count + 5]
    held, window, sums, copied = rest[2 * count + 5 :]
    tile = pl.program_id(0)
    start_empty(held)

    @pl.when(tile == 0)
    def start_at_zero():
        for reference in d_weights:
            reference[...] = jnp.zeros(reference.shape, jnp.float32)

    def fetch(chunk):
        return fetched_with_sums(chunk, held, table, window, d_table, sums, copied)

    def add_slots(block, d_received_so_far):
        here = slots_of(block, slots)
        numbers = [sender[pl.ds(k, 1), :] for k in here]
        x = senders_of(tile, first, last, numbers, fetch, window) + jnp.tile(received[...], (1, slots))
        edge = jnp.concatenate([features[k] for k in here], axis=1)
        of_edges = functools.partial(messages, precision=precision)
        _, pull = jax.vjp(of_edges, x[:scalars], x[scalars:], edge, weights)
        d_s, d_vh, d_edge, d_weight = pull(
            jnp.concatenate([gradient[...] * weight[pl.ds(k, 1), :] for k in here], axis=1)
        )
        d_x = jnp.concatenate([d_s, d_vh])
        for i, k in enumerate(here):
            d_features[k] = d_edge[:, i * TILE : (i + 1) * TILE]
            d_received_so_far = d_received_so_far + d_x[:, i * TILE : (i + 1) * TILE]
        for reference, part in zip(d_weights, d_weight, strict=True):
            reference[...] += part
        to = jnp.concatenate(numbers, axis=1)
        _add_to_senders(d_x, to, first[tile], last[tile], fetch, sums, precision)
        return d_received_so_far

    blocks = sender.shape[0] // slots
    d_received[...] = jax.lax.fori_loop(0, blocks, add_slots, jnp.zeros(received.shape, jnp.float32))

    @pl.when(tile == pl.num_programs(0) - 1)
    def leave_nothing():
        for place in range(held.shape[0]):
            put_back(place, held, d_table, sums, copied)


def _add_to_senders(d_x, number, first, last, fetch, sums, precision: Precision) -> None:
    """Adds the gradients d_x [F, J R] to the sums of the residues `number` [1, J R] that they belong to.

    A sum by number is a product with a matrix of 0 and 1, exact for every part of a float32.
    """
    parts = in_parts(d_x, PARTS[precision])

    def add_to_chunk(chunk, nothing):
        residue = jax.lax.broadcasted_iota(jnp.int32, (TILE, number.shape[1]), 0) + chunk * TILE
        is_sender = jnp.where(residue == number, 1.0, 0.0).astype(jnp.bfloat16)
        place = fetch(chunk)
        total = sums[place]
        for part in reversed(parts):
            total = total + of_parts(part, is_sender, (1, 1))
        sums[place] = total
        return nothing

    jax.lax.fori_loop(first, last + 1, add_to_chunk, 0)
