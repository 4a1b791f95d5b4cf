"""A step that is not finite, in a whole run: reported, saved, skipped or stopped at, and shown again."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from partoken_jax.cli import main
from partoken_jax.config import StageConfig
from partoken_jax.graphs import BatchLoader
from partoken_jax.training.checkpoints import restore
from partoken_jax.training.data import load_run_data
from partoken_jax.training.epochs import TrainingError
from partoken_jax.training.loop import train
from partoken_jax.training.prefetch import prefetch
from partoken_jax.training.records import read_records

from .conftest import tiny

pytestmark = pytest.mark.slow


@pytest.fixture
def broken(monkeypatch):
    """The number of a training protein; its batches arrive with one of its atoms at infinity. A data set with
    such an atom is refused, so it has to come in later."""
    number = 5

    def break_it(batches):
        for graph in prefetch(batches):
            places = np.flatnonzero(np.asarray(graph.globals.protein) == number)
            if places.size:
                first = int(np.sum(np.asarray(graph.n_node)[: places[0]]))
                backbone = np.array(graph.nodes.backbone)
                backbone[first + 3, 1] = np.inf
                graph = graph._replace(nodes=graph.nodes._replace(backbone=backbone))
            yield graph

    original = BatchLoader.epoch
    monkeypatch.setattr(
        BatchLoader, "epoch", lambda self, *args, **named: break_it(original(self, *args, **named))
    )
    return number


def test_a_run_stops_at_a_step_and_replay_shows_it_again(tmp_path, capsys):
    config = tiny(tmp_path / "run", kind="gvp", stage0=StageConfig(2, 1e9, warmup_epochs=0))
    with pytest.raises(TrainingError) as error:
        train(config, quiet=True)
    said = str(error.value)
    (file,) = (tmp_path / "run").glob("non_finite_step_*.npz")
    told = re.fullmatch(
        r"stage 0, epoch 1: the (loss|norm of the gradients) is (nan|inf|-inf) at step \d of 4; first not "
        r"finite: (?P<component>.*); the batch holds \d proteins \(.*\); `partoken replay .*` shows the step "
        r"again; try a lower learning rate, .*",
        said,
    )
    assert told and str(file) in said
    assert main(["replay", str(file)]) == 0
    shown = capsys.readouterr().out
    assert f"First not finite: {told['component']}." in shown
    assert re.search(r"\|\s+NO \|", shown)


def test_a_step_with_a_broken_protein_is_left_out_and_the_run_goes_on(tmp_path, capsys, broken):
    config = tiny(
        tmp_path / "run", kind="gvp", stage0=StageConfig(1), stage1=StageConfig(1), non_finite="skip"
    )
    name = load_run_data(config).datasets["train"].names[broken]
    with pytest.warns(UserWarning, match=rf"first not finite: .* of protein {name}; .*; the step is skipped"):
        train(config, quiet=True)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    assert [record["skipped_steps"] for record in records] == [1, 1]
    for record in records:
        assert sum(loss is None for loss in record["step_losses"]) == 1
        json.dumps(record, allow_nan=False)
    state = restore(tmp_path / "run", "last").state
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))
    for file in sorted((tmp_path / "run").glob("non_finite_step_*.npz")):
        assert main(["replay", str(file)]) == 0
        assert f"of protein {name}." in capsys.readouterr().out


def test_a_run_stops_at_a_broken_protein_in_the_state_before(tmp_path, broken):
    config = tiny(tmp_path / "run", kind="gvp", stage0=StageConfig(1), stage1=StageConfig(0))
    name = load_run_data(config).datasets["train"].names[broken]
    with pytest.raises(TrainingError, match=rf"of protein {name}; .*leave it out"):
        train(config, quiet=True)
    (file,) = (tmp_path / "run").glob("non_finite_step_*.npz")
    with np.load(file) as content:
        steps_before = int(content["state/step"])
        assert not content["state/stopped"]
    assert Path(file).name == f"non_finite_step_{steps_before + 1}.npz"


@pytest.mark.parametrize("content", [b"", b"not a zip", None])
def test_a_file_without_a_step_is_refused(tmp_path, capsys, content):
    file = tmp_path / "non_finite_step_1.npz"
    if content is None:
        np.savez(file, weights=np.zeros(3))
    else:
        file.write_bytes(content)
    assert main(["replay", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}: holds no training step") and said.count("\n") == 1
