"""GVPConv and its layer: the plain and dense forms agree, the order of edges and masked ones do not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.graphs.types import HiddenGraph, HiddenNodes, edge_list
from partoken_jax.nn import encoder as encoder_module
from partoken_jax.nn.encoder import GVPEncoder
from partoken_jax.nn.forms import Form
from partoken_jax.nn.message_passing import GVPConv, GVPConvLayer
from tests.helpers import (
    assert_close,
    by_path,
    permuted_nodes,
    random_graph,
    random_rotation,
    reordered_neighbours,
    rotated_vectors,
    shuffled_edges,
)

NODE, EDGE = (6, 3), (5, 2)
SIZES = (9, 1, 2, 6)
KEY = jax.random.key(3)
VARIANTS = {
    "1 GVP": {"num_gvps": 1},
    "2 GVPs": {"num_gvps": 2},
    "3 GVPs": {"num_gvps": 3},
    "sum": {"num_gvps": 3, "aggregate": "sum"},
    "gate": {"num_gvps": 3, "vector_gate": True},
    "2 GVPs, gate, sum": {"num_gvps": 2, "vector_gate": True, "aggregate": "sum"},
    "scalars out": {"num_gvps": 3, "dims_out": (7, 0)},
}


@pytest.fixture(scope="module")
def graph():
    return random_graph(
        np.random.default_rng(0), SIZES, k=4, num_nodes=21, node_dims=NODE, edge_dims=EDGE, incomplete=(3,)
    )


def as_hidden(graph):
    return HiddenGraph(
        nodes=HiddenNodes(graph.nodes.scalars, graph.nodes.vectors),
        edges=graph.edges,
        globals=None,
        senders=graph.senders,
        receivers=graph.receivers,
        n_node=graph.n_node,
        n_edge=graph.n_edge,
    )


def run(apply, module, graph, cotangents):
    """Outputs and gradients (parameters, node and edge features) of Σ out · cotangent."""
    graphdef, params = nnx.split(module, nnx.Param)

    def total(params, nodes, scalars, vectors):
        edges = graph.edges._replace(scalars=scalars, vectors=vectors)
        out = apply(nnx.merge(graphdef, params), graph._replace(nodes=nodes, edges=edges))
        return sum(jnp.sum(x * c) for x, c in zip(out, cotangents, strict=True)), out

    grad = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    (params, nodes), out = grad(params, graph.nodes, graph.edges.scalars, graph.edges.vectors)
    return out, by_path(params) | dict(zip("sv", nodes, strict=True))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_dense_and_general_conv_agree(graph, options):
    rng = np.random.default_rng(1)
    dims_out = options.get("dims_out", (7, 3))
    options = {k: v for k, v in options.items() if k != "dims_out"}
    conv = GVPConv(NODE, dims_out, EDGE, rngs=nnx.Rngs(0), **options)
    num_nodes = len(graph.nodes.mask)
    cotangents = rng.normal(size=(num_nodes, dims_out[0])), rng.normal(size=(num_nodes, dims_out[1], 3))
    dense, dense_gradients = run(lambda m, g: m(g), conv, as_hidden(graph), cotangents)
    loose = as_hidden(shuffled_edges(graph, rng))
    general, gradients = run(lambda m, g: m(g), conv, loose, cotangents)

    for got, want in zip(dense, general, strict=True):
        assert got.shape == want.shape
        if want.size:
            assert_close(got, want)
    lonely = ~graph.edges.mask.any(1)
    assert lonely[3] and lonely[-1] and not lonely.all()
    for part in (*dense, *general):
        np.testing.assert_array_equal(np.asarray(part)[lonely], 0)
    assert gradients.keys() == dense_gradients.keys()
    for name, want in gradients.items():
        assert_close(dense_gradients[name], want, 1e-4, name)


@pytest.mark.parametrize("chunk", [4, 7, 50], ids=["with a remainder", "even", "larger than the graph"])
@pytest.mark.parametrize("variant", ["3 GVPs", "2 GVPs, gate, sum"])
def test_chunks_change_nothing(graph, variant, chunk):
    rng = np.random.default_rng(1)
    conv = GVPConv(NODE, (7, 3), EDGE, rngs=nnx.Rngs(0), **VARIANTS[variant])
    cotangents = rng.normal(size=(len(graph.nodes.mask), 7)), rng.normal(size=(len(graph.nodes.mask), 3, 3))
    whole, gradients = run(lambda m, g: m(g), conv, as_hidden(graph), cotangents)
    parts, chunked = run(lambda m, g: m(g, chunk=chunk), conv, as_hidden(graph), cotangents)
    for got, want in zip(parts, whole, strict=True):
        assert_close(got, want)
    for name, want in gradients.items():
        assert_close(chunked[name], want, 1e-4, name)


def encoder(num_layers):
    return GVPEncoder(
        NODE, EDGE, (8, 3), (5, 2), num_layers=num_layers, dropout=0.3, residue_types=False, rngs=nnx.Rngs(0),
    )  # fmt: skip


def test_every_way_to_the_gradient_gives_the_same_numbers(graph):
    """With dropout on, so that what is computed again must draw the same units."""
    results = {}
    choices = [("none", "scatter"), ("layer", "scatter"), ("chunk", "scatter"), ("none", "gather")]
    graphdef, params = nnx.split(encoder(num_layers=1), nnx.Param)
    for choice in [*choices, ("layer", "gather")]:
        form = Form("dense", *choice)

        def total(params, form=form):
            out = nnx.merge(graphdef, params)(graph, key=KEY, form=form)
            return jnp.sum(jnp.square(out)), out

        gradients, out = jax.jit(jax.grad(total, has_aux=True))(params)
        results[choice] = (out, by_path(gradients))
    out, gradients = results.pop(choices[0])
    for choice, (other_out, other_gradients) in results.items():
        assert_close(other_out, out)
        for name, want in gradients.items():
            assert_close(other_gradients[name], want, 1e-4, f"{choice} {name}")


@pytest.mark.parametrize("again", ["none", "layer"])
def test_rows_that_fill_up_blocks_change_nothing(again, graph, monkeypatch):
    """With dropout on, which belongs to residues and not to rows."""
    graphdef, params = nnx.split(encoder(num_layers=2), nnx.Param)
    form, results = Form("dense", again, "gather"), []
    rows = graph.senders.shape[0]
    for block, fewest in ((encoder_module.BLOCK, encoder_module.FEWEST_BLOCKS), (rows - 1, 1)):
        monkeypatch.setattr(encoder_module, "BLOCK", block)
        monkeypatch.setattr(encoder_module, "FEWEST_BLOCKS", fewest)

        def total(params):
            out = nnx.merge(graphdef, params)(graph, key=KEY, form=form)
            return jnp.sum(jnp.square(out)), out

        results.append(jax.jit(jax.grad(total, has_aux=True))(params))
    (want, out), (gradients, other) = results
    assert out.shape[0] == rows
    assert_close(other, out)
    for name, gradient in by_path(want).items():
        assert_close(by_path(gradients)[name], gradient, 1e-4, name)


def test_every_layer_keeps_its_own_dropout_when_computed_again(graph):
    outputs = []
    graphdef, params = nnx.split(encoder(num_layers=2), nnx.Param)
    for form in (Form("dense", again) for again in ("none", "layer", "chunk")):
        forward = jax.jit(lambda params, form=form: nnx.merge(graphdef, params)(graph, key=KEY, form=form))
        outputs.append(forward(params))
    for other in outputs[1:]:
        assert_close(other, outputs[0])


@pytest.fixture(scope="module")
def layers():
    """layers[form](graph) → (s, v) of one GVPConvLayer, compiled."""
    layer = GVPConvLayer(NODE, EDGE, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(layer)

    @jax.jit
    def forward(graph):
        return nnx.merge(graphdef, state)(as_hidden(graph))

    return {"table": forward, "list": lambda graph: forward(edge_list(graph))}


FORMS = ("table", "list")


@pytest.mark.parametrize("form", FORMS)
def test_layer_is_equivariant(graph, layers, form):
    turn = random_rotation(np.random.default_rng(2))
    s, v = layers[form](graph)
    turned_s, turned_v = layers[form](rotated_vectors(graph, turn))
    assert_close(turned_s, s)
    assert_close(turned_v, v @ turn.T)


@pytest.mark.parametrize("form", FORMS)
def test_masked_edges_do_not_count(graph, layers, form):
    garbage = ~graph.edges.mask
    edges = graph.edges._replace(
        scalars=np.where(garbage[..., None], np.float32(1e3), graph.edges.scalars),
        vectors=np.where(garbage[..., None, None], np.float32(-1e3), graph.edges.vectors),
    )
    for got, want in zip(layers[form](graph._replace(edges=edges)), layers[form](graph), strict=True):
        np.testing.assert_array_equal(got, want)


def test_order_of_neighbours_does_not_matter(graph, layers):
    other = reordered_neighbours(graph, np.random.default_rng(3))
    assert np.any(other.senders != graph.senders)
    for got, want in zip(layers["table"](other), layers["table"](graph), strict=True):
        assert_close(got, want)


def test_layer_is_permutation_equivariant(graph, layers):
    rng = np.random.default_rng(4)
    order = rng.permutation(len(graph.nodes.mask))
    plain = layers["list"](graph)
    permuted = layers["list"](permuted_nodes(graph, order))
    for got, want, dense in zip(permuted, plain, layers["table"](graph), strict=True):
        assert_close(got, np.asarray(want)[order])
        assert_close(dense, want)


def test_direction_of_edges_matters(graph, layers):
    """Messages go from sender to receiver: reversed edges give other features."""
    edges = edge_list(graph)
    back = edges._replace(senders=edges.receivers, receivers=edges.senders)
    assert np.abs(layers["list"](back)[0] - layers["list"](edges)[0]).max() > 0.01


def test_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match="aggregate is 'max'"):
        GVPConv(NODE, NODE, EDGE, aggregate="max", rngs=nnx.Rngs(0))
