"""Clusters started from data, twenty steps of training, k-means in between, on all the devices there are:

python -m tests.training.on_devices OUT.npz
"""

import dataclasses
import functools
import re
import sys

import jax
import numpy as np

from partoken_jax.config import DataConfig, StageConfig
from partoken_jax.training.cluster_start import start_clusters, start_program
from partoken_jax.training.data import load_run_data
from partoken_jax.training.devices import data_mesh, num_shards, put_batch, replicate
from partoken_jax.training.epochs import predict
from partoken_jax.training.schedules import epoch_settings
from partoken_jax.training.stages import begin_stage, cluster_samples, initialise_codebook
from partoken_jax.training.state import initial_state
from partoken_jax.training.step import make_eval_step, make_train_step
from tests.helpers import by_path

from .conftest import TINY, tiny

DATA = dataclasses.replace(TINY.data, batch_size=10, max_train=46, max_eval=9)
"""5 batches an epoch, the last of 6 proteins: some shards of 8 hold two proteins, some one, some none."""
COLLECTIVES = re.compile(
    r" (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)


STARTED = [f"partitioner.{name}" for name in ("key.kernel", "query.kernel", "threshold.layers.1.bias")]
"""What the start sets."""


def train_on_devices(kind: str, data: DataConfig = DATA) -> dict[str, np.ndarray]:
    """The weights in `STARTED`, losses [20, 5] of 2 + 2 epochs, what the model then says of the validation
    proteins, the codebook, and the collective operations of the compiled steps of both stages."""
    stage = StageConfig(2, 1e-3, 1)
    config = tiny(kind=kind, data=data, stage0=stage, stage1=stage, freeze_codebook_epochs=0)
    mesh, uses_codes = data_mesh(None), kind == "partoken"
    run_data = load_run_data(config, num_shards(mesh))
    loader, put = run_data.loaders["train"], put_batch(mesh)
    graphdef, state = initial_state(config)
    state = replicate(state, mesh)
    started: dict[str, np.ndarray] = {}
    if uses_codes:
        batches = map(put, loader.epoch(0))
        state, _ = start_clusters(config, start_program(graphdef, mesh), state, batches, mesh)
        started = by_path(jax.device_get(state.params))
    losses, collectives = [], []
    make_step, make_evaluation = map(functools.cache, (make_train_step, make_eval_step))
    for number in range(4):
        bypass = number < 2 or not uses_codes
        evaluate = make_evaluation(graphdef, bypass_codebook=bypass, mesh=mesh)
        if number in (0, 2):
            state = begin_stage(state, mesh)
            step = make_step(graphdef, bypass_codebook=bypass, mesh=mesh)
            if not bypass:
                batches = map(put, loader.epoch(number))
                samples = cluster_samples(evaluate, state, batches, temperature=1.0, max_batches=3)
                state = initialise_codebook(graphdef, state, samples, 0, mesh)
        settings = epoch_settings(config, number // 2, number % 2, len(loader), has_codebook=uses_codes)
        for batch, at in zip(loader.epoch(number), settings, strict=True):
            batch = put(batch)
            if mesh is not None and len(losses) in (0, 10):
                text = step.lower(state, batch, at).compile().as_text()
                collectives.append(",".join(COLLECTIVES.findall(text)))
            state, metrics = step(state, batch, at)
            losses.append([float(loss) for loss in metrics.losses])
    batches = map(put, run_data.loaders["val"].evaluation())
    predictions = predict(evaluate, state.params, state.codebook, batches, 0.9)
    codebook = jax.device_get(jax.tree.leaves(state.codebook))
    return {
        "losses": np.array(losses),
        "collectives": np.array(collectives),
        **{name: array for name, array in started.items() if name in STARTED},
        **{name: found for name, found in predictions._asdict().items() if found is not None},
        **{f"codebook{i}": array for i, array in enumerate(codebook)},
    }


if __name__ == "__main__":
    found = {kind: train_on_devices(kind) for kind in ("gvp", "partoken")}
    arrays = {f"{kind}.{name}": array for kind, part in found.items() for name, array in part.items()}
    np.savez(sys.argv[1], devices=jax.device_count(), **arrays)
