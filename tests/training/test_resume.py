"""Runs that are stopped, damaged, locked or out of space go on to the same bits, or say why not."""

import dataclasses
import json
import os
import shutil
import subprocess
from itertools import cycle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments.faults import differences
from partoken_jax.cli import main
from partoken_jax.config import CheckpointConfig, ConfigError, StageConfig
from partoken_jax.convert import export_weights
from partoken_jax.proteins import DataError
from partoken_jax.proteins.dataset import EMBEDDED
from partoken_jax.training import loop
from partoken_jax.training.checkpoints import read_meta, restore, save_imported
from partoken_jax.training.epochs import TrainingError
from partoken_jax.training.evaluate import evaluate
from partoken_jax.training.interruption import Interrupted
from partoken_jax.training.loop import train
from partoken_jax.training.run_directory import (
    CheckpointError,
    check_run_dir,
    clear_run_dir,
    has_checkpoint,
    locked,
)
from tests.helpers import by_path

from .conftest import tiny

pytestmark = pytest.mark.slow

ALWAYS = CheckpointConfig(every=1e-9)


class StopAfter:
    """A stop that is asked for when the run has looked so many times: after each step, and between the
    batches of validation, k-means and test."""

    def __init__(self, looks: int):
        self.left = looks

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


def snapshot(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.mark.parametrize("often", [False, True], ids=["saved when stopped", "saved at every step"])
def test_a_run_stopped_anywhere_goes_on_to_the_same_bits(often, partoken_run, tmp_path):
    """Within epochs of both stages, in validation, k-means and the test. Where nothing could be saved since
    the last time, some more is done each time."""
    straight, report, _ = partoken_run
    config = dataclasses.replace(
        straight, run_dir=str(tmp_path / "run"), checkpoint=ALWAYS if often else straight.checkpoint
    )
    stops = 0
    for looks in cycle((2, 11, 1, 17) if often else (5, 17, 11)):
        try:
            found = train(dataclasses.replace(config, resume=True), quiet=True, stop=StopAfter(looks))
            break
        except Interrupted as stopped:
            stops += 1
            assert "stopped after" in str(stopped) and "--resume" in str(stopped)
    assert stops >= 3
    assert found["test"] == report["test"]
    assert differences(Path(straight.run_dir), tmp_path / "run") == []
    assert len(list((tmp_path / "run" / "checkpoints" / "last").iterdir())) <= 2


DAMAGE = {
    "no state": lambda path: shutil.rmtree(path / "state"),
    "no metadata": lambda path: shutil.rmtree(path / "meta"),
    "metadata {}": lambda path: (path / "meta" / "metadata").write_text("{}"),
    "metadata [1]": lambda path: (path / "meta" / "metadata").write_text("[1]"),
    "metadata garbage": lambda path: (path / "meta" / "metadata").write_bytes(os.urandom(200)),
    "metadata of another epoch": lambda path: replace_text(path / "meta" / "metadata", '"epoch"', 5, 4),
    "orbax metadata garbage": lambda path: (path / "state" / "_METADATA").write_bytes(b"{]"),
    "manifest empty": lambda path: (path / "state" / "manifest.ocdbt").write_bytes(b""),
    "data cut short": lambda path: [cut(p) for p in path.glob("state/**/d/*")],
    "data garbled": lambda path: [garble(p) for p in path.glob("state/**/d/*")],
    "empty": lambda path: [shutil.rmtree(path), path.mkdir()],
}


def replace_text(path: Path, name: str, old: int, new: int) -> None:
    text = path.read_text()
    assert f"{name}: {old}" in text
    path.write_text(text.replace(f"{name}: {old}", f"{name}: {new}", 1))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 3, len(content), 97):
        content[place] ^= 0xFF
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(damage, partoken_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(partoken_run[0].run_dir, run_dir)
    before, newest = sorted((run_dir / "checkpoints" / "last").iterdir(), key=lambda path: int(path.name))
    expected = restore(run_dir, "last")
    assert expected.path == newest
    DAMAGE[damage](newest)
    with pytest.warns(UserWarning, match=rf"last/{newest.name}: this checkpoint is damaged or not whole"):
        found = restore(run_dir, "last")
    assert found.path == before
    assert found.state.step == expected.state.step - 4  # an epoch earlier
    DAMAGE[damage](before) if damage != "metadata of another epoch" else shutil.rmtree(before / "state")
    with (
        pytest.warns(UserWarning, match="damaged"),
        pytest.raises(CheckpointError, match="no checkpoint 'last' can be read; take checkpoint 'best'"),
    ):
        restore(run_dir, "last")


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(partoken_run, tmp_path):
    config, report, _ = partoken_run
    run_dir = tmp_path / "run"
    shutil.copytree(config.run_dir, run_dir)
    newest = max((run_dir / "checkpoints" / "last").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest / "state")
    again = dataclasses.replace(config, run_dir=str(run_dir), resume=True)
    with pytest.warns(UserWarning, match="damaged or not whole"):
        assert train(again, quiet=True)["test"] == report["test"]
    assert differences(Path(config.run_dir), run_dir) == []


def test_two_runs_with_one_seed_are_the_same_to_the_bit(gvp_run, tmp_path):
    again = dataclasses.replace(gvp_run[0], run_dir=str(tmp_path / "again"))
    train(again, quiet=True)
    assert differences(Path(gvp_run[0].run_dir), tmp_path / "again") == []


def test_a_directory_in_use_is_refused(gvp_run, tmp_path):
    config = dataclasses.replace(gvp_run[0], run_dir=str(tmp_path / "run"), resume=True)
    with locked(tmp_path / "run"):
        before = snapshot(tmp_path / "run")
        with pytest.raises(CheckpointError, match=rf"run is in use by process {os.getpid()} on .*; wait"):
            train(config, quiet=True)
        assert snapshot(tmp_path / "run") == before


def test_overwrite_touches_nothing_that_is_not_a_run(gvp_run, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mine.pt").write_text("weights")
    (tmp_path / "evaluation_2024.json").write_text("mine too")
    for settings in (None, "optimiser: adam\n", "seed: 1\n", "- a list\n"):
        if settings is not None:
            (tmp_path / "config.yaml").write_text(settings)
        before = snapshot(tmp_path)
        config = dataclasses.replace(gvp_run[0], run_dir=str(tmp_path), overwrite=True)
        with pytest.raises(CheckpointError, match=r"not the directory of a run .* choose another --run-dir"):
            train(config, quiet=True)
        with pytest.raises(CheckpointError, match=r"evaluation_2024.json, but no config.yaml"):
            train(dataclasses.replace(config, overwrite=False, resume=True), quiet=True)
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "what"), [("dataset.json", "a prepared set"), ("manifest.json", "a folder of annotations")]
)
def test_no_run_goes_into_another_folder_of_ours(gvp_run, tmp_path, name, what):
    (tmp_path / name).write_text("{}")
    for settings in ({"resume": True}, {"overwrite": True}, {}):
        with pytest.raises(CheckpointError, match=f"is {what}; choose another --run-dir"):
            train(dataclasses.replace(gvp_run[0], run_dir=str(tmp_path), **settings), quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_may_have_a_file_of_such_a_name(gvp_run, tmp_path):
    shutil.copytree(gvp_run[0].run_dir, tmp_path / "run")
    (tmp_path / "run" / "manifest.json").write_text('{"job": 7}')
    config = dataclasses.replace(gvp_run[0], run_dir=str(tmp_path / "run"), resume=True)
    assert check_run_dir(config) == tmp_path / "run"


def test_a_new_run_keeps_what_no_run_writes_and_nothing_else(tmp_path):
    """Also what `partoken evaluate --details --sites` made of the run before."""
    (tmp_path / "details_test").mkdir()
    for name in ("details_test/details.md", "sites_val.json", "evaluation_test.json", "report.json"):
        (tmp_path / name).write_text("of the run before")
    (tmp_path / "details_of_mine").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    clear_run_dir(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"details_of_mine", "notes.txt"}


def test_overwrite_waits_for_data_and_model(gvp_run, tmp_path, monkeypatch):
    """A finished run is not lost to a mistake that shows when data or weights are made."""
    shutil.copytree(gvp_run[0].run_dir, tmp_path / "run")
    before = snapshot(tmp_path / "run")
    config = dataclasses.replace(gvp_run[0], run_dir=str(tmp_path / "run"), overwrite=True)
    with pytest.raises(DataError):
        train(
            dataclasses.replace(config, data=dataclasses.replace(config.data, path="nowhere.npz")), quiet=True
        )
    with pytest.raises(CheckpointError, match="holds no 'best' checkpoint"):
        train(dataclasses.replace(config, init_from=str(tmp_path)), quiet=True)
    assert snapshot(tmp_path / "run") == before


def test_resuming_on_other_data_is_refused(gvp_run, tmp_path):
    shutil.copytree(gvp_run[0].run_dir, tmp_path / "run")
    last = restore(tmp_path / "run", "last")
    other = {**last.meta, "fingerprint": "of something else"}
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    save_imported(tmp_path / "run", last.state, other)
    config = dataclasses.replace(gvp_run[0], run_dir=str(tmp_path / "run"), resume=True)
    with pytest.raises(CheckpointError, match=r"pdb_small\.npz is not the data that .* was started with"):
        train(config, quiet=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, 20 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a small file system needs more rights than these tests have")
    yield disk
    subprocess.run(["umount", disk], check=True)


def resize(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


def test_a_full_disk_stops_no_run_and_one_with_room_again_goes_on(gvp_run, small_disk, capfd):
    """After a first checkpoint there is room for a line or two, but for no other checkpoint."""
    straight = gvp_run[0]
    config = dataclasses.replace(straight, run_dir=str(small_disk / "run"), resume=True)
    with pytest.raises(Interrupted):
        train(config, quiet=True, stop=StopAfter(6))
    resize(small_disk, f"size={shutil.disk_usage(small_disk).used // 1024 + 40}k")
    arguments = ["train", "--run-dir", str(small_disk / "run"), "--resume"]
    code = main(arguments)
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert code in (0, 2) and ("could not be written" in said or "No space left" in said)
    resize(small_disk, "size=20m")
    assert main(arguments) == 0
    assert differences(Path(straight.run_dir), small_disk / "run") == []


def test_a_best_epoch_that_could_not_be_saved_is_not_the_best(gvp_run, tmp_path, monkeypatch):
    """Later epochs are compared with the best one on the disk, and the reports name that."""
    accuracies, scores, save = iter((0.5, 0.7, 0.6, 0.55, 0.4)), loop.scores_of, ocp.CheckpointManager.save

    def scored(*args):
        found = scores(*args)
        return {**found, "classification": {**found["classification"], "accuracy": next(accuracies)}}

    def saved(self, number, **rest):
        if self.directory.name == "best" and number == 2:
            raise OSError(28, "No space left on device")
        return save(self, number, **rest)

    monkeypatch.setattr(loop, "scores_of", scored)
    monkeypatch.setattr(ocp.CheckpointManager, "save", saved)
    with pytest.warns(UserWarning, match=r"best: a checkpoint could not be written \(.*no space left"):
        report = train(dataclasses.replace(gvp_run[0], run_dir=str(tmp_path / "run")), quiet=True)
    assert report["best_epoch"] == 3
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["best_epoch"] == 3
    assert read_meta(tmp_path / "run", "last")["best"]["epoch"] == 3


def test_a_run_stopped_while_clusters_start_has_nothing_to_save(tmp_path):
    config = tiny(tmp_path / "run")
    partitioner = dataclasses.replace(config.model.partitioner, start="data")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, partitioner=partitioner))
    with pytest.raises(Interrupted, match="stopped before the first step; the same command with --resume"):
        train(config, quiet=True, stop=StopAfter(1))
    assert not has_checkpoint(tmp_path / "run")


def test_evaluation_prints_in_a_run_that_may_only_be_read(gvp_run, small_disk, capsys):
    shutil.copytree(gvp_run[0].run_dir, small_disk / "run")
    resize(small_disk, "ro")
    assert main(["evaluate", str(small_disk / "run"), "--split", "val"]) == 0
    out, err = capsys.readouterr()
    assert "8 proteins: accuracy" in out
    assert err.startswith("warning: ") and "cannot be written (Read-only" in err and err.count("\n") == 1


def test_the_best_and_every_second_epoch_are_kept(gvp_run, tmp_path):
    config = dataclasses.replace(
        gvp_run[0], run_dir=str(tmp_path), checkpoint=CheckpointConfig(keep_best=2, keep_every=2)
    )
    train(config, quiet=True)
    kept = {path.name for path in (tmp_path / "checkpoints" / "kept").iterdir()}
    assert kept == {"2", "4"}
    ranked = [
        (
            record["validation"]["classification"]["accuracy"],
            record["validation"]["classification"]["macro_f1"],
        )
        for record in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    ]
    improving = [
        i + 1 for i, rank in enumerate(ranked) if rank == max(ranked[: i + 1]) and ranked.index(rank) == i
    ]
    assert {int(path.name) for path in (tmp_path / "checkpoints" / "best").iterdir()} == set(improving[-2:])
    assert read_meta(tmp_path, "best")["epoch"] == improving[-1]


def test_training_from_the_weights_of_a_run_with_another_head(gvp_run, tmp_path, capsys):
    """Fine-tuning on another task: everything but the last layer is that of the run."""
    config = dataclasses.replace(
        tiny(tmp_path / "tuned", kind="gvp", stage0=StageConfig(1, 1e-12), stage1=StageConfig(0)),
        init_from=gvp_run[0].run_dir,
    )
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, task="ec-class"))
    train(config)
    said = capsys.readouterr().out
    assert f"weights from {gvp_run[0].run_dir}" in said
    assert "so they start fresh: classifier." in said
    source = by_path(restore(gvp_run[0].run_dir, "best").state.params)
    tuned = by_path(restore(tmp_path / "tuned", "last").state.params)
    fresh = {name for name in source if source[name].shape != tuned[name].shape}
    assert fresh and all(name.startswith("classifier") for name in fresh)
    for name in source.keys() - fresh:
        np.testing.assert_allclose(tuned[name], source[name], atol=1e-6, err_msg=name)
    with pytest.raises(CheckpointError, match=r"do not fit the model of this run: .* is missing"):
        wrong = dataclasses.replace(config.model, num_layers=config.model.num_layers + 1)
        train(dataclasses.replace(config, model=wrong, run_dir=str(tmp_path / "no")), quiet=True)


