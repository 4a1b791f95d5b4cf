"""The two ways for a gradient to reach the senders agree, whatever the graph."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from partoken_jax.nn import gather
from partoken_jax.nn.gather import gather_senders, reverse_neighbours
from tests.helpers import assert_close

N, K = 40, 4


def neighbours_of(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    table = np.argsort(rng.random((N, N)), axis=1)[:, :K]
    if kind == "one sender has more edges than the table has places":
        table[:30, 0] = 7
    if kind == "nobody else than two senders":
        table = np.tile([3, 9], (N, K // 2))
    return table.astype(np.int32)


@pytest.mark.parametrize(
    "kind, fits",
    [
        ("random", True),
        ("one sender has more edges than the table has places", False),
        ("nobody else than two senders", False),
    ],
)
def test_gradients_agree_with_a_plain_gather(kind, fits):
    rng = np.random.default_rng(1)
    table = jnp.asarray(neighbours_of(kind))
    mask = jnp.asarray(rng.random((N, K)) < 0.8)
    x = jnp.asarray(rng.normal(size=(N, 3, 2)), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=(N, K, 3, 2)) * mask[..., None, None], jnp.float32)

    def total(read, x):
        return jnp.sum(jnp.sin(read(x)) * cotangent)

    reverse = jax.jit(reverse_neighbours)(table, mask)
    assert bool(reverse.fits) == fits
    got = jax.jit(jax.grad(lambda x: total(lambda x: gather_senders(x, table, reverse), x)))(x)
    want = jax.grad(lambda x: total(lambda x: x[table], x))(x)
    assert_close(got, want)


def test_the_table_lists_every_real_edge_once():
    mask = np.random.default_rng(2).random((N, K)) < 0.7
    table = neighbours_of("random")
    reverse = reverse_neighbours(jnp.asarray(table), jnp.asarray(mask))
    edges = np.asarray(reverse.edge)
    assert edges.shape == (N, gather.PLACES_PER_NEIGHBOUR * K)
    for sender in range(N):
        mine = edges[sender][edges[sender] < N * K]
        assert sorted(mine) == sorted(np.flatnonzero(mask.reshape(-1) & (table.reshape(-1) == sender)))


def test_the_gradient_does_not_scatter_unless_it_must():
    """What the table is for: in the branch that is taken when it fits, there is no scatter."""
    table, mask = jnp.asarray(neighbours_of("random")), jnp.ones((N, K), bool)
    reverse = reverse_neighbours(table, mask)
    x = jnp.ones((N, 2))
    program = jax.make_jaxpr(jax.grad(lambda x: jnp.sum(jnp.sin(gather_senders(x, table, reverse)))))(x)
    conditional = next(e for e in program.eqns if e.primitive.name == "cond")
    scatter, read = (str(branch) for branch in conditional.params["branches"])  # index 1: the condition holds
    assert "scatter" in scatter and "scatter" not in read
    assert str(program).count("scatter-add") == 1
