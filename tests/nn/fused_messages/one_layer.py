"""One conv layer of the published widths, its dense form, and what the tests of the kernels compare."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from partoken_jax.graphs.types import EdgeFeatures, HiddenGraph, HiddenNodes
from partoken_jax.nn.message_passing import GVPConv
from tests.helpers import assert_close, by_path, random_graph

NODE, EDGE = (100, 16), (32, 1)
"""The published widths."""


def layer(dtype=None):
    """The layer's graph definition and its parameters."""
    return nnx.split(GVPConv(NODE, NODE, EDGE, dtype=dtype, rngs=nnx.Rngs(0)))


def hidden_graph(sizes, *, k, num_nodes, incomplete=()):
    """Proteins of random features, rows of padding behind them."""
    drawn = random_graph(
        np.random.default_rng(0),
        sizes,
        k=k,
        num_nodes=num_nodes,
        node_dims=NODE,
        edge_dims=EDGE,
        incomplete=incomplete,
    )
    nodes = HiddenNodes(drawn.nodes.scalars, drawn.nodes.vectors)
    return HiddenGraph(**{**drawn._asdict(), "nodes": nodes, "globals": None})


def first_rows(graph, rows, residues):
    """The protein of the first so many residues alone, in so many rows."""
    mask = graph.edges.mask.copy()[:rows]
    mask[residues:] = False
    return graph._replace(
        nodes=jax.tree.map(lambda x: x[:rows], graph.nodes),
        edges=EdgeFeatures(graph.edges.scalars[:rows], graph.edges.vectors[:rows], mask),
        senders=np.where(mask, graph.senders[:rows], np.arange(rows)[:, None]),
    )


def dense(conv, graph):
    return conv(graph)


def gradients(apply, conv, graph):
    """Compiled; the messages, and the gradients of every parameter and input, of Σ out · cotangent."""
    graphdef, params = conv
    rng = np.random.default_rng(1)
    cotangents = [rng.normal(size=x.shape).astype(np.float32) for x in graph.nodes]

    def total(params, nodes, scalars, vectors):
        edges = EdgeFeatures(scalars, vectors, graph.edges.mask)
        out = apply(nnx.merge(graphdef, params), graph._replace(nodes=nodes, edges=edges))
        return sum(jnp.vdot(x, c) for x, c in zip(out, cotangents, strict=True)), out

    grad = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3), has_aux=True))
    arguments = params, graph.nodes, graph.edges.scalars, graph.edges.vectors

    def run():
        (params, nodes, *edges), out = jax.block_until_ready(grad(*arguments))
        return out, by_path(params) | dict(zip(("s", "v", "edge_s", "edge_v"), (*nodes, *edges), strict=True))

    return run


def assert_like_the_dense_form(run, graph, expected):
    """Messages to 1e-5, gradients to 1e-4, nothing where nobody is heard (residue 3 and rows of padding), and
    the same bits on every run."""
    (out, found), (want_out, want) = run(), expected
    for got, wanted in zip(out, want_out, strict=True):
        assert_close(got, wanted, 1e-5)
    assert found.keys() == want.keys()
    for name, wanted in want.items():
        assert_close(found[name], wanted, 1e-4, name)
    lonely = ~graph.edges.mask.any(axis=1)
    assert lonely[3] and lonely[-1] and not lonely.all()
    assert not np.asarray(out[0])[lonely].any() and not np.asarray(out[1])[lonely].any()
    for first, second in zip(jax.tree.leaves((out, found)), jax.tree.leaves(run()), strict=True):
        np.testing.assert_array_equal(first, second)


def error(found, expected):
    """Norm of the difference relative to the norm."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)
