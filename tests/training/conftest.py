"""A run small enough to be repeated."""

import dataclasses
import functools
from pathlib import Path

import pytest

from partoken_jax.config import (
    CodebookConfig,
    DataConfig,
    ModelConfig,
    PartitionerConfig,
    StageConfig,
    TrainConfig,
)
from partoken_jax.training import evaluate, run
from partoken_jax.training.data import load_run_data
from partoken_jax.training.loop import train
from partoken_jax.training.records import read_records

# Dozens of runs have the same steps, and tracing them takes half of the time of a small run. Models that are
# equal share theirs, as long as a worker stays in one file (what it compiled goes with the file).
run.make_train_step = functools.lru_cache(maxsize=8)(run.make_train_step)
run.make_eval_step = evaluate.make_eval_step = functools.lru_cache(maxsize=8)(run.make_eval_step)

TINY = TrainConfig(
    model=ModelConfig(
        node_hidden=(16, 4),
        edge_hidden=(8, 1),
        num_layers=1,
        partitioner=PartitionerConfig(hidden=8, max_clusters=2, cluster_size_max=8),
        codebook=CodebookConfig(size=16),
    ),
    data=DataConfig(
        task="cath-class",
        neighbours=8,
        batch_size=4,
        max_shapes=1,
        max_length=40,
        too_long="crop",
        max_train=14,
        max_eval=8,
    ),
    stage0=StageConfig(epochs=2, learning_rate=1e-3, warmup_epochs=1),
    stage1=StageConfig(epochs=3, learning_rate=1e-3, warmup_epochs=1),
    freeze_codebook_epochs=1,
)
"""14 proteins cut to 40 residues, 4 steps per epoch, 2 + 3 epochs."""


def tiny(run_dir="unused", kind="partoken", **changes) -> TrainConfig:
    model = dataclasses.replace(TINY.model, kind=kind, num_classes=4)
    return dataclasses.replace(TINY, run_dir=str(run_dir), model=model, **changes)


@pytest.fixture(scope="package")
def partoken_run(tmp_path_factory):
    """(config, report, records) of ParToken, trained straight through."""
    config = tiny(tmp_path_factory.mktemp("runs") / "partoken")
    report = train(config, quiet=True)
    return config, report, read_records(Path(config.run_dir) / "metrics.jsonl")


@pytest.fixture(scope="package")
def gvp_run(tmp_path_factory):
    """The same of the GVP baseline, with batches of two shapes."""
    data = dataclasses.replace(TINY.data, max_shapes=2, max_length=70)
    config = tiny(tmp_path_factory.mktemp("runs") / "gvp", kind="gvp", data=data)
    report = train(config, quiet=True)
    return config, report, read_records(Path(config.run_dir) / "metrics.jsonl")


@pytest.fixture(scope="package")
def tiny_data():
    """Batches of the tiny run."""
    return load_run_data(tiny())
