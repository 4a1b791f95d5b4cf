"""Reading the senders' features, and two ways for the gradient to find its way back to them.

Forward, a row of features is read for every edge. Backward, the gradients of all edges with one sender have
to be summed: by a scatter-add, or by reading, for every node, the edges that it sends along (a
reverse-neighbour table). On a CPU the scatter-add is faster; on a GPU its order is not fixed, and jaxlib
0.10.2 to 0.11.0 need up to 2000 times as long for it (https://github.com/jax-ml/jax/issues/38806).

What is read through the table is added up place by place: XLA then reads and adds in one operation, and no
array of [N, R, ...] is written and read again.

Legend: N nodes, K neighbours, R places of the reverse table, E = N · K edges.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

PLACES_PER_NEIGHBOUR = 3
"""R = 3 K. Geometry bounds how many residues can have one residue among their K nearest: in 600 chains of the
EC task at most 78 for K = 30 and 34 for K = 16. A fuller graph is summed by a scatter-add, so that the result
never depends on R."""


class ReverseNeighbours(NamedTuple):
    """Which edges every node is the sender of."""

    edge: jax.Array
    """int32 [N, R]: numbers of edges, filled up with E."""
    fits: jax.Array
    """bool []: no node sends along more than R edges."""


def reverse_neighbours(neighbours: jax.Array, mask: jax.Array) -> ReverseNeighbours:
    """The reverse of a neighbour table [N, K]; edges outside `mask` bool [N, K] are left out."""
    num_nodes, width = neighbours.shape
    num_edges, places = neighbours.size, min(PLACES_PER_NEIGHBOUR * width, neighbours.size)
    sender = jnp.where(mask, neighbours, num_nodes).reshape(-1)
    sender, edge = jax.lax.sort((sender, jnp.arange(num_edges, dtype=jnp.int32)), num_keys=1)
    first = jnp.searchsorted(sender, jnp.arange(num_nodes + 1)).astype(jnp.int32)
    count = first[1:] - first[:-1]
    place = jnp.arange(places, dtype=jnp.int32)
    position = jnp.minimum(first[:-1, None] + place, num_edges - 1)
    return ReverseNeighbours(
        jnp.where(place < count[:, None], edge[position], num_edges), jnp.max(count) <= places
    )


@jax.custom_vjp
def gather_senders(x: jax.Array, neighbours: jax.Array, reverse: ReverseNeighbours) -> jax.Array:
    """x[neighbours] for x [N, ...] and neighbours [N, K], with a gradient that reads instead of scattering.

    The gradient of edges that `reverse` leaves out is taken to be 0.
    """
    return x[neighbours]


def _forward(x, neighbours, reverse):
    return x[neighbours], (neighbours, reverse)


def _backward(residuals, gradient):
    neighbours, reverse = residuals
    return senders_gradient(gradient, neighbours, reverse), None, None


gather_senders.defvjp(_forward, _backward)


def senders_gradient(gradient: jax.Array, neighbours: jax.Array, reverse: ReverseNeighbours) -> jax.Array:
    """The sums [N, ...] of what belongs to the edges of each sender, [N, K, ...] for neighbours [N, K], or
    both in another order of edges, which `reverse` then numbers."""
    num_nodes, at_most = reverse.edge.shape
    width = at_most // min(PLACES_PER_NEIGHBOUR, num_nodes)
    flat = gradient.reshape(neighbours.size, *gradient.shape[2:])

    def add_places(total, places):
        for edge in places:
            total = total + flat.at[edge].get(mode="fill", fill_value=0).astype(jnp.float32)
        return total, None

    def read():
        # K places at a time: a body of all of them would be a large program.
        places = reverse.edge.T.reshape(-1, width, num_nodes)
        nothing = jnp.zeros((num_nodes, *flat.shape[1:]), jnp.float32)
        return jax.lax.scan(add_places, nothing, places)[0].astype(flat.dtype)

    def scatter():
        return jnp.zeros((num_nodes, *flat.shape[1:]), flat.dtype).at[neighbours.reshape(-1)].add(flat)

    return jax.lax.cond(reverse.fits, read, scatter)
