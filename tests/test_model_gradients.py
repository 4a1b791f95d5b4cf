"""Everything that should learn has a gradient, and only from the losses that it should learn from."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from partoken_jax.graphs import featurise
from partoken_jax.models import GVPClassifier
from partoken_jax.nn.partitioner import seed_noise
from tests.helpers import (
    assert_close,
    batch,
    by_path,
    moved,
    one_layer_partoken,
    random_rotation,
    tiny,
    without_atoms,
)

TERMS = ("cross entropy", "vq", "coverage", "cardinality")
ZERO = ("partitioner.seed_selector.layers.1.bias", "pool.score.layers.1.bias")

featurised = jax.jit(featurise)


@pytest.fixture(scope="module")
def proteins(chains):
    """Four real chains; two residues of the first lack an atom."""
    return [without_atoms(chains[0], (5, 6)), *chains[1:4]]


@pytest.fixture(scope="module")
def graph(proteins):
    return featurised(batch(proteins))


@pytest.fixture(scope="module")
def term_gradients(graph):
    """{path: [4, ...]}: the gradient of every parameter by loss term, with every component built."""
    model = one_layer_partoken(residue_types=True, pooling="attention", dropout=0.0)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    labels = graph.globals.label[:-1] % 3
    noise = seed_noise(jax.random.key(7), graph, 3)

    def terms(params):
        out = nnx.merge(graphdef, params, rest, copy=True)(graph, uniform=noise, update_codebook=True)
        ce = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out.logits, labels))
        return jnp.stack([ce, *out.losses])

    return by_path(jax.jit(jax.jacrev(terms))(params))


def test_every_parameter_that_should_learn_does(term_gradients):
    """All four terms live. Two last biases shift logits of a softmax together: exactly 0 in theory."""
    assert not any(path.startswith("codebook") for path in term_gradients)
    for path, terms in term_gradients.items():
        gradient = np.abs(terms.sum(0)).max()
        assert np.isfinite(terms).all(), path
        if path in ZERO:
            assert gradient < 1e-5 * np.abs(term_gradients[path.replace("bias", "kernel")]).max(), path
        else:
            assert gradient > 1e-7, path
    assert set(ZERO) <= set(term_gradients)


@pytest.mark.parametrize("term", TERMS)
def test_every_term_reaches_the_encoder(term_gradients, term):
    number = TERMS.index(term)
    reached = {path for path, terms in term_gradients.items() if np.abs(terms[number]).max() > 1e-9}
    assert {path for path in term_gradients if path.startswith("encoder.")} <= reached
    behind = {p for p in term_gradients if p.startswith(("attention.", "fusion.", "classifier."))}
    assert behind <= reached if term == "cross entropy" else not behind & reached
    # REFERENCE fault 2: the cardinality term teaches the partitioner.
    assert {f"partitioner.{part}.kernel" for part in ("query", "key", "threshold.layers.0")} <= reached


def test_attention_queries_and_keys_learn_from_the_label_alone(term_gradients):
    """REFERENCE fault 1."""
    for name in ("query", "key"):
        assert np.abs(term_gradients[f"attention.{name}.kernel"][0]).max() > 1e-6


def test_baseline(proteins, chains, graph):
    """Gradients for all parameters; rotation, padding and batch mates (REFERENCE fault 10) change nothing."""
    model = GVPClassifier(tiny(kind="gvp", num_layers=1, pooling="attention"), rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(model)

    def loss(params, graph):
        out = nnx.merge(graphdef, params)(graph)
        labels = jnp.asarray(graph.globals.label[:-1] % 3)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out.logits, labels)), out

    run = jax.jit(jax.grad(loss, has_aux=True))
    gradients, out = run(params, graph)
    gradients = by_path(gradients)
    assert gradients.pop("pool.score.layers.1.bias") < 1e-5
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-7, path
    assert out.logits.shape == (4, 3) and out.logits.dtype == jnp.float32
    assert out.node_features.shape == (graph.nodes.mask.size, 16) and np.all(out.node_features >= 0)

    turn = random_rotation(np.random.default_rng(0))
    company = [chains[4], moved(proteins[3], turn, 5.0), chains[5], moved(proteins[0], turn, -9.0)]
    _, other = run(params, featurised(batch(company)))
    assert_close(other.logits[1], out.logits[3])
    assert_close(other.logits[3], out.logits[0])
