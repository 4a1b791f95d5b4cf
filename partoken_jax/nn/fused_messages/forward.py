"""The kernel that computes the messages of a tile of receivers and sums them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from partoken_jax.nn.fused_messages.layout import TILE, LaneEdges
from partoken_jax.nn.fused_messages.message import messages
from partoken_jax.nn.fused_messages.products import Precision
from partoken_jax.nn.fused_messages.weights import LaneWeights
from partoken_jax.nn.fused_messages.window import WINDOW, fetched, senders_of, start_empty

SLOTS = 3
"""Slots of a tile that are computed side by side in one pass, so that products are wide."""
VMEM = 64 * 2**20
"""Bytes of the chip's memory that a kernel may take, of 128 MiB on v5e and v6e."""


class How(NamedTuple):
    """How the kernels compute."""

    precision: Precision
    interpret: bool = False
    """As ordinary operations, on any platform: for tests."""
    window: int = WINDOW
    """Chunks of the table that are held."""


def summed_messages(
    how: How, edges: LaneEdges, table: jax.Array, received: jax.Array, weights: LaneWeights
) -> jax.Array:
    """Σ_k weight_k · what the last GVP needs of the message from the k-th neighbour, float32 [S + 4 C, n].

    `table`, `received`: float32 [F, n], the sender and receiver parts of every residue.
    """
    neighbours, _, columns = edges.features.shape
    rows = table.shape[0]
    out = weights.widths.scalars + 4 * weights.widths.vectors
    kernel = functools.partial(_kernel, slots=slots_at_once(neighbours, SLOTS), precision=how.precision)
    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((out, columns), jnp.float32),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(columns // TILE,),
            in_specs=[*tile_specs(edges, rows), *whole_specs(weights)],
            out_specs=tile_spec(out),
            scratch_shapes=[
                pltpu.SMEM((how.window,), jnp.int32),
                pltpu.VMEM((how.window, rows, TILE), jnp.float32),
                pltpu.SemaphoreType.DMA,
            ],
        ),
        compiler_params=in_order(),
        interpret=how.interpret,
        name="gvp_messages",
    )(*operands(edges, table, received), *weights)


def _kernel(first, last, sender, weight, features, received, table, *rest, slots, precision):
    count = len(LaneWeights._fields)
    weights = LaneWeights(*[reference[...] for reference in rest[:count]])
    scalars = weights.widths.scalars
    out, held, window, copied = rest[count:]
    tile = pl.program_id(0)
    start_empty(held)

    def fetch(chunk):
        return fetched(chunk, held, table, window, copied)

    def add_slots(block, total):
        here = slots_of(block, slots)
        numbers = [sender[pl.ds(k, 1), :] for k in here]
        x = senders_of(tile, first, last, numbers, fetch, window) + jnp.tile(received[...], (1, slots))
        edge = jnp.concatenate([features[k] for k in here], axis=1)
        y = messages(x[:scalars], x[scalars:], edge, weights, precision)
        for i, k in enumerate(here):
            total = total + y[:, i * TILE : (i + 1) * TILE] * weight[pl.ds(k, 1), :]
        return total

    blocks = sender.shape[0] // slots
    out[...] = jax.lax.fori_loop(0, blocks, add_slots, jnp.zeros(out.shape, jnp.float32))


def slots_of(block: jax.Array, slots: int) -> list[jax.Array]:
    """The slots of a block."""
    return [block * slots + i for i in range(slots)]


def slots_at_once(neighbours: int, most: int) -> int:
    """The largest number up to `most` that divides the number of neighbours."""
    return max(slots for slots in range(1, most + 1) if neighbours % slots == 0)


def operands(edges: LaneEdges, table: jax.Array, received: jax.Array) -> list[jax.Array]:
    """What both kernels read, in the order of `tile_specs`; the first two are known before a tile starts."""
    return [edges.first, edges.last, edges.sender, edges.weight, edges.features, received, table]


def tile_specs(edges: LaneEdges, rows: int) -> list[pl.BlockSpec]:
    """A tile's part of senders, weights, features and received; the table stays where it is."""
    neighbours, width, _ = edges.features.shape
    features = pl.BlockSpec((neighbours, width, TILE), lambda tile, *_: (0, 0, tile))
    table = pl.BlockSpec(memory_space=pl.ANY)
    return [tile_spec(neighbours), tile_spec(neighbours), features, tile_spec(rows), table]


def tile_spec(rows: int) -> pl.BlockSpec:
    """A tile's columns of an array [rows, n]."""
    return pl.BlockSpec((rows, TILE), lambda tile, *_: (0, tile))


def whole_specs(weights: LaneWeights) -> list[pl.BlockSpec]:
    """All of every weight, the same for all tiles."""
    return [pl.BlockSpec(x.shape, lambda tile, *_: (0, 0)) for x in weights]


def in_order() -> pltpu.CompilerParams:
    """One tile after another: the window, and the sums of a gradient, go from tile to tile."""
    return pltpu.CompilerParams(vmem_limit_bytes=VMEM, dimension_semantics=("arbitrary",))
