"""A run small enough to be repeated, and compilation made cheap."""

import dataclasses
import os
from pathlib import Path

import jax
import pytest

from partoken_jax.config import (
    CodebookConfig,
    DataConfig,
    ModelConfig,
    PartitionerConfig,
    StageConfig,
    TrainConfig,
)
from partoken_jax.training.data import load_run_data
from partoken_jax.training.loop import train
from partoken_jax.training.records import read_records


@pytest.fixture(autouse=True, scope="package")
def cheap_compilation(tmp_path_factory):
    """Unoptimised programs, and each of them compiled once for all tests and workers."""
    base = tmp_path_factory.getbasetemp()
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(
            (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "jax"
        ),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


TINY = TrainConfig(
    model=ModelConfig(
        node_hidden=(16, 4),
        edge_hidden=(8, 1),
        num_layers=2,
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
def partoken_run(tmp_path_factory, cheap_compilation):
    """(config, report, records) of ParToken, trained straight through."""
    config = tiny(tmp_path_factory.mktemp("runs") / "partoken")
    report = train(config, quiet=True)
    return config, report, read_records(Path(config.run_dir) / "metrics.jsonl")


@pytest.fixture(scope="package")
def gvp_run(tmp_path_factory, cheap_compilation):
    """The same of the GVP baseline, with batches of two shapes."""
    data = dataclasses.replace(TINY.data, max_shapes=2, max_length=70)
    config = tiny(tmp_path_factory.mktemp("runs") / "gvp", kind="gvp", data=data)
    report = train(config, quiet=True)
    return config, report, read_records(Path(config.run_dir) / "metrics.jsonl")


@pytest.fixture(scope="package")
def tiny_data():
    """Batches of the tiny run."""
    return load_run_data(tiny())
