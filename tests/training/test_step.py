"""One compiled step: what it trains, what it leaves alone, and how often it is compiled."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.parity.partitioner import ZERO_GRADIENTS
from partoken_jax.training.objective import LossWeights
from partoken_jax.training.schedules import StepSettings
from partoken_jax.training.stages import cluster_samples, initialise_codebook
from partoken_jax.training.state import TrainState, abstract_state, initial_state, run_keys
from partoken_jax.training.step import apply_gradients, compilations, make_eval_step, make_train_step
from tests.helpers import by_path

from .conftest import tiny

FULL = LossWeights(np.float32(1), np.float32(1), np.float32(1))
NONE = LossWeights(np.float32(0), np.float32(0), np.float32(0))


def settings(weights=FULL, *, rate=1e-3, temperature=1.0, frozen=False) -> StepSettings:
    return StepSettings(np.float32(rate), np.float32(temperature), weights, np.bool_(frozen))


class Setup:
    """A compiled step of stage 1, a state whose codebook k-means has made, and a batch."""

    def __init__(self, data):
        self.graphdef, state = initial_state(tiny())
        batches = list(data.loaders["train"].epoch(0))
        samples = cluster_samples(
            make_eval_step(self.graphdef, bypass_codebook=True),
            state,
            batches,
            temperature=1.0,
            max_batches=3,
        )
        self.samples = samples
        self.state = initialise_codebook(self.graphdef, state, samples, seed=0)
        self.batches = batches
        self.step = make_train_step(self.graphdef, bypass_codebook=False)

    def __call__(self, step_settings, state=None, batch=0):
        state = self.state if state is None else state
        graph = self.batches[batch] if isinstance(batch, int) else batch
        # The step consumes its state, so every call gets a copy.
        return self.step(jax.tree.map(jnp.copy, state), graph, step_settings)


@pytest.fixture(scope="module")
def run(tiny_data):
    return Setup(tiny_data)


def gradient(state: TrainState) -> np.ndarray:
    """Of the first step: Adam's first moment is then 0.1 times the gradient."""
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.moments.mu)]) * 10  # type: ignore


@pytest.mark.parametrize("term", LossWeights._fields)
def test_every_auxiliary_term_is_live(run, term):
    """Doubling a weight doubles its part of the loss and of the gradient."""
    weights = [NONE._replace(**{term: np.float32(w)}) for w in (0, 1, 2)]
    (s0, m0), (s1, m1), (s2, m2) = [run(settings(w)) for w in weights]
    part, ce = float(getattr(m1.losses, term)), float(m0.losses.total)
    assert part != 0
    assert float(m1.losses.total) == pytest.approx(ce + part, abs=1e-6 * ce, rel=1e-6)
    assert float(m2.losses.total) == pytest.approx(ce + 2 * part, abs=1e-6 * ce, rel=1e-6)
    one, two = gradient(s1) - gradient(s0), gradient(s2) - gradient(s0)
    # Rounding of the whole gradient bounds how finely the part can be told.
    assert np.abs(one).max() > 1e-4 * np.abs(gradient(s0)).max()
    np.testing.assert_allclose(two, 2 * one, rtol=1e-3, atol=1e-5 * np.abs(gradient(s2)).max())


def test_cross_entropy_is_always_live(run):
    state, metrics = run(settings(NONE))
    assert metrics.losses.total == metrics.losses.cross_entropy > 0
    assert np.abs(gradient(state)).max() > 0


def test_freezing_stops_the_codebook_and_nothing_else(run):
    moved, _ = run(settings(frozen=False))
    frozen, _ = run(settings(frozen=True))
    before, after, other = (by_path(state.codebook) for state in (run.state, frozen, moved))
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array, name)
        assert np.any(other[name] != array), name
    before, after = by_path(run.state.params), by_path(frozen.params)
    for name, array in before.items():
        # The true gradient of this one is 0, and so may be the computed one.
        assert np.any(after[name] != array) or name in ZERO_GRADIENTS, name