def test_converting_overwrites_nothing_that_is_not_a_run(gvp_run, tmp_path, capsys):
    export_weights(gvp_run[0].run_dir, tmp_path / "weights.npz")
    stranger = tmp_path / "project"
    (stranger / "checkpoints").mkdir(parents=True)
    (stranger / "config.yaml").write_text("mine: true\n")
    before = snapshot(stranger)
    assert main(["convert", str(tmp_path / "weights.npz"), str(stranger), "--overwrite"]) == 2
    assert "not the directory of a run" in capsys.readouterr().err
    assert snapshot(stranger) == before


def test_a_run_without_its_best_checkpoint_finds_another_best(gvp_run, tmp_path):
    """As after a kill between the saving of the best checkpoint and that of the last."""
    run_dir = tmp_path / "run"
    shutil.copytree(gvp_run[0].run_dir, run_dir)
    shutil.rmtree(max((run_dir / "checkpoints" / "last").iterdir(), key=lambda path: int(path.name)))
    shutil.rmtree(run_dir / "checkpoints" / "best")
    report = train(dataclasses.replace(gvp_run[0], run_dir=str(run_dir), resume=True), quiet=True)
    assert report["best_epoch"] == read_meta(run_dir, "best")["epoch"] == read_meta(run_dir, "last")["epoch"]


