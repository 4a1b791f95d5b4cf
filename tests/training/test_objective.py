"""The objective: each term once, its gradient, and the randomness that it is given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.graphs import featurise
from partoken_jax.models import AuxiliaryLosses, build_model
from partoken_jax.training.objective import (
    LossWeights,
    Randomness,
    evaluate_objective,
    split_model,
    total_loss,
)
from tests.helpers import assert_close, batch, by_path, tiny

LOGITS = jnp.array([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
AUXILIARY = AuxiliaryLosses(jnp.float32(2.0), jnp.float32(-0.5), jnp.float32(8.0))
WEIGHTS = LossWeights(vq=0.1, coverage=3.0, cardinality=0.005)


def test_total_counts_every_term_once():
    terms = total_loss(LOGITS, jnp.array([0, 2]), jnp.ones(2, bool), AUXILIARY, WEIGHTS)
    assert terms.total == pytest.approx(terms.cross_entropy + 0.1 * 2 - 3 * 0.5 + 0.005 * 8)
    assert (terms.vq, terms.coverage, terms.cardinality) == (2.0, -0.5, 8.0)


@pytest.mark.parametrize("term", AuxiliaryLosses._fields)
def test_weight_of_a_term_is_its_gradient(term):
    def total(auxiliary):
        return total_loss(LOGITS, jnp.array([0, 2]), jnp.ones(2, bool), auxiliary, WEIGHTS).total

    assert getattr(jax.grad(total)(AUXILIARY), term) == pytest.approx(getattr(WEIGHTS, term))


def test_without_auxiliary_terms_the_total_is_the_cross_entropy():
    terms = total_loss(LOGITS, jnp.array([0, 2]), jnp.ones(2, bool), None, LossWeights(1.0, 1.0, 1.0))
    assert terms.total == terms.cross_entropy > 0
    assert terms.vq == terms.coverage == terms.cardinality == 0


@pytest.fixture(scope="module")
def packed(chains):
    proteins = [chains[2], chains[7]]
    return batch(proteins, num_nodes=40, batch_size=2)


@functools.cache
def split(kind):
    """A tiny model with one layer and dropout, and its compiled objective."""
    graphdef, params, codebook = split_model(
        build_model(tiny(kind=kind, num_layers=1, num_classes=4), rngs=nnx.Rngs(0))
    )

    @jax.jit
    def run(params, graph, randomness):
        return evaluate_objective(graphdef, params, codebook, graph, WEIGHTS, randomness=randomness)

    return run, graphdef, params, codebook


@pytest.fixture(scope="module", params=["gvp", "partoken"])
def model(request):
    return request.param, *split(request.param)


def test_packed_and_featurised_batches_give_the_same(packed):
    run, _, params, _ = split("gvp")
    one, other = (run(params, graph, Randomness()) for graph in (packed, featurise(packed)))
    assert_close(other.losses.total, one.losses.total, 1e-6)
    for name, want in by_path(one.gradients).items():
        if np.abs(want).max() > 1e-6:
            assert_close(by_path(other.gradients)[name], want, 1e-4, name)


def test_without_randomness_it_repeats_and_a_key_changes_it(model, packed):
    _, run, _, params, _ = model
    plain, again = (run(params, packed, Randomness()) for _ in range(2))
    assert plain.losses.total == again.losses.total
    keyed, other, same = (run(params, packed, Randomness(key=jax.random.key(k))) for k in (1, 2, 1))
    assert keyed.losses.total == same.losses.total
    assert len({float(x.losses.total) for x in (plain, keyed, other)}) == 3


def test_given_noise_decides_the_seeds_and_nothing_else_is_random(packed):
    run, _, params, _ = split("partoken")
    rng = np.random.default_rng(0)
    rounds, rows = tiny().partitioner.max_clusters, len(packed.nodes.mask)
    noise = [jnp.asarray(rng.random((rounds, rows), np.float32)) for _ in range(2)]
    found = [run(params, packed, Randomness(uniform=uniform)) for uniform in (*noise, noise[0])]
    assert found[0].losses.total == found[2].losses.total
    assert np.any(found[0].output.seeds != found[1].output.seeds)


def test_gradients_are_those_of_the_total_along_their_own_direction(packed):
    """Central differences of the loss of the baseline, whose decisions cannot turn."""
    run, _, params, _ = split("gvp")
    gradients = run(params, packed, Randomness()).gradients
    norm = np.sqrt(sum(float(jnp.sum(jnp.square(g))) for g in jax.tree.leaves(gradients)))
    step = 1e-3

    def loss_at(distance):
        moved = jax.tree.map(lambda p, g: p + distance / norm * g, params, gradients)
        return float(run(moved, packed, Randomness()).losses.total)

    slope = (loss_at(step) - loss_at(-step)) / (2 * step)
    assert slope == pytest.approx(norm, rel=2e-2)


def test_the_codebook_moves_in_training_and_the_baseline_has_none(model, packed):
    kind, run, _, params, codebook = model
    moved = by_path(run(params, packed, Randomness()).codebook)
    assert moved.keys() == by_path(codebook).keys()
    if kind == "gvp":
        assert not moved
    else:
        assert np.any(moved["codebook.counts"] != by_path(codebook)["codebook.counts"])
