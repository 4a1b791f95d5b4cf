"""The comparison of frameworks: unequal things are not timed, what fails is a row, the report tells all."""

import json
import os

import numpy as np
import pytest

from experiments.compare import report
from experiments.compare.__main__ import main, parse
from experiments.compare.batches import noise
from experiments.compare.comparison import (
    compare_variants,
    compare_with_reference,
    equality,
    row,
)
from experiments.compare.process import Process, WorkerError, python_path
from experiments.compare.protocol import ORIGINAL, PASSES, VARIANTS, Settings
from experiments.compare.settings import CompareConfig
from partoken_jax.config import ModelConfig

pytest.importorskip("torch_geometric")

pytestmark = pytest.mark.slow


SETTINGS = Settings("partoken", 2, 30, None, 6, "float32", 0, small=True, original=None)


def probe(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "loss": np.float32(1.5),
        "logits": rng.normal(size=(2, 7)),
        "inference": rng.normal(size=(2, 7)),
        "clusters": rng.integers(-1, 5, 60),
        "g.encoder.ws.kernel": rng.normal(size=(4, 3)),
        "g.attention.query.kernel": 1e-5 * rng.normal(size=(3, 3)),  # little beside the others
    }


def test_equal_and_unequal_probes():
    want = probe(np.random.default_rng(0))
    assert equality(dict(want), want, "float32")["equal"]
    for name, wrong in (
        ("logits", want["logits"] * 1.01),
        ("inference", want["inference"] * 1.01),
        ("g.encoder.ws.kernel", -want["g.encoder.ws.kernel"]),
        ("g.attention.query.kernel", 0 * want["g.attention.query.kernel"]),
        ("clusters", want["clusters"][::-1]),
        ("loss", want["loss"] + 0.1),
    ):
        assert not equality({**want, name: wrong}, want, "float32")["equal"], name
    without = {name: value for name, value in want.items() if name != "g.encoder.ws.kernel"}
    found = equality(without, want, "float32")
    assert not found["equal"] and found["missing_gradients"] == ["g.encoder.ws.kernel"]


def test_the_first_residues_draw_the_same_noise_however_much_padding_follows():
    few, many = (noise(ModelConfig(), count) for count in (10, 64))
    np.testing.assert_array_equal(few, many[:, :10])


def test_a_process_finds_packages_in_folders_of_the_users_own(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "theirs")
    assert python_path("ours").split(os.pathsep) == ["ours", "theirs"]
    monkeypatch.delenv("PYTHONPATH")
    assert python_path("ours") == "ours"


