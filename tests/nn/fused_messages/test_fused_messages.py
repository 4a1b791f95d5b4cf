"""The fused messages against the dense form, interpreted: as ordinary operations instead of a TPU's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.config import ConfigError, ModelConfig, TrainConfig
from partoken_jax.graphs.types import EdgeFeatures, HiddenGraph, HiddenNodes
from partoken_jax.nn import encoder as encoder_file
from partoken_jax.nn.encoder import GVPEncoder
from partoken_jax.nn.fused_messages import messages as messages_file
from partoken_jax.nn.fused_messages.layout import TILE, lane_edges
from partoken_jax.nn.fused_messages.messages import fused_messages
from partoken_jax.nn.message_passing import GVPConv
from partoken_jax.training.loop import train
from tests.helpers import assert_close, by_path, random_graph

NODE, EDGE = (100, 16), (32, 1)
"""The published widths."""
SIZES = (150, 1, 2, 80)
NUM_NODES = 3 * TILE - 40
"""A protein in two tiles, several in one, rows of padding and columns beyond them."""


@pytest.fixture(scope="module")
def graph():
    drawn = random_graph(
        np.random.default_rng(0),
        SIZES,
        k=6,
        num_nodes=NUM_NODES,
        node_dims=NODE,
        edge_dims=EDGE,
        incomplete=(3, 200),
    )
    nodes = HiddenNodes(drawn.nodes.scalars, drawn.nodes.vectors)
    return HiddenGraph(**{**drawn._asdict(), "nodes": nodes, "globals": None})


@pytest.fixture(scope="module")
def conv():
    return nnx.split(GVPConv(NODE, NODE, EDGE, rngs=nnx.Rngs(0)))


def fused(conv, graph, **options):
    edges = lane_edges(graph.edges, jnp.asarray(graph.senders))
    return fused_messages(conv.message, graph.nodes, edges, interpret=True, **options)


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


@pytest.fixture(scope="module")
def expected(conv, graph):
    """What the dense form makes of it."""
    return gradients(lambda conv, graph: conv(graph), conv, graph)()


@pytest.mark.parametrize("window", [16, 1], ids=["the table fits", "a tile reads more than is held"])
def test_messages_and_gradients_are_those_of_the_dense_form(conv, graph, expected, window):
    run = gradients(functools.partial(fused, window=window), conv, graph)
    (out, found), (want_out, want) = run(), expected
    for got, wanted in zip(out, want_out, strict=True):
        assert_close(got, wanted, 1e-5)
    assert found.keys() == want.keys()
    for name, wanted in want.items():
        assert_close(found[name], wanted, 1e-4, name)
    lonely = ~graph.edges.mask.any(axis=1)
    assert lonely[3] and lonely[150] and lonely[-1] and not lonely.all()
    assert not np.asarray(out[0])[lonely].any() and not np.asarray(out[1])[lonely].any()
    for first, second in zip(jax.tree.leaves((out, found)), jax.tree.leaves(run()), strict=True):
        np.testing.assert_array_equal(first, second)  # to the last bit, on every run


def errors(found, expected):
    """Norm of the difference relative to the norm, of the messages and of every gradient."""
    pairs = [*zip(found[0], expected[0], strict=True), *((found[1][k], expected[1][k]) for k in expected[1])]
    return np.array([np.linalg.norm(got - want) / np.linalg.norm(want) for got, want in pairs])


def test_three_products_of_bfloat16_have_sixteen_digits(conv, graph, expected):
    with jax.default_matmul_precision("tensorfloat32"):
        found = errors(gradients(fused, conv, graph)(), expected)
    assert found[0] > 1e-6 and found.max() < 2**-15


def test_bfloat16_is_no_less_precise_than_in_the_dense_form(graph, expected):
    rounded = nnx.split(GVPConv(NODE, NODE, EDGE, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    found = errors(gradients(fused, rounded, graph)(), expected)
    dense = errors(gradients(lambda conv, graph: conv(graph), rounded, graph)(), expected)
    assert found[0] > 1e-4 and (found < 1.1 * dense).all()


def encoder(message_passing):
    made = GVPEncoder(
        (6, 3),
        EDGE,
        (16, 4),
        (8, 1),
        num_layers=2,
        dropout=0.1,
        residue_types=False,
        message_passing=message_passing,
        rematerialise="layer",
        rngs=nnx.Rngs(0),
    )
    return nnx.split(made)


@pytest.fixture
def on_a_tpu(monkeypatch):
    monkeypatch.setattr(encoder_file, "target_platform", lambda: "tpu")


@pytest.fixture(scope="module")
def small():
    return random_graph(np.random.default_rng(1), (9, 1, 6), k=1, num_nodes=20)


def loss(graphdef, graph):
    def of(params):
        return jnp.sum(nnx.merge(graphdef, params)(graph, key=jax.random.key(0)) ** 2)

    return of


def test_an_encoder_computes_its_layers_again_with_the_same_result(monkeypatch, on_a_tpu, small):
    """Under scan and jax.checkpoint, with dropout."""
    calls = []

    def interpreted(*arguments):
        calls.append(arguments)
        return fused_messages(*arguments, interpret=True)

    monkeypatch.setattr(messages_file, "fused_messages", interpreted)
    (graphdef, params), (dense, same) = encoder("fused"), encoder("dense")
    got, gradient = jax.jit(jax.value_and_grad(loss(graphdef, small)))(params)
    want, wanted = jax.jit(jax.value_and_grad(loss(dense, small)))(same)
    assert len(calls) > 0
    assert_close(got, want, 1e-5)
    gradient, wanted = by_path(gradient), by_path(wanted)
    for name, values in wanted.items():
        assert_close(gradient[name], values, 1e-4, name)


def test_a_program_for_a_tpu_has_one_kernel_each_way(on_a_tpu, small):
    graphdef, params = encoder("fused")
    program = jax.jit(jax.grad(loss(graphdef, small))).trace(params).lower(lowering_platforms=("tpu",))
    text = program.as_text()
    # Forward, and backward the layer computed again before its gradient.
    assert text.count("@tpu_custom_call") == 3
    assert text.count('kernel_name = "gvp_messages"') == 2


def test_elsewhere_the_dense_form_is_read(small):
    fused, dense = (
        jax.jit(loss(graphdef, small)).lower(params).as_text()
        for graphdef, params in (encoder("fused"), encoder("dense"))
    )
    assert fused == dense


def test_batch_mates_and_padding_change_nothing(conv, graph):
    """The first protein of 150 residues alone, in 2 tiles, and among others, in 3."""
    graphdef, params = conv
    few, columns = 160, slice(160)
    mask = graph.edges.mask.copy()[columns]
    mask[150:] = False
    alone = graph._replace(
        nodes=jax.tree.map(lambda x: x[columns], graph.nodes),
        edges=EdgeFeatures(graph.edges.scalars[columns], graph.edges.vectors[columns], mask),
        senders=np.where(mask, graph.senders[columns], np.arange(few)[:, None]),
    )
    run = jax.jit(lambda graph: fused(nnx.merge(graphdef, params), graph))
    for got, want in zip(run(alone), run(graph), strict=True):
        assert_close(got[:150], want[:150], 1e-6)


def test_training_is_refused_where_the_kernel_cannot_run(tmp_path):
    """Before anything is read or written."""
    config = TrainConfig(model=ModelConfig(message_passing="fused"), run_dir=str(tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"message_passing is 'fused', but .* on this device \(cpu\)"):
        train(config)
    assert not (tmp_path / "run").exists()
