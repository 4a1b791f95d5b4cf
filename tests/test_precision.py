"""The precision of products is what the model is set to, everywhere, and nothing else is rounded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend import core

from partoken_jax.graphs import featurise
from partoken_jax.models import build_model
from partoken_jax.nn.codebook import Codebook
from tests.helpers import batch, by_path, tiny

pytestmark = pytest.mark.slow


KINDS = ("gvp", "partoken")


@pytest.fixture(scope="module")
def graph(chains):
    return jax.jit(featurise)(batch(chains[:3]))


def objective(kind, precision, graph):
    """The traced gradient of Σ logits² of a small model, and its parameters."""
    model = build_model(tiny(kind=kind, precision=precision, num_layers=1), rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, Codebook)

    def total(params):
        out = nnx.merge(graphdef, params, rest, copy=True)(graph)
        return jnp.sum(jnp.square(out.logits)), out.node_features if kind == "gvp" else out.logits

    return jax.jit(jax.grad(total, has_aux=True)).trace(params), params


@pytest.fixture(scope="module")
def traced_objectives(graph):
    """`objective` by kind and precision, each traced once."""
    return functools.cache(lambda kind, precision: objective(kind, precision, graph))


def products(jaxpr):
    """Every matrix product of a program, in all its parts."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for part in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: isinstance(x, (core.Jaxpr, core.ClosedJaxpr))
        ):
            if isinstance(part, core.ClosedJaxpr):
                yield from products(part.jaxpr)
            elif isinstance(part, core.Jaxpr):
                yield from products(part)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "tensorfloat32", "bfloat16"])
def test_no_product_is_left_to_the_devices_choice(traced_objectives, kind, precision):
    traced, _ = traced_objectives(kind, precision)
    found = list(products(traced.jaxpr.jaxpr))
    names = {jax.lax.Precision.HIGHEST} | (
        {jax.lax.Precision.HIGH} if precision == "tensorfloat32" else set()
    )
    rounded = 0
    for equation in found:
        chosen = equation.params["precision"]
        chosen = set(chosen) if isinstance(chosen, tuple) else {chosen}
        types = {v.aval.dtype for v in equation.invars}
        if types == {jnp.dtype(jnp.bfloat16)}:
            rounded += 1
        else:
            assert types == {jnp.dtype(jnp.float32)}
            assert chosen <= names, equation
            rounded += chosen == {jax.lax.Precision.HIGH}
    # All of the encoder, forward and backward, is far more than half of all products.
    assert (rounded > len(found) / 2) == (precision != "float32")
    assert rounded == 0 or precision != "float32"


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_close_and_keeps_float32_where_it_should(traced_objectives, kind):
    results = {}
    for precision in ("float32", "bfloat16"):
        traced, params = traced_objectives(kind, precision)
        gradients, out = traced.lower().compile()(params)
        assert out.dtype == jnp.float32
        results[precision] = np.asarray(out), by_path(gradients)
    (exact, exact_gradients), (rounded, rounded_gradients) = results.values()
    difference = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 1e-5 < difference < 0.05  # 8 bits of mantissa: 0.004 per operation
    flat, flat_rounded = (
        np.concatenate([g[name].ravel() for name in exact_gradients])
        for g in (exact_gradients, rounded_gradients)
    )
    assert all(value.dtype == np.float32 for value in rounded_gradients.values())
    assert flat @ flat_rounded / np.linalg.norm(flat) / np.linalg.norm(flat_rounded) > 0.99