# The interface of the authors' model; what their code needs may not be installed.
STAND_IN = """
from torch import nn

from experiments.torch_peer.graphs import ProteinGraph
from experiments.torch_peer.models import build_model
from partoken_jax.config import ModelConfig


class ParTokenModel(nn.Module):
    def __init__(self, node_in_dim, node_h_dim, edge_in_dim, edge_h_dim, num_classes, num_layers, **rest):
        super().__init__()
        assert rest["k_hop"] == 1 and rest["codebook_size"] == 512
        self.peer = build_model(
            ModelConfig(node_hidden=node_h_dim, edge_hidden=edge_h_dim, num_classes=num_classes,
                        num_layers=num_layers)
        )

    def forward(self, h_V, edge_index, h_E, seq=None, batch=None):
        import torch
        ones = torch.ones(len(batch), dtype=torch.bool)
        label = torch.zeros(int(batch.max()) + 1, dtype=torch.int64)
        out = self.peer(ProteinGraph(*h_V, ones.long(), ones, edge_index, *h_E, batch, label))
        return out.logits, None, {}

    def compute_total_loss(self, logits, labels, extra):
        return nn.functional.cross_entropy(logits, labels), {}
"""


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A small ParToken: PyTorch in both bookkeepings, and a stand-in for the original."""
    checkout = tmp_path_factory.mktemp("original")
    (checkout / "partoken_model.py").write_text(STAND_IN)
    variants = ("torch_loops", "torch_vectorised", "jax_fast")
    return compare_variants(SETTINGS._replace(original=str(checkout)), variants, 2)


def test_every_variant_computes_the_same_and_is_timed(case):
    assert [row["variant"] for row in case.equality] == ["torch_loops", "torch_vectorised"]
    assert all(row["equal"] for row in case.equality)
    assert all(row["gradients_error"] < 1e-4 for row in case.equality)
    assert {(row["variant"], row["pass"], row["status"]) for row in case.rows} == {
        (variant, name, "ok")
        for variant in ("torch_loops", "torch_vectorised", "jax_fast", ORIGINAL)
        for name in PASSES
    }
    assert all(row["median_ms"] > 0 and row["peak_bytes"] > 0 for row in case.rows)
    reads = {row["variant"]: row["host_reads"] for row in case.rows if row["pass"] == "train_step"}
    assert reads["torch_loops"] > 60 and reads["torch_vectorised"] == reads["jax_fast"] == 0
    assert case.ratios["jax_fast_over_torch_loops.partoken.train_step.2x30"]["pairs"] == 2


def test_the_report_renders_from_json(case, tmp_path):
    result = json.loads(
        json.dumps(
            {
                "environment": {
                    "torch": "2", "torch_device": "cpu", "jax": "1", "device": "cpu", "cores": 2,
                    "command": "python -m experiments.compare --small",
                },
                "measurements": [
                    *case.rows,
                    row(SETTINGS, "torch_compile", "train_step", "out of memory"),
                ],
                "ratios": case.ratios,
                "equality": case.equality,
            }
        )
    )  # fmt: skip
    text = report.markdown(result)
    assert "python -m experiments.compare --small" in text and "out of memory" in text
    report.plot(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


class Wrong:
    """A worker whose logits are those of another model."""

    def __init__(self, want):
        self.variant, self.want = "torch_vectorised", want
        self.hello = {"device": "cpu", "padding_share": 0.0, "num_proteins": 2}

    def ask(self, *, do, **order):
        parts = {
            "probe": {**self.want, "logits": self.want["logits"] + 1},
            "infer": {"logits": self.want["inference"]},
        }
        np.savez(order["out"], **parts[do])
        return {"done": True}

    def prepare(self, name):
        return {"compile_s": None, "peak_bytes": 1, "host_reads": 0}

    def run(self, name):
        raise AssertionError("an unequal variant must not be timed")


def test_unequal_things_are_not_timed(tmp_path):
    want = probe(np.random.default_rng(0))
    case, turns = compare_with_reference(SETTINGS, None, Wrong(want), want, tmp_path / "weights.npz", 3)
    assert not case.equality[0]["equal"]
    assert [row["median_ms"] for row in case.rows] == [None, None]
    assert all("not timed" in row["status"] for row in case.rows) and not case.ratios and not turns


class Ready:
    """A worker that does everything, or fails at a training step."""

    def __init__(self, variant, probe, fails=False):
        self.variant, self.probe, self.fails = variant, probe, fails
        self.hello = {"device": "cpu", "padding_share": 0.0, "num_proteins": 2}

    def ask(self, *, do, **order):
        parts = {"probe": self.probe, "infer": {"logits": self.probe["inference"]}}
        np.savez(order["out"], **parts[do])
        return {"done": True}

    def prepare(self, name):
        return {"compile_s": None, "peak_bytes": 1, "host_reads": 0}

    def run(self, name):
        if self.fails and name == "train_step":
            raise WorkerError(self.variant, "out of memory")
        return 0.5


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        ("jax_fast", "not timed: jax_fast failed (out of memory)"),
        ("torch_vectorised", "out of memory"),
    ],
)
def test_who_fails_is_named_and_the_rest_is_kept(tmp_path, broken, status):
    found = probe(np.random.default_rng(0))
    fast, other = (Ready(name, found, name == broken) for name in ("jax_fast", "torch_vectorised"))
    case, turns = compare_with_reference(SETTINGS, fast, other, found, tmp_path / "weights.npz", 3)
    assert [row["status"] for row in case.rows] == ["ok", status]
    assert list(case.ratios) == ["jax_fast_over_torch_vectorised.partoken.forward.2x30"]
    assert turns == {"forward": [0.5, 0.5, 0.5]}


def test_a_worker_that_dies_is_a_row(tmp_path):
    lost = SETTINGS._replace(path="nothing.npz", residues=None)
    with Process("torch_vectorised", lost) as process:
        assert "nothing.npz" in process.hello["error"]
        case, _ = compare_with_reference(SETTINGS, None, process, {}, tmp_path / "w.npz", 1)
    assert [row["status"] for row in case.rows] == [process.hello["error"]] * 2


def test_the_original_is_timed_but_not_compared(case):
    rows = [row for row in case.rows if row["variant"] == ORIGINAL]
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert "jax_fast_over_original.partoken.train_step.2x30" in case.ratios


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--variants", "tensorflow"], "variants is 'tensorflow', but must be one or more of torch_loops"),
        (["--models", ""], "models is ''"),
        (["--batch-size", "4,x"], "batch_size is '4,x', but must be whole numbers"),
        (["--batch-size", "0"], "must be at least 1"),
        (["--repeats", "0"], "repeats is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--data", "nothing.npz"], "data is 'nothing.npz', but there is no such file"),
        (["--json", "missing/a.json"], "there is no directory"),
        (["--precision", "tensorfloat32"], "only a GPU has"),
        (["--tensorflow"], "--tensorflow; see `python -m experiments.compare --help`"),
        (["--original", "tests"], "has no partoken_model.py or bioblobs_model.py"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_runs(capsys, flags, message):
    assert main(flags) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1


def test_flags_reach_the_workers():
    flags = parse(["--batch-size", "4,16", "--models", "gvp", "--residues", "50", "--small"])
    assert flags.batches.batch_size == (4, 16) and flags.subjects.models == ("gvp",)
    expected = Settings("gvp", 4, 50, None, 30, "float32", 0, small=True, original=None)
    assert flags.case("gvp", 4) == expected


def test_every_variant_has_a_name():
    assert tuple(report.NAMES) == (*VARIANTS, ORIGINAL)
    assert CompareConfig().subjects.variants == VARIANTS
