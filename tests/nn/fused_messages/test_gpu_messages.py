"""The kernels for GPUs against the dense form, interpreted: as ordinary operations instead of a GPU's."""

import json
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn.fused_messages.gpu.layout import TILE, blocks, node_tables, slot_edges, widths
from partoken_jax.nn.fused_messages.gpu.messages import gpu_messages, too_old
from partoken_jax.nn.fused_messages.weights import message_weights, tail
from partoken_jax.nn.gvp import norm_gated
from partoken_jax.nn.norms import vector_norm
from tests.experiments.test_compiled import ROOT, python_for
from tests.helpers import assert_close
from tests.nn.fused_messages.one_layer import (
    assert_like_the_dense_form,
    dense,
    error,
    first_rows,
    gradients,
    hidden_graph,
    layer,
)

interpreted = pytest.mark.skipif(too_old() is not None, reason=str(too_old()))
SIZES, NUM_NODES = (TILE + 3, 1, 2, 11), 2 * TILE - 20
"""A protein in two tiles, others in one, rows of padding and receivers beyond them."""


@pytest.fixture(scope="module")
def graph():
    return hidden_graph(SIZES, k=2, num_nodes=NUM_NODES, incomplete=(3, 70))


@pytest.fixture(scope="module")
def conv():
    return layer()


@pytest.fixture(scope="module")
def expected(conv, graph):
    """What the dense form makes of it."""
    return gradients(dense, conv, graph)()


def edges_of(graph):
    return slot_edges(graph.edges, jnp.asarray(graph.senders))


def fused(conv, graph):
    return gpu_messages(conv.message, graph.nodes, edges_of(graph), interpret=True)


def plain(conv, graph):
    """The same from what the kernels read, for all edges at once."""
    gvps, edges, wide = conv.message, edges_of(graph), widths(conv.message)
    weights = blocks(gvps, message_weights(gvps, graph.nodes, wide), graph.nodes)
    table, received = node_tables(gvps, graph.nodes, edges.sender.shape[1], jnp.float32)
    rows = table[edges.sender]

    def coordinates(x):
        return x.reshape(*x.shape[:-1], 3, -1)

    s, scalars = wide.scalars, len(weights.edge_s)
    from_edge = edges.features[..., scalars:] @ weights.edge_v
    vectors = coordinates(rows[..., s : s + 3 * len(weights.h1)])
    vh = vectors @ weights.h1 + coordinates(received[:, s:] + from_edge)
    of_edge = edges.features[..., :scalars] @ weights.edge_s
    first = jax.nn.relu(rows[..., :s] + received[:, :s] + of_edge + vector_norm(vh, axis=-2) @ weights.n1)
    vh = norm_gated(vh @ weights.v1, jax.nn.sigmoid) @ weights.h2
    second = jax.nn.relu(jnp.concatenate([first, vector_norm(vh, axis=-2)], axis=-1) @ weights.s2)
    vh = norm_gated(vh @ weights.v2, jax.nn.sigmoid) @ weights.h3
    message = jnp.concatenate([second, vector_norm(vh, axis=-2), vh.reshape(*vh.shape[:-2], -1)], axis=-1)
    summed = jnp.sum(edges.weight[..., None] * message, axis=0)
    return tail(gvps, summed.T, jnp.sum(edges.weight, axis=0)[: len(graph.senders)], wide)


def test_what_the_kernels_read_makes_the_messages_of_the_dense_form(conv, graph, expected):
    """On any jax: the weights cut into blocks, tables, edges in slots, and the senders' gradient."""
    assert_like_the_dense_form(gradients(plain, conv, graph), graph, expected)


@interpreted
def test_messages_and_gradients_are_those_of_the_dense_form(conv, graph, expected):
    """In float32, which has room only where it is interpreted."""
    assert_like_the_dense_form(gradients(fused, conv, graph), graph, expected)


def messages(apply, graphdef, params, graph):
    return jax.jit(lambda params: apply(nnx.merge(graphdef, params), graph))(params)


@interpreted
def test_messages_have_the_precision_that_is_set(conv, graph, expected):
    with jax.default_matmul_precision("tensorfloat32"):
        out = messages(fused, *conv, graph)
    assert 1e-6 < max(error(*pair) for pair in zip(out, expected[0], strict=True)) < 2**-16


@interpreted
def test_bfloat16_is_no_less_precise_than_in_the_dense_form(graph, expected):
    """Which also rounds between products."""
    rounded = layer(jnp.bfloat16)

    def errors(apply):
        out, found = gradients(apply, rounded, graph)()
        of_messages = [error(*pair) for pair in zip(out, expected[0], strict=True)]
        return max(of_messages), np.array([error(found[name], want) for name, want in expected[1].items()])

    (of_messages, of_gradients), of_dense = errors(fused), errors(dense)
    assert 1e-3 < of_messages < 1.1 * of_dense[0]
    assert np.all(of_gradients < np.maximum(1.2 * of_dense[1], 1e-2))


@interpreted
def test_batch_mates_and_padding_change_nothing(conv, graph, expected):
    """The first protein alone, in as many tiles, and among others."""
    found = messages(fused, *conv, first_rows(graph, TILE + 8, SIZES[0]))
    for got, want in zip(found, expected[0], strict=True):
        assert_close(got[: SIZES[0]], want[: SIZES[0]], 1e-5)


@interpreted
def test_float32_is_refused_on_a_device(conv, graph):
    graphdef, params = conv
    with pytest.raises(ValueError, match=r'do not compute in float32.* "tensorfloat32"'):
        gpu_messages(nnx.merge(graphdef, params).message, graph.nodes, edges_of(graph))


def test_an_old_jax_is_refused_in_one_sentence(conv, graph, monkeypatch):
    monkeypatch.delattr("jax.experimental.pallas.mosaic_gpu.store", raising=False)
    with pytest.raises(RuntimeError, match=r"need jax 0.12 or newer, but this is \d"):
        messages(fused, *conv, graph)


def test_both_kernels_compile_for_an_h100():
    made = subprocess.run(
        [python_for("cuda"), "-c", CODE], cwd=ROOT, check=True, capture_output=True, text=True
    )
    said = json.loads(made.stdout.splitlines()[-1])
    if isinstance(said, str):
        pytest.skip(said)
    assert said["bytes"] == said["kernel_bytes"] + said["other_bytes"] and said["kernel_bytes"] > 0


CODE = """
import json
from experiments import fused_layer as f
from partoken_jax.nn.fused_messages.gpu.messages import too_old
f.use_compilers()
print(json.dumps(too_old() or f.compiled(f.Program("h100", "bfloat16", "gradient", 1))))
"""