def test_a_frozen_codebook_leaves_the_gradients_of_cross_entropy_and_vq_alone(run):
    """Both read the codes as they are before the averages move; coverage reads them afterwards."""
    weights = NONE._replace(vq=np.float32(1))
    frozen, frozen_metrics = run(settings(weights, frozen=True))
    moved, moved_metrics = run(settings(weights, frozen=False))
    assert frozen_metrics.losses.total == moved_metrics.losses.total
    np.testing.assert_array_equal(gradient(frozen), gradient(moved))
    assert np.abs(gradient(frozen) - gradient(run(settings(NONE, frozen=True))[0])).max() > 0  # vq is live


def test_learning_rate_scales_the_update(run):
    def update(rate):
        after, _ = run(settings(rate=rate))
        return jax.tree.map(lambda a, b: np.asarray(b - a), run.state.params, after.params)

    small, large = (np.concatenate([x.ravel() for x in jax.tree.leaves(update(r))]) for r in (1e-3, 2e-3))
    assert np.abs(small).max() == pytest.approx(1e-3, rel=1e-2)  # Adam's first step
    np.testing.assert_allclose(large, 2 * small, atol=1e-6)
    assert not np.any(update(0.0)["classifier"]["layers"][0]["kernel"][...])


def test_dropout_and_sampling_follow_the_step_number(run):
    first, again = run(settings())[1], run(settings())[1]
    later = run(settings(), run.state._replace(step=jnp.int32(1)))[1]
    assert first.losses.total == again.losses.total
    assert first.losses.total != later.losses.total


def test_scalars_that_change_cause_no_compilation(run):
    for number, (batch, temperature, frozen) in enumerate([(0, 1.0, False), (1, 0.5, False), (2, 0.1, True)]):
        run(settings(rate=1e-4 * number, temperature=temperature, frozen=frozen), batch=batch)
    assert compilations(run.step) == 1


def test_the_state_is_donated(run):
    state = jax.tree.map(jnp.copy, run.state)
    new, _ = run.step(state, run.batches[0], settings())
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    assert int(new.step) == 1


def test_metrics_count_what_the_batch_holds(run):
    metrics = run(settings(), batch=3)[1]  # the last batch of an epoch has the remainder, 14 = 3 * 4 + 2
    graph = run.batches[3]
    assert int(metrics.proteins) == 2
    assert int(metrics.residues) == int(graph.nodes.mask.sum())
    assert 0 < int(metrics.assigned) <= 2 * 2 * 8
    assert 0 <= int(metrics.correct) <= int(metrics.labelled) == 2


def test_a_protein_without_a_label_is_no_protein_of_class_0(run):
    """It takes part in the regularisers and in nothing else: its logits may be anything."""

    def of_labels(*labels):
        graph = run.batches[3]  # two proteins
        label = np.concatenate([labels, graph.globals.label[2:]]).astype(np.int32)
        return run(settings(), batch=graph._replace(globals=graph.globals._replace(label=label)))

    (_, first), (_, second), (_, both) = of_labels(1, -1), of_labels(-1, 2), of_labels(1, 2)
    assert [int(m.labelled) for m in (first, second, both)] == [1, 1, 2]
    assert [int(m.proteins) for m in (first, second, both)] == [2, 2, 2]
    assert int(first.correct) + int(second.correct) == int(both.correct)
    mean = (first.losses.cross_entropy + second.losses.cross_entropy) / 2
    assert float(both.losses.cross_entropy) == pytest.approx(float(mean), rel=1e-6)
    _, none = of_labels(-1, -1)
    assert none.losses.cross_entropy == 0 == int(none.labelled) == int(none.correct)
    assert none.losses.vq == both.losses.vq > 0
    rest = both.losses.total - both.losses.cross_entropy
    assert float(none.losses.total) == pytest.approx(float(rest), rel=1e-5)


