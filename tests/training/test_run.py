"""Whole runs: to the bit the same, interrupted or not, and everything left where it belongs."""

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.faults import numbers
from partoken_jax.cli import main
from partoken_jax.config import (
    CodebookConfig,
    ConfigError,
    StageConfig,
    TrainConfig,
    load_yaml,
)
from partoken_jax.convert import ConvertError, export_weights, import_weights, read_weights
from partoken_jax.proteins import DataError
from partoken_jax.training.checkpoints import read_meta, restore, save_imported
from partoken_jax.training.epochs import TrainingError
from partoken_jax.training.evaluate import evaluate, write_evaluation
from partoken_jax.training.loop import train
from partoken_jax.training.records import read_records
from partoken_jax.training.run_directory import CheckpointError, check_resumable
from tests.helpers import by_path

from .conftest import tiny

pytestmark = pytest.mark.slow


class Interrupting(io.StringIO):
    """A terminal whose user presses Ctrl-C when an epoch, counted from 1, has been reported."""

    def __init__(self, epoch: int):
        super().__init__()
        self.line = f"epoch {epoch:3}/"

    def write(self, text: str) -> int:
        if self.line in text:
            raise KeyboardInterrupt
        return super().write(text)


def run_until(config, epoch):
    """A run that is interrupted at the end of an epoch."""
    with contextlib.redirect_stdout(Interrupting(epoch)), pytest.raises(KeyboardInterrupt):
        train(config)


def test_an_interrupted_run_goes_on_to_the_same_bits(partoken_run, tmp_path):
    """Stopped in stage 1 and resumed, against straight through. Also: same seed, same losses; and what was
    logged after the last checkpoint is written anew."""
    straight, report, expected = partoken_run
    config = dataclasses.replace(straight, run_dir=str(tmp_path / "run"))
    run_until(config, 4)
    log = tmp_path / "run" / "metrics.jsonl"
    assert len(read_records(log)) == 4
    with log.open("a") as file:  # as if the machine had stopped after the line, but before the checkpoint
        file.write(json.dumps({**expected[4], "step_losses": []}) + '\n{"epoch": 6, "sta')
    resumed = train(dataclasses.replace(config, resume=True), quiet=True)

    assert numbers(tmp_path / "run") == numbers(Path(straight.run_dir))
    assert resumed["test"] == report["test"]
    for which in ("best", "last"):
        first, second = restore(straight.run_dir, which).state, restore(config.run_dir, which).state
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
            assert jnp.array_equal(a, b)


def test_a_run_through_the_names_of_the_original_evaluates_to_the_same_bits(partoken_run, tmp_path):
    run_dir = Path(partoken_run[0].run_dir)
    data = restore(run_dir).config.data
    export_weights(run_dir, tmp_path / "w.safetensors")
    settings = {f"data.{field.name}": getattr(data, field.name) for field in dataclasses.fields(data)}
    import_weights(tmp_path / "w.safetensors", tmp_path / "run", settings=settings)
    first, second = evaluate(run_dir, split="val"), evaluate(tmp_path / "run", split="val")
    assert second["predictions"] == first["predictions"]
    assert second["scores"]["clustering"] == first["scores"]["clustering"]
    # Uses since the last re-seeding are ours alone: counted anew, and no key of the original.
    ours, back = (by_path(restore(run).state.codebook) for run in (run_dir, tmp_path / "run"))
    assert np.any(ours.pop("codebook.uses")) and not np.any(back.pop("codebook.uses"))
    for name, array in ours.items():
        np.testing.assert_array_equal(back[name], array, name)
    assert not any("uses" in key for key in read_weights(tmp_path / "w.safetensors").arrays)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_codes_out_of_use_are_reseeded_after_the_first_epoch_and_codes_in_use_are_not(tmp_path, share):
    """Two runs of one epoch with the codebook, equal but for the re-seeding at its end."""
    reports = {}
    for reseed in (False, True):
        config = tiny(
            tmp_path / str(reseed),
            stage0=StageConfig(0),
            stage1=StageConfig(1, 1e-3, warmup_epochs=0),
            freeze_codebook_epochs=0,
            reseed_dead_codes=reseed,
            dead_code_share=share if reseed else 0.0,
        )
        codebook = dataclasses.replace(config.model.codebook, size=8)  # few, so that some have a single use
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, codebook=codebook))
        train(config, quiet=True)
        (record,) = read_records(Path(config.run_dir) / "metrics.jsonl")
        reports[reseed] = record["codes_reseeded"], by_path(restore(config.run_dir, "last").state.codebook)
    (none, plain), (moved, seeded) = reports[False], reports[True]
    uses = plain["codebook.uses"]
    used = uses > share * uses.mean()
    assert none == 0 < moved == np.sum(~used) < len(used)
    assert np.any(uses[~used]) == (share > 0)
    for name in ("codebook.embeddings", "codebook.counts", "codebook.sums"):
        np.testing.assert_array_equal(seeded[name][used], plain[name][used], name)
    assert np.all(np.any(seeded["codebook.embeddings"] != plain["codebook.embeddings"], axis=1) == ~used)
    np.testing.assert_array_equal(seeded["codebook.counts"][~used], 1)
    np.testing.assert_array_equal(seeded["codebook.uses"], 0)


