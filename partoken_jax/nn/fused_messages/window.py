"""The part of the senders' table that a kernel holds, whatever the size of the table.

The residues of a protein are neighbours in the table too, so a tile of receivers reads a few chunks of 128
residues around it, and the next tile almost the same. A kernel holds `WINDOW` chunks, chunk c at place
c mod `WINDOW`, and fetches one when it is read and another one is in its place. Where a tile reads more
chunks than that they push one another out: slower, with the same result.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from partoken_jax.nn.fused_messages.layout import TILE

WINDOW = 16
"""Chunks held: enough for 2,000 residues between the first and the last sender of a tile."""
NOTHING = -1


def start_empty(held) -> None:
    """At the first tile: no place holds a chunk. `held`: reference to int32 [WINDOW]."""

    @pl.when(pl.program_id(0) == 0)
    def start():
        for place in range(held.shape[0]):
            held[place] = NOTHING


def fetched(chunk: jax.Array, held, table, window, copied) -> jax.Array:
    """The place of a chunk in the window, where it lies afterwards.

    References to `held` int32 [WINDOW], the chunk at each place; `table` [F, n]; `window` [WINDOW, F, R];
    `copied`, a semaphore.
    """
    place = jax.lax.rem(chunk, held.shape[0])

    @pl.when(held[place] != chunk)
    def fetch():
        _copy(columns_of(table, chunk), window.at[place], copied)
        held[place] = chunk

    return place


def fetched_with_sums(chunk: jax.Array, held, table, window, sums, sums_window, copied) -> jax.Array:
    """The same for a table and a table of sums [F, n], of which the chunk that gives way is written back."""
    place = jax.lax.rem(chunk, held.shape[0])

    @pl.when(held[place] != chunk)
    def exchange():
        put_back(place, held, sums, sums_window, copied)
        _copy(columns_of(table, chunk), window.at[place], copied)
        _copy(columns_of(sums, chunk), sums_window.at[place], copied)
        held[place] = chunk

    return place


def put_back(place, held, sums, sums_window, copied) -> None:
    """Writes the sums at a place of the window to their table, if it holds any."""

    @pl.when(held[place] != NOTHING)
    def write():
        _copy(sums_window.at[place], columns_of(sums, held[place]), copied)


def _copy(source, target, copied) -> None:
    # Not `pltpu.sync_copy`, which asks for the kind of TPU at hand: where it is compiled there may be none.
    copy = pltpu.make_async_copy(source, target, copied)
    copy.start()
    copy.wait()


def columns_of(table, chunk: jax.Array):
    """The columns [F, R] of a chunk in a table [F, n]."""
    return table.at[:, pl.ds(pl.multiple_of(chunk * TILE, TILE), TILE)]


def senders_of(tile: jax.Array, first, last, sender: list[jax.Array], fetch, window) -> jax.Array:
    """The rows of the table that J slots of a tile read, side by side: float32 [F, J R].

    Args:
      first, last: references to int32 [T], the chunks between which a tile's senders are.
      sender: J arrays int32 [1, R], for every receiver the residue that it reads.
      fetch: brings a chunk into the window and tells its place.
      window: reference to float32 [WINDOW, F, R].
    """
    rows = window.shape[1]

    def add_chunk(chunk, found):
        here = window[fetch(chunk)]
        return [
            jnp.where((number & -TILE) == chunk * TILE, _picked(here, number), so_far)
            for number, so_far in zip(sender, found, strict=True)
        ]

    nothing = [jnp.zeros((rows, TILE), jnp.float32) for _ in sender]
    found = jax.lax.fori_loop(first[tile], last[tile] + 1, add_chunk, nothing)
    return jnp.concatenate(found, axis=1)


def _picked(chunk: jax.Array, number: jax.Array) -> jax.Array:
    """Columns `number` mod R [1, R] of a chunk [F, R]."""
    column = jnp.broadcast_to(number & (TILE - 1), chunk.shape)
    return jnp.take_along_axis(chunk, column, axis=1, mode="promise_in_bounds")
