import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from partoken_jax.cli import main
from partoken_jax.config import ConfigError, ModelConfig
from partoken_jax.models import build_model
from partoken_jax.timing import (
    ablation,
    analyse,
    analysis,
    epoch,
    markdown,
    run_sweep,
    sweep_markdown,
    sweeps,
)
from partoken_jax.timing.batches import timing_data
from partoken_jax.timing.measure import Timing, compile_program, ratio, summary
from partoken_jax.timing.plots import plot_components, plot_sweeps
from partoken_jax.timing.programs import Program, timing_settings, train_config
from partoken_jax.timing.recommendations import recommendations_markdown
from partoken_jax.timing.roofline import encoder_multiply_adds, minimum, roofline
from partoken_jax.timing.synthetic import synthetic_protein
from partoken_jax.timing_config import SWEEPS, TimingConfig
from tests.helpers import NEIGHBOURS, tiny

pytestmark = pytest.mark.slow


SMALL = TimingConfig(
    batch_size=3, residues=40, neighbours=NEIGHBOURS, repeats=2, passes=("train_step", "epoch"),
    model=tiny(num_layers=1),
)  # fmt: skip


@pytest.fixture(scope="module")
def result():
    with pytest.MonkeyPatch.context() as patch:
        for module in (ablation, analysis):  # a program less for each that is left out
            patch.setattr(module, "PARTS", ("partitioner", "codebook"))
        return json.loads(json.dumps(analyse(SMALL, quiet=True, command="the command")))


def test_the_result_has_every_documented_part(result):
    assert result["schema"] == "partoken.timing/1"
    assert result["environment"]["command"] == "the command"
    assert {(row["model"], row["pass"]) for row in result["measurements"]} == {
        (kind, name) for kind in ("gvp", "partoken") for name in ("train_step", "epoch")
    }
    for row in result["measurements"]:
        assert row["batch_size"] == 3
        assert row["median_ms"] > 0
        low, high = row["quartiles_ms"]
        assert low <= row["median_ms"] <= high
        assert row["padding_share"] == pytest.approx(1 - 120 / 128)
    steps = [row for row in result["measurements"] if row["pass"] == "train_step"]
    assert all(row["flops"] > 0 and row["bytes"] > 0 and row["temp_bytes"] > 0 for row in steps)
    assert result["ratios"]["partoken_over_gvp.train_step"]["pairs"] == 2
    assert result["ratios"]["partoken_over_gvp.epoch"]["pairs"] == epoch.RUNS
    assert result["shapes"] == [128]
    assert result["recompilations"] == 1


def test_components_add_up_to_the_profiled_step(result):
    for kind, breakdown in result["breakdown"].items():
        rows = [row for row in result["components"] if row["model"] == kind]
        spent = sum(row["ms"] for row in rows) + breakdown["unattributed_share"] * breakdown["step_ms"]
        assert spent == pytest.approx(breakdown["step_ms"])
    names = {row["name"] for row in result["components"] if row["model"] == "partoken"}
    assert names >= {"conv", "partitioner", "codebook", "attention", "fusion", "classifier", "optimiser"}
    assert not names & {"gvp"}
    baseline = {row["name"] for row in result["components"] if row["model"] == "gvp"}
    assert not baseline & {"partitioner", "codebook", "attention", "fusion"}


def test_the_ablation_has_a_row_for_each_part(result):
    assert [row["name"] for row in result["gap"]] == ["partitioner", "codebook"]


def test_every_part_of_the_ablation_makes_the_model_larger():
    """From the baseline's encoder to ParToken itself, in parameters. A bypassed codebook has as many."""
    config = dataclasses.replace(SMALL.model, kind="partoken")

    def parameters(parts):
        model = nnx.eval_shape(lambda: ablation.partial_model(parts)(config, rngs=nnx.Rngs(0)))
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))

    parts = ablation.PARTS
    counts = [parameters(parts[:number]) for number in range(1, len(parts) + 1)]
    assert parts[-1] == "codebook" and counts[-1] == counts[-2] == parameters(parts)
    assert counts[:-1] == sorted(set(counts[:-1]))
    whole = nnx.eval_shape(lambda: build_model(config, rngs=nnx.Rngs(0)))
    assert counts[-1] == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(whole, nnx.Param)))


def test_a_part_costs_the_median_of_its_pairs():
    """A slow moment of the machine that meets one step of each model changes nothing, and the cost of a part
    lies within its quartiles, where the difference of two medians need not."""
    seconds = {
        "gvp": [1.0, 1.0, 3.0, 0.9],
        "partitioner": [1.1, 1.1, 3.1, 1.0],
        "codebook": [1.1, 1.2, 1.0, 1.0],
    }
    rows = ablation.differences({name: summary(times) for name, times in seconds.items()})
    assert [row["name"] for row in rows] == ["partitioner", "codebook"]
    assert rows[0]["ms"] == pytest.approx(100) and rows[0]["quartiles_ms"] == pytest.approx([100, 100])
    assert rows[0]["share_of_gvp"] == pytest.approx(0.1 / 1.0)
    for row in rows:
        low, high = row["quartiles_ms"]
        assert low <= row["ms"] <= high


