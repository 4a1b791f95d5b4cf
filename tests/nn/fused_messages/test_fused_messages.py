"""The fused messages against the dense form, interpreted: as ordinary operations instead of a TPU's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.config import ConfigError, ModelConfig, TrainConfig
from partoken_jax.graphs.types import HiddenGraph, HiddenNodes
from partoken_jax.nn.encoder import GVPEncoder
from partoken_jax.nn.forms import Target, form_of
from partoken_jax.nn.fused_messages.layout import TILE, lane_edges
from partoken_jax.nn.fused_messages.messages import fused_messages
from partoken_jax.nn.fused_messages.products import times
from partoken_jax.nn.message_passing import GVPConv
from partoken_jax.training.loop import train
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
NUM_NODES = 3 * TILE - 40
"""A protein in two tiles, several in one, rows of padding and columns beyond them."""


@pytest.fixture(scope="module")
def graph():
    return hidden_graph(SIZES, k=6, num_nodes=NUM_NODES, incomplete=(3, 200))


@pytest.fixture(scope="module")
def conv():
    return layer()


def fused(conv, graph, **options):
    edges = lane_edges(graph.edges, jnp.asarray(graph.senders))
    return fused_messages(conv.message, graph.nodes, edges, interpret=True, **options)


@pytest.fixture(scope="module")
def expected(conv, graph):
    """What the dense form makes of it."""
    return gradients(dense, conv, graph)()


@pytest.mark.parametrize("window", [16, 1], ids=["the table fits", "a tile reads more than is held"])
def test_messages_and_gradients_are_those_of_the_dense_form(conv, graph, expected, window):
    run = gradients(functools.partial(fused, window=window), conv, graph)
    assert_like_the_dense_form(run, graph, expected)


@pytest.mark.parametrize(
    "precision, digits", [("float32", 23), ("tensorfloat32", 16), ("bfloat16", 8)], ids=lambda x: str(x)
)
def test_products_and_their_gradients_have_the_digits_of_their_precision(precision, digits):
    rng = np.random.default_rng(2)
    weight, x, cotangent = (rng.normal(size=shape) for shape in ((7, 40), (40, 9), (7, 9)))
    product, pull = jax.vjp(
        functools.partial(times, precision=precision), *(jnp.asarray(a, jnp.float32) for a in (weight, x))
    )
    d_weight, d_x = pull(jnp.asarray(cotangent, jnp.float32))
    pairs = (product, weight @ x), (d_weight, cotangent @ x.T), (d_x, weight.T @ cotangent)
    errors = [error(*pair) for pair in pairs]
    assert max(errors) < 2.0**-digits
    assert min(errors) > 2.0 ** -(digits + 4)


def test_messages_have_the_precision_that_is_set(conv, graph, expected):
    graphdef, params = conv

    def found(apply, graphdef):
        out = jax.jit(lambda params: apply(nnx.merge(graphdef, params), graph))(params)
        return [error(*pair) for pair in zip(out, expected[0], strict=True)]

    rounded = layer(jnp.bfloat16)[0]
    with jax.default_matmul_precision("tensorfloat32"):
        assert 1e-6 < max(found(fused, graphdef)) < 2**-16
    of_dense = found(dense, rounded)
    # No less precise than the dense form, which also rounds between products.
    assert 1e-3 < max(found(fused, rounded)) < 1.1 * max(of_dense)


def encoder():
    made = GVPEncoder(
        (6, 3), EDGE, (16, 4), (8, 1), num_layers=2, dropout=0.0, residue_types=False, rngs=nnx.Rngs(0)
    )
    return nnx.split(made)


@pytest.fixture(scope="module")
def small():
    return random_graph(np.random.default_rng(1), (9, 1, 6), k=1, num_nodes=20)


def program(graph, platform, message_passing):
    """The text of the gradient of an encoder, made for a platform."""
    graphdef, params = encoder()
    config = ModelConfig(message_passing=message_passing, rematerialise="layer")
    form = form_of(config, Target(platform), graph)

    def loss(params):
        return jnp.sum(nnx.merge(graphdef, params)(graph, form=form) ** 2)

    traced = jax.jit(jax.grad(loss)).trace(params)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_layers_computed_again_have_the_same_gradient(small):
    """Under scan and jax.checkpoint: two layers with weights of their own."""
    dims = (6, 3)
    splits = [nnx.split(GVPConv(dims, dims, EDGE, rngs=nnx.Rngs(seed))) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[params for _, params in splits])
    start = HiddenNodes(small.nodes.scalars, small.nodes.vectors)
    graph = HiddenGraph(**{**small._asdict(), "nodes": start, "globals": None})

    def gradient(apply):
        @jax.checkpoint
        def layer(nodes, params):
            update = apply(nnx.merge(splits[0][0], params), graph._replace(nodes=nodes))
            return HiddenNodes(*(x + y for x, y in zip(nodes, update, strict=True))), None

        def total(stacked):
            nodes, _ = jax.lax.scan(layer, start, stacked)
            return sum(jnp.sum(x**2) for x in nodes)

        return by_path(jax.jit(jax.grad(total))(stacked))

    found, want = gradient(fused), gradient(dense)
    for name, values in want.items():
        assert_close(found[name], values, 1e-4, name)


def test_a_program_for_a_tpu_has_one_kernel_each_way(small):
    text = program(small, "tpu", "fused")
    # Forward, and backward the layer computed again before its gradient.
    assert text.count("@tpu_custom_call") == 3
    assert text.count('kernel_name = "gvp_messages"') == 2


def test_elsewhere_the_dense_form_is_read(small):
    assert program(small, "cpu", "fused") == program(small, "cpu", "dense")


def test_batch_mates_and_padding_change_nothing(conv, graph, expected):
    """The first protein of 150 residues alone, in 2 tiles, and among others, in 3."""
    graphdef, params = conv
    alone = first_rows(graph, 160, 150)
    found = jax.jit(lambda: fused(nnx.merge(graphdef, params), alone))()
    for got, want in zip(found, expected[0], strict=True):
        assert_close(got[:150], want[:150], 1e-5)


def test_training_is_refused_where_the_kernel_cannot_run(tmp_path):
    """Before anything is read or written."""
    config = TrainConfig(model=ModelConfig(message_passing="fused"), run_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"message_passing is 'fused', but .* on this device \(cpu\)"):
        train(config)
    assert not (tmp_path / "run").exists()
