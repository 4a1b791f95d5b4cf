"""A model that has decided something without having been trained, as a run has it."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from partoken_jax.config import DataConfig, TrainConfig, save_yaml, to_dict
from partoken_jax.proteins import load_dataset
from partoken_jax.training.checkpoints import CheckpointMeta, save_imported
from partoken_jax.training.epochs import nothing_yet
from partoken_jax.training.step import initial_state
from tests.helpers import NEIGHBOURS, crop, tiny, without_atoms

DATA = DataConfig(
    task="cath-class", neighbours=NEIGHBOURS, batch_size=4, max_length=40, too_long="crop", max_eval=8
)


def make_run(run_dir, **model):
    """Writes the directory of a run; its weights are larger than initial ones, so that clusters differ."""
    config = TrainConfig(run_dir=str(run_dir), model=tiny(num_classes=4, **model), data=DATA)
    _, state = initial_state(config)
    params = jax.tree.map(lambda x: 2 * x, state.params)
    codes = np.random.default_rng(0).normal(size=(8, 16))
    codebook = jax.tree.map(
        lambda x: np.asarray(codes[:, : x.shape[-1]] if x.ndim == 2 else x, x.dtype), state.codebook
    )
    meta = CheckpointMeta(
        config=to_dict(config),
        class_names=list(load_dataset(task="cath-class", split="val").class_names),
        fingerprint="1234",
        epoch=3,
        so_far=nothing_yet(),
        stage=1,
        bypass_codebook=False,
        temperature=0.5,
        num_parameters=sum(variable.size for _, variable in nnx.to_flat_state(params)),
        validation={},
        best=None,
    )
    run_dir.mkdir()
    save_yaml(config, run_dir / "config.yaml")
    save_imported(run_dir, state._replace(params=params, codebook=codebook), meta)
    return run_dir


@pytest.fixture(scope="package")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("model") / "run")


@pytest.fixture(scope="session")
def proteins(chains):
    """Chains of 12 to 30 residues, one with missing atoms, and one of a single residue."""
    one = dataclasses.replace(crop(chains[0], 5, 1), name="one residue")
    return [without_atoms(chains[0], [3, 4]), *chains[1:5], one]