def test_the_report_says_that_parts_need_not_add_up(result):
    assert "need not add up exactly" in markdown(result)


def test_all_losses_are_live_in_what_is_timed():
    data = timing_data(SMALL)
    settings = timing_settings(train_config(SMALL, data, "partoken"))
    assert min(settings.weights) > 0 and not settings.frozen and settings.learning_rate > 0
    assert train_config(SMALL, data, "partoken").model.num_classes == len(data.dataset.class_names)


def test_the_report_renders_from_json(result, tmp_path):
    text = markdown(result)
    for title in ("Performance gap", "Measurements", "Parameters", "Components", "Roofline", "Compilation"):
        assert f"## {title}" in text
    assert "the command" in text
    plot_components(result, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_planted_recompilation_is_caught(monkeypatch):
    """Every second batch has labels of another type: one shape, but two programs."""

    def planted(batches):
        for number, graph in enumerate(batches):
            label = graph.globals.label.astype(np.int16 if number % 2 else np.int32)
            yield jax.device_put(graph._replace(globals=graph.globals._replace(label=label)))

    monkeypatch.setattr(epoch, "prefetch", planted)
    data = timing_data(SMALL)
    found = epoch.time_epochs({"gvp": train_config(SMALL, data, "gvp")}, data, 3, quiet=True)["gvp"]
    assert len(found.shapes) == 1
    assert found.programs == 2


@pytest.fixture
def quick_programs(monkeypatch):
    """Sweeps time a program that adds one, whatever their points ask for; that with 3 clusters needs more
    memory than there is. Training steps are compiled for `result`."""
    compiled = compile_program(jax.jit(lambda x: x + 1), np.ones(3))

    def build(config, graph, name):
        assert name == "train_step"
        needed = (
            1 << 60 if config.model.partitioner.max_clusters == 3 and config.model.kind == "partoken" else 8
        )
        return Program(compiled._replace(temp_bytes=needed), lambda: compiled.run(np.ones(3)))

    monkeypatch.setattr(sweeps, "build_program", build)


def test_a_point_without_memory_is_a_row(monkeypatch, quick_programs):
    monkeypatch.setattr(sweeps, "CLUSTERS", (1, 3))
    monkeypatch.setattr(sweeps, "HOPS", (1,))
    sweep = run_sweep("clusters", SMALL, quiet=True)
    rows = {row["max_clusters"]: row for row in sweep["rows"]}
    assert rows[3]["status"] == "out of memory" and rows[3]["median_ms"] is None
    assert rows[1]["status"] == "ok" and rows[1]["median_ms"] > 0
    assert "out of memory" in sweep_markdown("clusters", json.loads(json.dumps(sweep)))


def test_interleaved_points_are_compared_with_the_first(quick_programs):
    sweep = run_sweep("rematerialisation", dataclasses.replace(SMALL, models=("gvp",)), quiet=True)
    assert [row["rematerialise"] for row in sweep["rows"]] == ["none", "layer", "chunk"]
    assert list(sweep["ratios"]) == [
        "GVP, rematerialise layer / GVP, rematerialise none",
        "GVP, rematerialise chunk / GVP, rematerialise none",
    ]
    assert [row["pairs"] for row in sweep["ratios"].values()] == [2, 2]


def test_recommendations_are_read_off_the_sweeps():
    def row(model, label, ms, **changes):
        times = {"median_ms": ms, "quartiles_ms": [0.9 * ms, 1.1 * ms], "temp_bytes": 100}
        return {"model": model, "label": label, "status": "ok", "batch_size": 4, **times, **changes}

    def pair(median, low, high):
        return {"median": median, "quartiles": [low, high], "pairs": 3}

    batch = [
        row("gvp", "GVP, batch 4", 40.0),
        row("gvp", "GVP, batch 8", 60.0, batch_size=8, temp_bytes=150),
        row("gvp", "GVP, batch 16", 0.0, batch_size=16, status="out of memory"),
    ]
    labels = ("5 clusters, 1 hop", "10 clusters, 1 hop", "25 clusters, 1 hop")
    clusters = [row("partoken", f"ParToken, {label}", 50.0) for label in labels]
    ratios = {f"{r['label']} / {clusters[0]['label']}": pair(1.1, 0.9, 1.2) for r in clusters[1:]}
    sweeps = {"batch": {"rows": batch, "ratios": {}}, "clusters": {"rows": clusters, "ratios": ratios}}
    text = recommendations_markdown({"sweeps": sweeps})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    compared = "GVP, batch 8 / GVP, batch 4, per protein"
    assert ["larger batches", compared, "0.75", "0.61 to 0.92", "1.50", "faster"] in rows
    compared = "ParToken, 25 clusters, 1 hop / ParToken, 5 clusters, 1 hop"
    simpler = ["a simpler partitioner", compared, "1.10", "0.90 to 1.20", "1.00", "no difference shown"]
    assert simpler in rows
    assert "10 clusters" not in text
    assert recommendations_markdown({}) == ""


def test_every_sweep_has_points_that_differ():
    """Nothing is compiled: each point is a setting of its own, and a group times one batch."""
    for name, sweep in sweeps.SWEEPS.items():
        groups = sweep(SMALL)
        points = [point for group in groups for point in group]
        assert len({(point.model, point.config) for point in points}) == len(points)
        assert len({point.label for point in points}) == len(points)
        assert all(len({point.config.batch_size for point in group}) == 1 for group in groups), name
    assert set(sweeps.SWEEPS) == set(SWEEPS)
    assert not sweeps.SWEEPS["clusters"](dataclasses.replace(SMALL, models=("gvp",)))


def test_a_batch_sweep_compares_the_models_at_every_size(monkeypatch, tmp_path, quick_programs):
    monkeypatch.setattr(sweeps, "BATCH_SIZES", (2, 3))
    partitioner = dataclasses.replace(SMALL.model.partitioner, max_clusters=2)
    base = dataclasses.replace(SMALL, model=dataclasses.replace(SMALL.model, partitioner=partitioner))
    sweep = json.loads(json.dumps(run_sweep("batch", base, quiet=True)))
    assert list(sweep["ratios"]) == [f"ParToken, batch {size} / GVP, batch {size}" for size in (2, 3)]
    plot_sweeps({"sweeps": {"batch": sweep}}, tmp_path / "sweeps.png")
    assert (tmp_path / "sweeps.png").stat().st_size > 1000


def test_ratios_are_of_pairs():
    above, below = (Timing(0.0, (0.0, 0.0), seconds) for seconds in ([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]))
    assert ratio(above, below) == {"median": 3.0, "quartiles": [2.5, 3.5], "pairs": 3}


def test_the_published_widths_need_22_thousand_multiply_adds_per_edge_and_layer():
    """DESIGN.md section 4: 22.1 k after both rewritings."""
    three, _ = (encoder_multiply_adds(ModelConfig(num_layers=n))[1] for n in (3, 2))
    two = encoder_multiply_adds(ModelConfig(num_layers=2))[1]
    assert round((three - two) / 1000, 1) == 22.1


def test_the_bound_is_the_slower_of_arithmetic_and_memory():
    least = minimum(ModelConfig(), residues=1000, edges=30_000, parameters=500_000)
    ceilings = {"flops_per_s": 1e12, "bytes_per_s": 1e9, "matrix": 1, "array_bytes": 1}
    roof = roofline(least, ceilings, step_ms=1e6)
    assert roof["bound_ms"] == max(roof["compute_ms"], roof["memory_ms"])
    assert roof["memory_ms"] == pytest.approx(1e3 * least["bytes"] / 1e9)
    assert roof["step_over_bound"] == pytest.approx(1e6 / roof["bound_ms"])


@pytest.mark.parametrize("length", (1, 2, 57))
def test_synthetic_proteins_are_chains(length):
    protein = synthetic_protein(length, seed=3)
    assert len(protein) == length and protein.complete.all()
    steps = np.linalg.norm(np.diff(protein.backbone[:, 1], axis=0), axis=1)
    np.testing.assert_allclose(steps, 3.8, atol=1e-4)
    assert np.array_equal(protein.backbone, synthetic_protein(length, seed=3).backbone)


@pytest.mark.parametrize(
    "settings, message",
    (
        ({"models": ("gnn",)}, r"models is \('gnn',\), but must be one or more of 'gvp' and 'partoken'"),
        ({"passes": ()}, r"passes is \(\), but must be one or more of 'forward',"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"residues": 0}, "residues is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"residues": 50, "path": "chains.npz"}, "residues is 50, but must be left out"),
        ({"sweeps": ("everything",)}, r"sweeps is \('everything',\), but must be any of 'batch', 'length'"),
    ),
)
def test_settings_that_cannot_be_timed(settings, message):
    with pytest.raises(ConfigError, match=message):
        TimingConfig(**settings)


def test_a_wrong_path_is_said_before_anything_is_measured(capsys, tmp_path):
    assert main(["time", "--json", str(tmp_path / "missing" / "a.json")]) == 2
    assert "there is no directory" in capsys.readouterr().err
