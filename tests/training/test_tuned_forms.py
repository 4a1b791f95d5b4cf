"""Choices of `partoken tune`: they count where they were made, and change no result."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from partoken_jax.config import TrainConfig
from partoken_jax.nn.forms import Form, Target, choose, shape_class
from partoken_jax.training import loop, tuned_forms
from partoken_jax.training.loop import train
from partoken_jax.training.objective import LossWeights
from partoken_jax.training.schedules import StepSettings
from partoken_jax.training.step import make_gradient_step
from partoken_jax.training.tuned_forms import (
    device_kind,
    forms_line,
    measured_target,
    store_choice,
    stored_choices,
)
from tests.helpers import assert_close, batch, by_path
from tests.helpers import tiny as tiny_model
from tests.pretrained.conftest import random_state
from tests.training.conftest import tiny

MODEL = tiny_model(kind="gvp", num_layers=1)
SHAPE = shape_class(MODEL, 96, 6)
FAST, OTHER = Form("dense", "none", "gather"), Form("dense", "chunk", "scatter", 48)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tuned_forms, "cache_directory", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "tuned.json"


def test_a_choice_is_found_again_and_replaced(cache):
    assert stored_choices("card") == ()
    assert store_choice("card", SHAPE, FAST) == cache
    store_choice("card", SHAPE._replace(residues=4096), OTHER)
    store_choice("card", SHAPE, OTHER)
    assert dict(stored_choices("card")) == {SHAPE: OTHER, SHAPE._replace(residues=4096): OTHER}


def test_a_choice_of_another_device_or_version_does_not_count(cache, monkeypatch):
    store_choice("card", SHAPE, FAST)
    assert stored_choices("another card") == ()
    for name in ("jax", "jaxlib", "partoken_jax"):
        content = json.loads(cache.read_text())
        content["choices"][-1]["versions"][name] = "0.0.1"
        cache.write_text(json.dumps(content))
        assert stored_choices("card") == ()
        store_choice("card", SHAPE, FAST)
    assert dict(stored_choices("card")) == {SHAPE: FAST}
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    store_choice(device_kind(), SHAPE, FAST)
    assert measured_target() == Target("cpu")  # several processes make one program


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(schema="another"),
        lambda content: content.pop("choices"),
        lambda content: content["choices"].append(3),
        lambda content: content["choices"][0].pop("device"),
        lambda content: content["choices"][0]["shape"].update(node_hidden=3),
        lambda content: content["choices"][0]["form"].update(message_passing="magic"),
        lambda content: content["choices"][0]["form"].update(rematerialise="auto"),
        lambda content: content["choices"][0]["form"].update(chunk="many"),
        lambda content: content["choices"][0]["form"].update(speed=3),
    ],
)
def test_a_broken_file_is_one_sentence_and_ignored(cache, change):
    store_choice("card", SHAPE, FAST)
    content = json.loads(cache.read_text())
    change(content)
    cache.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="is not a file of partoken tune") as said:
        assert stored_choices("card") == ()
    assert len(said) == 1 and "\n" not in str(said[0].message) and str(cache) in str(said[0].message)
    cache.write_text("{")
    with pytest.warns(UserWarning, match="partoken tune writes it anew"):
        store_choice("card", SHAPE, FAST)
    assert dict(stored_choices("card")) == {SHAPE: FAST}


def test_the_line_tells_measured_forms_apart_from_the_rest():
    target = Target("cpu", ((SHAPE, FAST), (shape_class(MODEL, 256, 6), choose(MODEL, Target("cpu"), SHAPE))))
    assert forms_line(MODEL, target, (96, 110, 256, 1024), 6) == (
        "training step as partoken tune found best on this device: dense, all kept, gather for batches of "
        "96, 110 rows; dense, chunks (the default) for batches of 256 rows"
    )
    assert forms_line(MODEL, target, (1024,), 6) is None
    assert forms_line(MODEL, Target("cpu"), (96,), 6) is None
    assert forms_line(dataclasses.replace(MODEL, rematerialise="layer"), target, (96,), 6) is None


def test_a_run_takes_the_choice_and_says_so_in_one_line(cache, tmp_path, capsys, monkeypatch):
    config = tiny(tmp_path / "run", kind="gvp")
    made = {}

    def noted(config, graphdef, mesh, target, *, quiet):
        made["target"] = target
        return make_program(config, graphdef, mesh, target, quiet=quiet)

    def no_steps(run, writer):
        made["shape"] = shape_class(
            config.model, run.data.loaders["train"].plan.node_counts[0], config.data.neighbours
        )

    make_program = loop.make_program
    monkeypatch.setattr(loop, "make_program", noted)
    monkeypatch.setattr(loop, "_to_the_end", no_steps)
    train(config)
    assert made["target"] == Target("cpu") and "partoken tune" not in capsys.readouterr().out
    store_choice(device_kind(), made["shape"], FAST)
    train(dataclasses.replace(config, overwrite=True))
    assert made["target"] == Target("cpu", ((made["shape"], FAST),))
    assert capsys.readouterr().out.count(f"partoken tune found best on this device: {FAST} for") == 1


def test_a_choice_changes_no_result(chains):
    graphdef, state = random_state(TrainConfig(model=MODEL))
    graph = batch(chains[:4])
    settings = StepSettings(
        np.float32(1e-3), np.float32(0.5), LossWeights(*np.ones(3, np.float32)), np.bool_(False), None
    )
    found = []
    for target in (Target("cpu"), Target("cpu", ((SHAPE, FAST),))):
        step = jax.jit(make_gradient_step(graphdef, bypass_codebook=False, target=target))
        found.append(step(state, graph, settings))
    default, tuned = found
    assert_close(tuned.output.logits, default.output.logits)
    want = by_path(default.gradients)
    for name, gradient in by_path(tuned.gradients).items():
        assert_close(gradient, want[name], 1e-4, name)