def test_kmeans_codes_are_means_of_clusters(run):
    codes = np.asarray(run.state.codebook["codebook"]["embeddings"][...])
    assert np.all(codes >= run.samples.min(0) - 1e-5) and np.all(codes <= run.samples.max(0) + 1e-5)
    np.testing.assert_array_equal(run.state.codebook["codebook"]["counts"][...], 1)
    np.testing.assert_array_equal(run.state.codebook["codebook"]["sums"][...], codes)


def test_the_seed_decides_the_weights_and_the_keys():
    states = [initial_state(dataclasses.replace(tiny(), seed=seed))[1] for seed in (0, 0, 1)]
    states = [s._replace(key=jax.random.key_data(s.key)) for s in states]
    first, same, other = ([np.asarray(x) for x in jax.tree.leaves((s.params, s.key))] for s in states)
    assert all(np.array_equal(a, b) for a, b in zip(first, same, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert not np.array_equal(first[-1], other[-1])


def test_abstract_state_has_the_structure_of_a_real_one(run):
    _, abstract = abstract_state(tiny())
    _, real = initial_state(tiny())
    assert jax.tree.structure(abstract) == jax.tree.structure(real)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(abstract)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(real)
    ]


def test_only_parameters_are_optimised(run):
    assert jax.tree.structure(run.state.moments.mu) == jax.tree.structure(run.state.params)
    assert not any("codebook" in path for path, _ in nnx.to_flat_state(run.state.params))


def test_every_seed_that_the_settings_allow_makes_a_state():
    """Also those that jit does not take as Python integers."""
    for seed in (1, 2**31, 2**32 - 1):
        _, shapes = abstract_state(tiny(seed=seed))
        _, state = initial_state(tiny(seed=seed))
        chex.assert_trees_all_equal_shapes_and_dtypes(shapes.params, state.params)
        expected = jax.random.key_data(run_keys(seed).step)
        np.testing.assert_array_equal(jax.random.key_data(state.key), expected)


def test_a_frozen_encoder_stays_to_the_bit_and_costs_no_gradient(run):
    options = {"bypass_codebook": False, "weight_decay": 0.1}
    frozen = make_train_step(run.graphdef, freeze_encoder=True, **options)
    state = jax.tree.map(jnp.copy, run.state)
    for graph in run.batches[:2]:
        state, metrics = frozen(state, graph, settings())
    before, after = by_path(run.state.params), by_path(state.params)
    assert metrics.finite and metrics.gradient_norm > 0
    same = {path for path in before if np.array_equal(before[path], after[path])}
    encoder = {path for path in before if path.startswith("encoder.")}
    assert encoder and encoder <= same
    # But for what has no gradient in theory, everything else has learned.
    assert all(path.endswith("bias") for path in same - encoder) and len(same - encoder) <= 1

    def flops(step):
        return step.lower(run.state, run.batches[0], settings()).cost_analysis()["flops"]

    assert flops(frozen) < 0.6 * flops(make_train_step(run.graphdef, **options))


def test_weight_decay_is_that_of_adamw_and_spares_biases_and_norms(run):
    rate, decay, state = 1e-2, 0.1, run.state
    gradients = jax.tree.map(lambda p: jnp.full(p.shape, 0.5), state.params)
    moved = jax.jit(functools.partial(apply_gradients, weight_decay=decay))(
        state, gradients, state.codebook, jnp.float32(1.0), rate
    ).state.params
    decays = jax.tree.map(lambda p: p.ndim > 1, state.params)
    adamw = optax.adamw(rate, weight_decay=decay, mask=decays)
    updates, _ = adamw.update(gradients, adamw.init(state.params), state.params)
    chex.assert_trees_all_close(moved, optax.apply_updates(state.params, updates), rtol=1e-5, atol=1e-6)
