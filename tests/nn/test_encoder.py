"""What the encoder makes of residue types."""

import dataclasses

import jax
import numpy as np
from flax import nnx

from partoken_jax.graphs import featurise
from partoken_jax.nn.encoder import GVPEncoder
from tests.helpers import assert_close, batch


def test_an_unknown_residue_has_a_zero_embedding(chains):
    encoder = GVPEncoder(
        (6, 3), (32, 1), (16, 4), (8, 1), num_layers=1, dropout=0.0, residue_types=True, rngs=nnx.Rngs(0)
    )
    protein = dataclasses.replace(chains[0], sequence="AX" * (len(chains[0]) // 2))
    graph = jax.jit(featurise)(batch([protein], batch_size=1))
    graphdef, state = nnx.split(encoder)

    @jax.jit
    def scalars(state, types):
        nodes = graph.nodes._replace(residue_type=types)
        return nnx.merge(graphdef, state).embed(graph._replace(nodes=nodes)).nodes.scalars

    types = np.asarray(graph.nodes.residue_type)
    assert set(types.tolist()) == {0, 20}
    unknown = scalars(state, types)
    assert np.isfinite(unknown).all()
    gradient = jax.grad(lambda state: scalars(state, types)[:, 0].sum())(state)
    moved = np.abs(np.asarray(gradient["residue_embedding"]["embedding"][...])).sum(axis=1)
    assert moved[0] > 0 and not moved[1:].any()  # an unknown residue moves no row
    table = state["residue_embedding"]["embedding"]
    table[...] = table[...].at[7].set(0.0)
    assert_close(unknown, scalars(state, np.where(types == 20, 7, types)), 1e-6)


def test_a_smooth_output_keeps_channels_that_a_relu_silences(chains):
    graph = jax.jit(featurise)(batch(chains[:1], batch_size=1))

    def output(activation):
        encoder = GVPEncoder(
            *((6, 3), (32, 1), (16, 4), (8, 1)),
            **{"num_layers": 1, "dropout": 0.0, "residue_types": False, "rngs": nnx.Rngs(0)},
            output_activation=activation,
        )
        graphdef, state = nnx.split(encoder)
        return np.asarray(jax.jit(lambda s: nnx.merge(graphdef, s)(graph))(state))[graph.nodes.mask]

    relu, silu = output(jax.nn.relu), output(jax.nn.silu)
    assert relu.min() == 0 and (silu < 0).any()
    assert (relu.max(axis=0) == 0).any() and np.abs(silu).max(axis=0).all()
