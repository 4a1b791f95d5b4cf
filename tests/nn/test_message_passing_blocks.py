"""The messages by blocks, a TPU's form as ordinary operations, against the dense form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.nn import message_passing_blocks
from partoken_jax.nn.encoder import GVPEncoder
from partoken_jax.nn.forms import Form
from partoken_jax.nn.message_passing_blocks import block_edges, block_messages
from tests.helpers import assert_close, by_path, random_graph
from tests.nn.fused_messages.one_layer import (
    EDGE,
    assert_like_the_dense_form,
    dense,
    error,
    first_rows,
    gradients,
    hidden_graph,
    layer,
)

SIZES = (150, 1, 2, 80)
NUM_NODES = 344
"""With blocks of 128 a protein in two of them, several in one, rows of padding and columns beyond them."""


@pytest.fixture(scope="module")
def graph():
    return hidden_graph(SIZES, k=6, num_nodes=NUM_NODES, incomplete=(3, 200))


@pytest.fixture(scope="module")
def conv():
    return layer()


@pytest.fixture(params=[128, 512], ids=["three blocks", "one block"])
def residues(request, monkeypatch):
    monkeypatch.setattr(message_passing_blocks, "RESIDUES", request.param)


def by_blocks(conv, graph):
    return block_messages(conv.message, graph.nodes, block_edges(graph.edges, jnp.asarray(graph.senders)))


def crowded(graph):
    """Every residue of the first protein hears its second one, which then sends along more edges than the
    reversed table has places for."""
    senders = graph.senders.copy()
    senders[:150, 0] = np.where(graph.edges.mask[:150, 0], 1, senders[:150, 0])
    return graph._replace(senders=senders)


@pytest.mark.parametrize("change", [lambda graph: graph, crowded], ids=["usual", "crowded"])
def test_messages_and_gradients_are_those_of_the_dense_form(conv, graph, change, residues):
    graph = change(graph)
    run = gradients(by_blocks, conv, graph)
    assert_like_the_dense_form(run, graph, gradients(dense, conv, graph)())


def test_batch_mates_and_padding_change_nothing(conv, graph, residues):
    """Neither the messages of the first protein nor the gradients of its residues and edges: alone, in fewer
    or smaller blocks, and among others, whose own results do not count."""
    graphdef, params = conv
    rng = np.random.default_rng(3)
    cotangents = [rng.normal(size=(150, *x.shape[1:])).astype(np.float32) for x in graph.nodes]

    def run(graph):
        def total(nodes, scalars, vectors):
            here = graph._replace(nodes=nodes, edges=graph.edges._replace(scalars=scalars, vectors=vectors))
            out = by_blocks(nnx.merge(graphdef, params), here)
            return sum(jnp.vdot(x[:150], c) for x, c in zip(out, cotangents, strict=True)), out

        arguments = graph.nodes, graph.edges.scalars, graph.edges.vectors
        found = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(*arguments)
        return [x[:150] for x in jax.tree.leaves(found)]

    for alone, among in zip(run(first_rows(graph, 160, 150)), run(graph), strict=True):
        assert_close(alone, among, 1e-5)


@pytest.mark.parametrize("sizes", [(1,), (2,), (1, 1)], ids=str)
@pytest.mark.parametrize("k", [1, 16])
def test_the_smallest_batches_have_messages_and_gradients(conv, sizes, k):
    """The reversed table then has more places than there are edges."""
    graph = hidden_graph(sizes, k=k, num_nodes=sum(sizes))
    found, want = (jax.tree.leaves(gradients(apply, conv, graph)()) for apply in (by_blocks, dense))
    assert any(np.any(x) for x in want) == (sizes == (2,))  # a residue alone hears nobody
    for got, wanted in zip(found, want, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_messages_have_the_precision_that_is_set(conv, graph):
    graphdef, params = conv

    def found(apply, graphdef):
        return jax.jit(lambda params: apply(nnx.merge(graphdef, params), graph))(params)

    exact = found(dense, graphdef)

    def errors(apply, graphdef):
        return [error(*pair) for pair in zip(found(apply, graphdef), exact, strict=True)]

    rounded = layer(jnp.bfloat16)[0]
    # No less precise than the dense form, which also rounds between products.
    assert 1e-3 < max(errors(by_blocks, rounded)) < 1.1 * max(errors(dense, rounded))


def test_gradients_in_bfloat16_are_no_less_precise_than_those_of_the_dense_form(conv, graph, residues):
    exact, (rounded, params) = gradients(dense, conv, graph)()[1], (layer(jnp.bfloat16)[0], conv[1])
    edges = graph.edges._replace(
        **{name: getattr(graph.edges, name).astype(jnp.bfloat16) for name in ("scalars", "vectors")}
    )
    found, of_dense = (
        gradients(apply, (rounded, params), graph._replace(edges=edges))()[1] for apply in (by_blocks, dense)
    )
    assert found.keys() == of_dense.keys()
    assert [x.dtype for x in found.values()] == [x.dtype for x in of_dense.values()]
    ours, theirs = ([error(by[name], exact[name]) for name in exact] for by in (found, of_dense))
    assert 1e-3 < max(ours) < 1.5 * max(theirs)


@pytest.mark.parametrize(("precision", "products"), [("float32", "HIGHEST"), ("tensorfloat32", "HIGH")])
def test_the_compiler_is_told_how_precise_products_are(conv, graph, precision, products):
    """And does not get the parts of numbers, which it may take for the numbers."""
    graphdef, params = conv
    with jax.default_matmul_precision(precision):
        text = jax.jit(lambda p: by_blocks(nnx.merge(graphdef, p), graph)).lower(params).as_text()
    assert text.count(f"precision = [{products}, {products}]") >= 8 and "bf16" not in text


@pytest.mark.parametrize("again", ["none", "layer"])
def test_an_encoder_has_the_same_features_and_gradients(again):
    """Layers with weights of their own, under scan, kept or computed again."""
    graph = random_graph(np.random.default_rng(1), (9, 1, 6), k=4, num_nodes=20)
    made = GVPEncoder(
        (6, 3), EDGE, (16, 4), (8, 1), num_layers=2, dropout=0.0, residue_types=False, rngs=nnx.Rngs(0)
    )
    graphdef, params = nnx.split(made)

    def run(form):
        def total(params):
            out = nnx.merge(graphdef, params)(graph, form=form)
            return jnp.sum(out**2), out

        gradient, out = jax.jit(jax.grad(total, has_aux=True))(params)
        return {"out": out} | by_path(gradient)

    found, want = run(Form("blocks", again)), run(Form("dense", "none"))
    assert found.keys() == want.keys() and len(want) > 20
    for name, values in want.items():
        assert_close(found[name], values, 1e-4, name)
