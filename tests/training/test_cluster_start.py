"""Clusters that start from data: of their expected size whatever the seed, once, and nothing else changes."""

import dataclasses
import re
import threading

import numpy as np
import pytest

from partoken_jax.config import PartitionerConfig, StageConfig, TrainConfig
from partoken_jax.nn.partitioner.start import ClusterSums, Start
from partoken_jax.training import loop
from partoken_jax.training.cluster_start import (
    SPREAD,
    bisected,
    calibrated,
    start_clusters,
    start_program,
    starts_from_data,
)
from partoken_jax.training.data import load_run_data
from partoken_jax.training.epochs import SoFar, predict
from partoken_jax.training.interruption import Interrupted
from partoken_jax.training.state import abstract_state, initial_state
from partoken_jax.training.step import make_eval_step
from tests.helpers import by_path

from .conftest import TINY, tiny

MODEL = dataclasses.replace(
    TINY.model,
    num_layers=1,
    partitioner=PartitionerConfig(hidden=8, max_clusters=3, start="data"),
    num_classes=4,
)
CONFIG = dataclasses.replace(
    TINY, model=MODEL, data=dataclasses.replace(TINY.data, neighbours=24, max_length=70, max_train=24)
)
PART = "partitioner."
WEIGHTS = {f"{PART}key.kernel", f"{PART}query.kernel", f"{PART}threshold.layers.1.bias"}


def coverage(step, state, data) -> float:
    """Share of the residues of the validation proteins in a cluster."""
    found = predict(step, state.params, state.codebook, data.loaders["val"].evaluation(), 1.0)
    return found.cluster_sizes.sum() / found.num_residues


def test_coverage_is_alike_whatever_the_seed():
    """Of proteins that the start has not read; without it, a matter of luck. Three weights change."""
    data = load_run_data(CONFIG)
    before, after = [], []
    graphdef, _ = abstract_state(CONFIG)
    step, program = make_eval_step(graphdef, bypass_codebook=True), start_program(graphdef)
    for seed in range(3):
        _, state = initial_state(dataclasses.replace(CONFIG, seed=seed))
        started, line = start_clusters(CONFIG, program, state, data.loaders["train"].epoch(0))
        before.append(coverage(step, state, data))
        after.append(coverage(step, started, data))
        soft, expected = map(float, re.findall(r"soft size (.*?) \(expected (.*?)\)", line)[1])
        assert soft == pytest.approx(expected, abs=0.15)
        old, new = by_path(state.params), by_path(started.params)
        assert {name for name in old if np.any(new[name] != old[name])} == WEIGHTS
        assert started._replace(params=None) == state._replace(params=None)
    assert max(before) > 1.6 * min(before)
    assert max(after) < 1.4 * min(after) and 0.3 < np.mean(after) < 0.95


def measured_by(products, expected: float):
    """What clusters with candidates of these products [M, n] say at a start, at τ = 0.5."""

    def measured(start: Start) -> ClusterSums:
        margin = start.scale * products - start.bias
        p = 1 / (1 + np.exp(-margin / 0.5))
        many, each = products.shape
        return ClusterSums(
            clusters=many, residues=0, assigned=0, soft_size=p.sum(), expected=many * expected,
            candidates=many * each, grown=many, margin=margin.mean(axis=1).sum(), compared=many,
            variance=np.var(start.scale * products, axis=1).sum(),
        )  # fmt: skip

    return measured


@pytest.mark.parametrize("expected, reached", [(8, 8), (19, 15)], ids=["expected size", "too few candidates"])
def test_scale_and_bias_are_found(expected, reached):
    """Of 20 candidates at most 15 join in the mean: else the threshold would tell none from another."""
    products = np.random.default_rng(0).normal(3, 0.01, (50, 20))
    measured = measured_by(products, expected)
    start = calibrated(measured, Start(np.zeros(1), np.float32(1), np.float32(0)), 0.5)
    found = measured(start)
    assert found.soft_size / 50 == pytest.approx(reached, abs=0.05)
    assert (found.variance / 50) ** 0.5 == pytest.approx(SPREAD * 0.5, rel=1e-3)


def test_residues_that_are_all_alike_keep_their_scale():
    start = calibrated(
        measured_by(np.full((5, 20), 2.0), 8), Start(np.zeros(1), np.float32(3), np.float32(0)), 0.5
    )
    assert start.scale == 3
    # All have the same p, 8/20: 6 - bias = 0.5 · logit(0.4).
    assert 6 - start.bias == pytest.approx(0.5 * np.log(0.4 / 0.6), abs=2e-3)


def test_a_fresh_run_starts_its_clusters_and_a_resumed_one_does_not(tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(
        CONFIG, run_dir=str(tmp_path / "run"), stage0=StageConfig(1, 1e-3), stage1=StageConfig(0), resume=True
    )
    read, steps, stop = [], [], threading.Event()

    def start(config, program, state, batches, mesh):
        read.append(len(list(batches)))
        return state, "clusters start"

    def one_step(step, state, batches, settings, *, so_far, after_step, **_):
        steps.append(len(so_far["steps"]))
        stop.set()
        after_step(state, lambda: SoFar(**{**so_far, "steps": [*so_far["steps"], [0.0]]}))

    monkeypatch.setattr(loop, "start_clusters", start)
    monkeypatch.setattr(loop, "train_epoch", one_step)
    for said in (1, 0):
        stop.clear()
        with pytest.raises(Interrupted):
            loop.train(config, stop=stop)
        assert capsys.readouterr().out.count("clusters start") == said
    assert (read, steps) == ([6], [0, 1])


def test_the_published_configuration_and_the_baseline_start_as_they_are():
    assert not starts_from_data(TrainConfig()) and not starts_from_data(tiny())
    assert starts_from_data(CONFIG)
    assert not starts_from_data(dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, kind="gvp")))


def test_bisection_finds_where_a_threshold_is_no_longer_too_low():
    assert bisected(lambda bias: bias < 0.3, -2, 6) == pytest.approx(0.3, abs=8 / 2**12)
