"""Steps made on a CPU for other platforms: they take those platforms' forms, and can be sent there."""

import jax
import numpy as np
import pytest
from jax import export as jax_export

from partoken_jax.config import TrainConfig
from partoken_jax.nn.forms import Target
from partoken_jax.nn.platform import by_platform
from partoken_jax.training.objective import LossWeights
from partoken_jax.training.schedules import StepSettings
from partoken_jax.training.step import make_eval_step, make_train_step
from tests.helpers import assert_close, batch, tiny
from tests.pretrained.conftest import random_state

PLATFORMS = ("cpu", "cuda", "tpu")
SETTINGS = StepSettings(
    np.float32(1e-3), np.float32(0.5), LossWeights(*np.ones(3, np.float32)), np.bool_(False), None
)


@pytest.fixture(scope="module")
def made(chains):
    """(graphdef, state, batch) of a small GVP; the form is a matter of the encoder alone."""
    graphdef, state = random_state(TrainConfig(model=tiny(kind="gvp", num_layers=1)))
    return graphdef, state, batch(chains[:4])


def text(step, *args, platform: str) -> str:
    lowered = step.trace(*args).lower(lowering_platforms=(platform,))
    return lowered.as_text()


@pytest.mark.parametrize(("name", "target"), [("cpu", "cpu"), ("cuda", "gpu"), ("tpu", "tpu")])
def test_a_step_has_the_form_of_its_platform(made, name, target):
    graphdef, state, graph = made
    step = make_train_step(graphdef, bypass_codebook=False, target=Target(target))
    found = text(step, state, graph, SETTINGS, platform=name)
    # The reverse table is made by the only sort. Behind a barrier lies what is computed again on a CPU, and
    # the senders' gradient on a TPU; on a CPU the loops over layers, forward and backward, have some over
    # chunks within.
    assert ("stablehlo.sort" in found) == (name != "cpu")
    assert ("optimization_barrier" in found) == (name != "cuda")
    assert found.count("stablehlo.while") >= 2 + 2 or name != "cpu"


def test_the_default_is_the_default_device(made, monkeypatch):
    graphdef, state, graph = made
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    step = make_train_step(graphdef, bypass_codebook=False)
    monkeypatch.undo()  # what counts is where the step is made for, not where it is traced
    assert "stablehlo.sort" in text(step, state, graph, SETTINGS, platform="tpu")


def flat(step, tree):
    """A step over the leaves of its arguments: flax's types could not be written to a file."""
    return lambda *leaves: tuple(jax.tree.leaves(step(*jax.tree.unflatten(tree, leaves))))


@pytest.mark.parametrize("what", ["training", "inference"])
def test_a_step_goes_to_a_file_for_all_platforms_and_back(made, what):
    graphdef, state, graph = made
    make, args = make_train_step, (state, graph, SETTINGS)
    if what == "inference":
        make, args = make_eval_step, (state.params, state.codebook, graph, np.float32(1.0))
    leaves, tree = jax.tree.flatten(args)

    def on(platform: str):
        return flat(make(graphdef, bypass_codebook=False, target=Target(platform)), tree)

    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    exported = jax_export.export(jax.jit(by_platform(on, PLATFORMS)), platforms=PLATFORMS)(*shapes)
    assert "stablehlo.sort" in exported.mlir_module()
    program = jax_export.deserialize(exported.serialize())
    assert program.platforms == PLATFORMS
    got = program.call(*leaves)
    want = jax.jit(on("cpu"))(*leaves)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        if np.any(np.asarray(b)):
            assert_close(a, b, 1e-5)
        else:
            np.testing.assert_array_equal(a, b)
