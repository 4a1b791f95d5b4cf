"""Steps compiled for devices that are not there: a small model where a compiler is; how rows are kept."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from experiments import compiled
from partoken_jax.config import ConfigError, ModelConfig
from partoken_jax.nn.fused_messages.layout import TILE, rounded_up
from partoken_jax.nn.fused_messages.weights import lane_weights, widths
from partoken_jax.nn.message_passing import GVPConv
from partoken_jax.timing.compiled import DEVICES, PACKAGES, device_mesh, missing_compiler, program_cost_on
from partoken_jax.timing.roofline import minimum

ROOT = Path(__file__).parents[2]
ROW = {"device": "v5e", "model": "gvp", "pass": "forward", "precision": "float32", "form": "blocks"}
TEXT = """HloModule jit_f

ENTRY %main (x: f32[1024,1024], w: f32[1024,1024]) -> f32[1024,1024] {
  %x = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %w = f32[1024,1024]{1,0:T(8,128)} parameter(1)
  %y = f32[1024,1024]{1,0:T(8,128)} convolution(%x, %w), dim_labels=bf_io->bf, \
metadata={op_name="jit(f)/conv/dot_general"}, backend_config={"window_config":{"estimated_cycles":"1500000"}}
  ROOT %z = f32[1024,1024]{1,0:T(8,128)} sort(%y), dimensions={0}, \
metadata={op_name="jit(f)/partitioner/sort"}
}
"""


def keep(folder: Path, text: str) -> None:
    """Leaves a text as an earlier call would have."""
    name = compiled.file_name(ROW)
    (folder / f"{name}.hlo.gz").write_bytes(gzip.compress(text.encode()))
    (folder / f"{name}.json").write_text(json.dumps({"peak_bytes": 12}))


def test_a_row_that_is_there_is_not_made_again(tmp_path):
    kept, out = tmp_path / "kept", tmp_path / "out"
    kept.mkdir()
    keep(kept, TEXT)
    compiled.compile_all([ROW], out, False, kept)
    keep(kept, TEXT.replace("1500000", "9"))
    compiled.compile_all([ROW], out, False, kept)
    (row,) = json.loads((out / "summary.json").read_text())["rows"]
    assert row == json.loads((out / f"{compiled.file_name(ROW)}.json").read_text())
    assert row["cycles_ms"] == pytest.approx(1e3 * 1_500_000 / DEVICES["v5e"].clock_hz)
    assert row["run"] is False and row["peak_bytes"] == 12


def test_an_operation_lasts_as_the_compiler_estimates_or_as_its_bytes_and_arithmetic_need():
    """A product of 1024 x 1024 matrices with an estimate, and a sort without one."""
    device, size = DEVICES["v5e"], 1024
    cost = program_cost_on(device, "float32", TEXT)
    assert cost["flops"] == 2 * size**3 and cost["bytes"] == 4 * size * size * (3 + 2)
    sort_ms = 1e3 * 4 * size * size * 2 / device.bytes_per_s
    assert cost["estimate_ms"] == pytest.approx(cost["cycles_ms"] + sort_ms)
    assert cost["predicted_ms"] == max(cost["compute_ms"], cost["memory_ms"])
    assert cost["compute_ms"] == pytest.approx(1e3 * 2 * size**3 / (197e12 / 6))
    assert [row["name"] for row in cost["components"]] == ["conv", "partitioner"]


def test_where_a_compiler_is_missing_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(PACKAGES, "tpu", ("no_such_module", "libtpu"))
    said = missing_compiler(DEVICES["v5e"])
    assert said is not None and "pip install -e '.[tpu]'" in said and "\n" not in said
    with pytest.raises(ConfigError, match="libtpu"):
        device_mesh(DEVICES["v5e"])


def python_for(platform: str) -> str:
    """A Python that can compile for a platform: the one that PARTOKEN_TPU_PYTHON or PARTOKEN_CUDA_PYTHON
    names, or this one."""
    named = os.environ.get(f"PARTOKEN_{platform.upper()}_PYTHON", sys.executable)
    module = PACKAGES[platform][0]
    asked = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    if subprocess.run([named, "-c", asked], check=False).returncode:
        pytest.skip(f"{named} has no {module}; PARTOKEN_{platform.upper()}_PYTHON may name one that has")
    return named


def flops_of_blocks(config: ModelConfig, residues: int) -> int:
    """Of the messages alone in a training step: forward, again, and two products for each in the gradient."""
    node, edge = config.node_hidden, config.edge_hidden

    def weights():
        gvps = GVPConv(node, node, edge, rngs=nnx.Rngs(0)).message
        nodes = (jnp.zeros((1, node[0])), jnp.zeros((1, node[1], 3)))
        return lane_weights(gvps, nodes, widths(gvps))

    multiply_adds = sum(x.size for x in jax.eval_shape(weights) if x.shape[1] > 1)
    return 2 * 4 * config.num_layers * multiply_adds * 30 * rounded_up(residues, TILE)


@pytest.mark.parametrize(
    ("device", "model", "collectives"),
    [("v5e", "partoken", {}), ("v5e-8", "gvp", {"all-reduce": 1}), ("h100", "partoken", {})],
)
def test_a_small_training_step_compiles_and_never_waits_for_the_host(device, model, collectives, tmp_path):
    command = [python_for(DEVICES[device].platform), "-m", "experiments.compiled", "--small"]
    form = "dense" if device == "h100" else "blocks"
    command += ["--device", device, "--model", model, "--pass", "train_step", "--precision", "float32"]
    command += ["--form", form]
    # The flags of the tests are those of another XLA.
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, env=env, check=True)
    (row,) = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert row["host_calls"] == 0 == row["uncounted_loops"]
    assert row["collectives"] == collectives
    assert 0 < row["peak_bytes"] < row["memory_bytes"]
    residues = compiled.SMALL_PROTEINS * compiled.SMALL_RESIDUES // row["chips"]
    if form == "dense":
        least = minimum(ModelConfig(**compiled.SMALL_MODEL), residues, 30 * residues, 0)["flops"]
    else:
        least = flops_of_blocks(ModelConfig(**compiled.SMALL_MODEL), residues)
    # What is computed again in the dense form adds a third, padding and what is not a product the rest.
    assert least < row["flops"] < (3 if form == "dense" else 2) * least