def test_data_that_have_moved_are_known_by_their_content(gvp_run, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(gvp_run[0].run_dir, run_dir)
    shutil.copy(EMBEDDED, tmp_path / "moved.npz")
    data = dataclasses.replace(gvp_run[0].data, path=str(tmp_path / "moved.npz"))
    config = dataclasses.replace(gvp_run[0], run_dir=str(run_dir), data=data, resume=True)
    assert train(config, quiet=True)["test"] == gvp_run[1]["test"]


def test_training_from_a_file_of_weights(gvp_run, tmp_path, capsys):
    export_weights(gvp_run[0].run_dir, tmp_path / "weights.npz")
    shutil.copy(Path(gvp_run[0].run_dir) / "config.yaml", tmp_path / "settings.yaml")
    flags = ["--config", str(tmp_path / "settings.yaml"), "--run-dir", str(tmp_path / "tuned")]
    short = ["--stage0.epochs", "1", "--stage0.learning-rate", "1e-12", "--stage1.epochs", "0"]
    assert main(["train", *flags, *short, "--init-from", str(tmp_path / "weights.npz")]) == 0
    capsys.readouterr()
    source = by_path(restore(gvp_run[0].run_dir, "best").state.params)
    tuned = by_path(restore(tmp_path / "tuned", "last").state.params)
    for name, array in source.items():
        np.testing.assert_allclose(tuned[name], array, atol=1e-6, err_msg=name)
    loaded = restore(tmp_path / "tuned").config
    assert loaded.init_from == str(tmp_path / "weights.npz")
    with pytest.raises(ConfigError, match=r"init_from is .*, a file; read it with"):
        train(dataclasses.replace(loaded, run_dir=str(tmp_path / "other")), quiet=True)


def test_an_imported_run_can_be_resumed(gvp_run, tmp_path, capsys):
    export_weights(gvp_run[0].run_dir, tmp_path / "weights.npz")
    config = Path(gvp_run[0].run_dir) / "config.yaml"
    assert (
        main(["convert", str(tmp_path / "weights.npz"), str(tmp_path / "run"), "--config", str(config)]) == 0
    )
    capsys.readouterr()
    assert main(["train", "--run-dir", str(tmp_path / "run"), "--resume"]) == 0
    assert "going on after epoch 0 of 5" in capsys.readouterr().out


def test_evaluating_weights_that_are_not_finite_is_refused(gvp_run, tmp_path):
    found = restore(gvp_run[0].run_dir, "best")
    state = found.state._replace(params=jax.tree.map(lambda x: x * jnp.nan, found.state.params))
    save_imported(tmp_path, state, found.meta)
    with pytest.raises(TrainingError, match=r"split 'val': .* not finite for 8 of 8 proteins \(12AS_A, "):
        evaluate(tmp_path, split="val")


def test_a_run_can_be_evaluated_from_anywhere(tmp_path, monkeypatch, gvp_run):
    """Paths of data are stored so that they mean the same from any working directory."""
    shutil.copy(EMBEDDED, tmp_path / "mine.npz")
    monkeypatch.chdir(tmp_path)
    data = dataclasses.replace(gvp_run[0].data, path="mine.npz")
    config = tiny("run", kind="gvp", data=data, stage0=StageConfig(1), stage1=StageConfig(0))
    train(config, quiet=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert evaluate("../run", split="val")["data"] == "mine.npz"
