"""A step that is not finite: the state stays, the run says so, and the step can be run again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from partoken_jax.parameters import by_component
from partoken_jax.training.examination import examine, first_offender
from partoken_jax.training.state import initial_state
from partoken_jax.training.step import compilations, make_gradient_step, make_train_step
from tests.helpers import by_path

from .conftest import tiny
from .test_step import settings

COMPONENTS = (
    *("node encoder", "edge encoder", "conv layer 0", "conv layer 1", "output projection", "partitioner"),
    *("attention over clusters", "gated fusion", "classifier"),
)
SMOOTHING = 0.3


class Setup:
    """Steps of both kinds, a state after a good step, and batches."""

    def __init__(self, data, **changes):
        config = tiny(**changes)
        self.config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_layers=2))
        self.graphdef, state = initial_state(self.config)
        self.batches = list(data.loaders["train"].epoch(0))
        self.names = [protein.name for protein in data.datasets["train"].proteins]
        self.steps = {
            kind: make_train_step(
                self.graphdef, bypass_codebook=False, label_smoothing=SMOOTHING, non_finite=kind
            )
            for kind in ("stop", "skip")
        }
        self.state, self.metrics = self(state)

    def __call__(self, state, step_settings=None, *, batch=0, kind="stop"):
        graph = self.batches[batch] if isinstance(batch, int) else batch
        return self.steps[kind](copied(state), graph, step_settings or settings())

    def examine(self, state, graph=None, step_settings=None):
        graph = self.batches[0] if graph is None else graph
        return examine(
            self.graphdef,
            state,
            graph,
            step_settings or settings(),
            bypass_codebook=False,
            label_smoothing=SMOOTHING,
        )


@pytest.fixture(scope="module")
def run(tiny_data):
    return Setup(tiny_data)


def copied(state):
    return jax.tree.map(jnp.array, state)


def planted(state, component: str, value: float):
    """The state with one weight of a component set to a value; all of them where it is finite."""
    params = jax.tree.map(jnp.array, state.params)
    for variable in by_component(params)[component]:
        x = np.array(variable[...])
        if np.isfinite(value):
            x[...] = value
        else:
            x.flat[0] = value
        variable[...] = jnp.asarray(x)
    return state._replace(params=params)


def beyond_scale(graph):
    """The batch with an atom of its second protein at infinity; and the place of the protein."""
    backbone = np.array(graph.nodes.backbone)
    backbone[int(graph.n_node[0]) + 3, 1] = np.inf
    return graph._replace(nodes=graph.nodes._replace(backbone=backbone)), 1


def assert_same_arrays(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        a, b = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def assert_latched(run, before, step_settings=None, batch=0):
    """ "stop" keeps all of the state, also in later good steps; "skip" counts the step and goes on."""
    after, metrics = run(before, step_settings, batch=batch)
    assert not metrics.finite and bool(after.stopped)
    later, _ = run(after, batch=1)
    for state in (after, later):
        assert_same_arrays(state._replace(stopped=before.stopped), before)
    skipped, metrics = run(before, step_settings, batch=batch, kind="skip")
    assert not metrics.finite and int(skipped.step) == int(before.step) + 1
    assert_same_arrays(skipped._replace(step=before.step), before)


@pytest.mark.parametrize("component", COMPONENTS)
def test_nan_in_a_weight_of_a_component_is_found_there(run, component):
    before = planted(run.state, component, np.nan)
    assert_latched(run, before)
    assert first_offender(run.examine(before)).component == f"parameters: {component}"


@pytest.mark.parametrize(
    ("component", "found"),
    [
        ("node encoder", "embedding of residues"),
        ("conv layer 0", "conv layer 0"),
        ("conv layer 1", "conv layer 1"),
        ("output projection", "output projection"),
        ("attention over clusters", "attention over clusters"),
        ("gated fusion", "gated fusion"),
        ("classifier", "classifier"),
    ],
)
def test_a_block_that_overflows_is_found(run, component, found):
    """Its weights are finite, and what comes before it."""
    before = planted(run.state, component, 1e38)
    assert_latched(run, before)
    assert first_offender(run.examine(before)).component == found


def test_nan_among_the_codes_is_found(run):
    codes = jax.tree.map(jnp.array, run.state.codebook)
    codes["codebook"]["embeddings"][...] = codes["codebook"]["embeddings"][...].at[3, 2].set(jnp.nan)
    before = run.state._replace(codebook=codes)
    assert_latched(run, before)
    assert first_offender(run.examine(before)).component == "parameters: codebook"


def test_coordinates_beyond_scale_name_their_protein(run):
    graph, slot = beyond_scale(run.batches[0])
    assert_latched(run, run.state, batch=graph)
    found = first_offender(run.examine(run.state, graph))
    assert (found.component, found.slot) == ("coordinates", slot)


def test_distant_coordinates_are_only_large(run):
    """Features are angles, unit vectors and Gaussians: 1e20 Å overflows in none of them."""
    backbone = np.array(run.batches[0].nodes.backbone)
    backbone[5, 1] = 1e20
    graph = run.batches[0]._replace(nodes=run.batches[0].nodes._replace(backbone=backbone))
    _, metrics = run(run.state, batch=graph)
    findings = run.examine(run.state, graph)
    assert bool(metrics.finite) == all(f.finite for f in findings)
    assert next(f.largest for f in findings if f.component == "coordinates") == pytest.approx(1e20)


@pytest.mark.parametrize("rate", [np.inf, np.nan])
def test_a_learning_rate_that_is_not_finite(run, rate):
    assert_latched(run, run.state, settings(rate=rate))
    found = first_offender(run.examine(run.state, step_settings=settings(rate=rate)))
    assert found.component == "learning rate"


def test_nothing_is_found_in_a_good_step_with_missing_atoms_and_padding(run):
    graph = run.batches[3]  # two proteins in four places
    backbone, mask = np.array(graph.nodes.backbone), np.array(graph.nodes.mask)
    backbone[4, 3], mask[4] = np.nan, False
    assert np.isnan(backbone[~mask]).any()
    graph = graph._replace(nodes=graph.nodes._replace(backbone=backbone, mask=mask))
    assert bool(run(run.state, batch=graph)[1].finite)
    findings = run.examine(run.state, graph)
    assert [f for f in findings if not f.finite or f.slot != -1] == []
    assert {f"conv layer {n}" for n in range(2)} < {f.component for f in findings}


def test_a_good_step_after_a_skipped_one_trains(run):
    graph, _ = beyond_scale(run.batches[0])
    skipped, _ = run(run.state, batch=graph, kind="skip")
    after, metrics = run(skipped, batch=1, kind="skip")
    assert metrics.finite and int(after.step) == int(run.state.step) + 2
    before, now = by_path(skipped.params), by_path(after.params)
    assert all(np.isfinite(x).all() for x in now.values())
    assert any(np.any(before[name] != now[name]) for name in before)


def test_the_guard_compiles_once_per_shape(run):
    graph, _ = beyond_scale(run.batches[0])
    run(run.state, batch=graph)
    run(run(run.state, batch=graph)[0], batch=1)
    assert compilations(run.steps["stop"]) == compilations(run.steps["skip"]) == 1


def test_the_loss_that_is_examined_is_that_of_the_step(run):
    _, metrics = run(run.state)
    found = {finding.component: finding.largest for finding in run.examine(run.state)}
    assert found["loss: cross_entropy"] == pytest.approx(float(metrics.losses.cross_entropy), rel=1e-5)


def test_a_step_that_moves_is_a_step_of_optax(run):
    """With gradients clipped to half of their norm; the norm that it reports is that before."""
    graphdef, state = initial_state(tiny(kind="gvp"))
    graph, rate = run.batches[0], np.float32(1e-3)
    gradients = jax.jit(make_gradient_step(graphdef, bypass_codebook=False))(
        state, graph, settings()
    ).gradients
    norm = float(optax.tree.norm(gradients))
    chain = optax.chain(optax.clip_by_global_norm(0.5 * norm), optax.adam(rate))
    updates, _ = chain.update(gradients, chain.init(state.params))
    expected = by_path(optax.apply_updates(state.params, updates))
    step = make_train_step(graphdef, bypass_codebook=False, clip_norm=0.5 * norm)
    after, metrics = step(copied(state), graph, settings(rate=rate))
    assert float(metrics.gradient_norm) == pytest.approx(norm, rel=1e-5)
    assert float(optax.tree.norm(after.moments.mu)) == pytest.approx(0.05 * norm, rel=1e-5)
    for name, array in by_path(after.params).items():
        np.testing.assert_allclose(array, expected[name], atol=2e-5, err_msg=name)
