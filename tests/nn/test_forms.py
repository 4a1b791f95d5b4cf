"""Which form a program takes: settings first, then what was measured, then what suits the platform."""

import dataclasses

import jax
import pytest
from jax import export as jax_export

from partoken_jax.config import ModelConfig
from partoken_jax.nn.forms import Form, Target, choose, form_of, shape_class
from partoken_jax.nn.platform import by_platform
from tests.helpers import batch, tiny

SHAPE = shape_class(tiny(), 1216, 30)
FAST = Form("dense", "none", "gather")
CPU, GPU, TPU = (Target(platform) for platform in ("cpu", "gpu", "tpu"))


@pytest.mark.parametrize(
    ("settings", "target", "form"),
    [
        ({}, CPU, Form("dense", "chunk", "scatter")),
        ({}, GPU, Form("dense", "none", "gather")),
        ({}, TPU, Form("blocks", "none")),
        ({"message_passing": "dense"}, TPU, Form("dense", "layer", "gather")),
        ({"message_passing": "blocks"}, CPU, Form("blocks", "none")),
        ({"rematerialise": "layer"}, TPU, Form("blocks", "layer")),
        ({"rematerialise": "chunk"}, TPU, Form("dense", "chunk", "scatter")),
        ({"sender_gradient": "scatter"}, TPU, Form("dense", "layer", "scatter")),
        ({"rematerialise": "none"}, CPU, Form("dense", "none", "scatter")),
        ({"rematerialise": "none"}, TPU, Form("blocks", "none")),
        ({"rematerialise": "chunk"}, GPU, Form("dense", "chunk", "scatter")),
        ({"sender_gradient": "scatter"}, GPU, Form("dense", "none", "scatter")),
        ({"rematerialise": "layer"}, GPU, Form("dense", "layer", "gather")),
        ({"rematerialise": "layer", "sender_gradient": "gather"}, CPU, Form("dense", "layer", "gather")),
        ({"message_passing": "general"}, GPU, Form("general", "none", "scatter")),
        ({"message_passing": "general", "rematerialise": "layer"}, CPU, Form("general", "layer", "scatter")),
        ({"message_passing": "fused"}, TPU, Form("fused", "none", "scatter")),
        ({"message_passing": "fused", "rematerialise": "layer"}, TPU, Form("fused", "layer", "scatter")),
        ({"message_passing": "fused"}, CPU, Form("dense", "chunk", "scatter")),
    ],
)
def test_without_measurements_the_platform_decides_what_is_auto(settings, target, form):
    assert choose(tiny(**settings), target, SHAPE) == form


def test_a_gpu_keeps_what_layers_leave_where_it_is_little():
    published = shape_class(ModelConfig(), 19_264, 30)
    assert choose(ModelConfig(), GPU, published).rematerialise == "none"
    for larger in ({"residues": 32_768}, {"num_layers": 6}, {"node_hidden": (200, 32)}, {"neighbours": 60}):
        assert choose(ModelConfig(), GPU, published._replace(**larger)).rematerialise == "layer"


def test_a_measured_form_serves_its_shape_and_never_contradicts_a_setting():
    target = Target("cpu", ((SHAPE, FAST),))
    assert choose(tiny(), target, SHAPE) == FAST
    assert choose(tiny(sender_gradient="scatter"), target, SHAPE) == choose(
        tiny(sender_gradient="scatter"), CPU, SHAPE
    )
    assert choose(tiny(message_passing="dense", rematerialise="none"), target, SHAPE) == FAST
    for other in (
        {"residues": 2048},
        {"neighbours": 16},
        {"node_hidden": (100, 16)},
        {"num_layers": 5},
        {"precision": "bfloat16"},
    ):
        assert choose(tiny(), target, SHAPE._replace(**other)) == choose(tiny(), CPU, SHAPE)


def test_shapes_are_rounded_to_powers_of_two():
    assert [shape_class(tiny(), n, 30).residues for n in (64, 1216, 1472, 4864, 19_264)] == [
        64, 1024, 2048, 4096, 16_384,
    ]  # fmt: skip


def test_without_a_target_it_is_the_default_device(chains, monkeypatch):
    graph = batch(chains[:1])
    assert form_of(tiny(), None, graph).rematerialise == "chunk"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert form_of(tiny(), None, graph).message_passing == "blocks"
    assert form_of(tiny(), CPU, graph).rematerialise == "chunk"


def test_each_platform_has_its_own_program_in_one_file():
    factor = {"cpu": 2.0, "gpu": 3.0, "tpu": 5.0}
    names = ("cpu", "cuda", "tpu")
    program = jax.jit(by_platform(lambda platform: lambda x: factor[platform] * x, names))
    exported = jax_export.export(program, platforms=names)(jax.ShapeDtypeStruct((), "float32"))
    assert all(f"dense<{constant:e}" in exported.mlir_module() for constant in factor.values())
    assert float(jax_export.deserialize(exported.serialize()).call(1.0)) == float(program(1.0)) == 2.0


def test_every_form_is_a_setting():
    """What can be measured can be set: the names are those of the settings."""
    for form in (Form(), FAST, Form("general", "layer")):
        dataclasses.replace(tiny(), **{n: v for n, v in form._asdict().items() if n != "chunk"})