def test_a_run_with_codes_in_a_space_of_their_own(tmp_path):
    """Residual VQ in whitened spaces, rotated gradients into the encoder; the last epoch is frozen."""
    codebook = CodebookConfig(
        size=8, quantiser="residual", levels=2, dimension=4, gradient="rotation", classify_quantised=True
    )
    config = tiny(
        tmp_path / "run",
        stage0=StageConfig(0),
        stage1=StageConfig(2, 1e-3, warmup_epochs=0),
        reseed_dead_codes=True,
    )
    model = dataclasses.replace(config.model, num_layers=1, codebook=codebook)
    config = dataclasses.replace(config, model=model)
    report = train(config, quiet=True)
    first, last = read_records(tmp_path / "run" / "metrics.jsonl")
    clusters = last["validation"]["clustering"]
    assert clusters["codes_used_share"] == clusters["codes_used"] / 8 > 0
    assert clusters["perplexity_share"] == clusters["perplexity"] / 8
    assert clusters["effective_dimension"] >= 1 and clusters["quantisation_error"] > 0
    assert first["compilations"] == last["compilations"] == 1
    assert last["codes_reseeded"] == 0 and last["codebook_frozen"]
    assert "of the variance of cluster features lost by codes" in (tmp_path / "run" / "report.md").read_text()
    kept = by_path(restore(config.run_dir, "last").state.codebook)
    assert {name.split(".")[2] for name in kept} == {"0", "1"}
    assert all(np.isfinite(array).all() for array in kept.values())
    assert np.any(kept["codebook.levels.0.axes"] != np.eye(16, 4))  # fitted, and not left as made
    # A checkpoint holds all that the choice of codes needs.
    assert evaluate(config.run_dir)["scores"] == report["test"]
    with pytest.raises(ConvertError, match="codebook has dimension 4 and quantiser 'residual'"):
        export_weights(config.run_dir, tmp_path / "w.safetensors")


def test_one_compilation_per_shape_over_a_run(partoken_run, gvp_run):
    _, report, records = partoken_run
    assert len(report["data"]["node_counts"]) == 1
    assert {record["compilations"] for record in records} == {1}
    _, report, records = gvp_run
    assert len(report["data"]["node_counts"]) == 2
    # The baseline runs one program in both stages; the smaller shape may only come up later.
    assert records[-1]["compilations"] == 2


def test_stages_of_partoken(partoken_run):
    config, _, records = partoken_run
    assert [r["epoch"] for r in records] == [1, 2, 3, 4, 5]
    assert [r["stage"] for r in records] == [0, 0, 1, 1, 1]
    assert [r["temperature"] for r in records] == pytest.approx([0.95**e for e in range(5)])
    assert [r["codebook_frozen"] for r in records] == [False] * 4 + [True]
    assert [r["weight_vq"] > 0 for r in records] == [False, False, True, True, True]
    for record in records:
        joint = record["stage"] == 1
        assert (record["train"]["vq"] > 0) == joint
        assert (record["train"]["coverage"] < 0) == joint
        assert record["train"]["cardinality"] > 0
        clusters = record["validation"]["clustering"]
        assert (clusters["codes_used"] > 0) == (clusters["perplexity"] > 0) == joint
        assert 0 < clusters["coverage"] <= 1
        assert clusters["cluster_sizes"]["max"] <= config.model.partitioner.cluster_size_max
        assert len(record["step_losses"]) == 4


def test_total_loss_holds_every_term_with_its_weight(partoken_run):
    """Of stage 0, where the weights do not change within an epoch."""
    record = partoken_run[2][0]["train"]
    assert record["loss"] == pytest.approx(record["cross_entropy"] + 0.005 * record["cardinality"], rel=1e-5)


def test_the_baseline_has_no_clusters(gvp_run):
    for record in gvp_run[2]:
        assert record["validation"]["clustering"] is None
        assert record["train"]["loss"] == record["train"]["cross_entropy"]
        assert not record["codebook_frozen"]


def test_best_is_the_best_validation_epoch_of_the_stage_with_the_codebook(partoken_run, gvp_run):
    for (config, report, records), first in ((partoken_run, 2), (gvp_run, 0)):

        def rank(record):
            scores = record["validation"]["classification"]
            return scores["accuracy"], scores["macro_f1"]

        best = max(records[first:], key=rank)  # max keeps the earliest of equals
        assert report["best_epoch"] == best["epoch"] == read_meta(config.run_dir, "best")["epoch"]
        assert read_meta(config.run_dir, "last")["epoch"] == 5
        assert report["validation"] == best["validation"]


