"""What the suite says of the kernels for GPUs."""

import pytest

from experiments.fused_on_gpu import compare
from partoken_jax.nn.fused_messages.gpu.messages import too_old
from tests.nn.fused_messages.one_layer import hidden_graph


def test_without_a_hopper_gpu_the_comparison_is_left_out_with_a_reason():
    said = compare(1, 1)["left_out"]
    assert "compute capability 9.0, but this is cpu" in said and "\n" not in said


@pytest.mark.skipif(too_old() is not None, reason=str(too_old()))
def test_both_forms_are_compared_and_timed(monkeypatch):
    monkeypatch.setattr("experiments.fused_on_gpu.layer_batch", few)
    monkeypatch.setattr("experiments.fused_on_gpu.PRECISIONS", ("bfloat16",))
    monkeypatch.setattr("experiments.fused_on_gpu.PASSES", ("forward",))  # the other takes long to compile
    found = compare(1, 2, interpret=True)
    (row,) = found["rows"]
    assert found["holds"] and 0 < row["errors"]["fused"] < 0.1 and row["ms"].keys() == {"dense", "fused"}


def few(proteins):
    """A chain of 20 residues with 1 neighbour each in place of 300 with 30."""
    return hidden_graph((20,), k=1, num_nodes=24)