def test_run_directory_describes_itself(partoken_run):
    config, report, _ = partoken_run
    run_dir = Path(config.run_dir)
    assert json.loads((run_dir / "report.json").read_text()) == report
    assert "| mainly alpha" in (run_dir / "report.md").read_text()
    assert (run_dir / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert load_yaml(TrainConfig, run_dir / "config.yaml") == config
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    assert report["data"]["cropped"]["val"] and 0 <= report["data"]["padding_share"] < 1
    assert report["parameters"]["total"] == read_meta(run_dir, "best")["num_parameters"] > 10_000


@pytest.mark.parametrize("name", ["partoken_run", "gvp_run"])
def test_evaluate_restores_without_being_told_the_configuration(name, request):
    config, report, records = request.getfixturevalue(name)
    test = evaluate(config.run_dir)
    assert test["scores"]["classification"] == report["test"]["classification"]
    assert test["scores"]["cross_entropy"] == pytest.approx(report["test"]["cross_entropy"], rel=1e-5)
    assert json.loads(write_evaluation(test).read_text()) == test
    hits = [p["label"] == p["predicted"] for p in test["predictions"]]
    assert np.mean(hits) == pytest.approx(test["scores"]["classification"]["accuracy"])
    last = evaluate(config.run_dir, split="val", checkpoint="last")
    assert last["epoch"] == 5
    assert last["scores"]["classification"] == records[-1]["validation"]["classification"]
    assert last["scores"]["clustering"] == records[-1]["validation"]["clustering"]


def test_partoken_evaluate_prints_a_table(gvp_run, capsys):
    assert main(["evaluate", gvp_run[0].run_dir, "--split", "val"]) == 0
    output = capsys.readouterr().out
    assert "8 proteins: accuracy" in output and "| alpha beta" in output
    assert (Path(gvp_run[0].run_dir) / "evaluation_val.json").is_file()


def test_a_run_is_never_overwritten_without_being_asked(gvp_run):
    config, _, records = gvp_run
    with pytest.raises(CheckpointError, match=r"already exists; pass --resume .* --overwrite .* --run-dir"):
        train(config, quiet=True)
    assert read_records(Path(config.run_dir) / "metrics.jsonl") == records
    with pytest.raises(CheckpointError, match="exclude each other"):
        train(dataclasses.replace(config, overwrite=True, resume=True), quiet=True)


def test_overwriting_replaces_the_run_and_leaves_other_files(gvp_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(gvp_run[0].run_dir, run_dir)
    write_evaluation(evaluate(run_dir))
    (run_dir / "notes.txt").write_text("mine")
    config = dataclasses.replace(
        gvp_run[0],
        run_dir=str(run_dir),
        stage0=StageConfig(1, 1e-2),
        stage1=StageConfig(0, 1e-2),
        overwrite=True,
    )
    report = train(config, quiet=True)
    assert len(read_records(run_dir / "metrics.jsonl")) == report["best_epoch"] == 1
    assert restore(run_dir, "last").config.stage0.epochs == 1
    assert not (run_dir / "evaluation_test.json").exists()
    assert (run_dir / "notes.txt").read_text() == "mine"


def test_resuming_with_other_settings_is_refused_by_name(gvp_run):
    changed = dataclasses.replace(
        gvp_run[0], seed=5, resume=True, stage1=dataclasses.replace(gvp_run[0].stage1, epochs=9)
    )
    with pytest.raises(CheckpointError, match=r"seed was 0, now 5; stage1\.epochs was 3, now 9"):
        train(changed, quiet=True)


def test_a_run_goes_on_with_another_way_to_compute_the_same(gvp_run):
    """As on a machine with less memory, or after an upgrade that changed a default."""
    stored = dataclasses.replace(gvp_run[0], resume=True)
    model = dataclasses.replace(stored.model, message_passing="dense", rematerialise="layer")
    check_resumable(dataclasses.replace(stored, model=model), stored)


def test_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no 'best' checkpoint"):
        evaluate(tmp_path)


def test_evaluating_on_other_classes_is_refused(gvp_run, tmp_path):
    """As when a file given with `data` holds other architectures than the run's."""
    restored = restore(gvp_run[0].run_dir)
    classes = ["mainly alpha", "mainly beta", "neither", "both"]
    save_imported(tmp_path, restored.state, {**restored.meta, "class_names": classes})
    with pytest.raises(DataError, match=r"has the classes \['mainly alpha', .* was trained on .*'neither'"):
        evaluate(tmp_path)


def test_a_diverging_run_stops_with_a_remedy(gvp_run, tmp_path):
    stage0 = StageConfig(2, 1e9, warmup_epochs=0)
    config = dataclasses.replace(gvp_run[0], run_dir=str(tmp_path / "run"), stage0=stage0)
    with pytest.raises(
        TrainingError, match=r"epoch \d: the loss is (nan|inf) at step \d of 4; .* learning rate"
    ):
        train(config, quiet=True)


def test_a_run_needs_an_epoch():
    with pytest.raises(
        ConfigError, match=r"stage0.epochs and stage1.epochs are both 0, .* at least one epoch"
    ):
        tiny(stage0=StageConfig(0), stage1=StageConfig(0))
