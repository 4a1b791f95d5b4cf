"""A model that has decided something without having been trained, as a run has it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.config import DataConfig, TrainConfig, save_yaml, to_dict
from partoken_jax.proteins import load_dataset
from partoken_jax.training.checkpoints import CheckpointMeta, save_imported
from partoken_jax.training.epochs import nothing_yet
from partoken_jax.training.state import TrainState, abstract_state, run_keys
from tests.helpers import NEIGHBOURS, crop, tiny, without_atoms

DATA = DataConfig(
    task="cath-class", neighbours=NEIGHBOURS, batch_size=4, max_length=40, too_long="crop", max_eval=8
)


def random_state(config):
    """(graphdef, state) with random weights, so large that decisions differ, and no program compiled."""
    rng = np.random.default_rng(0)
    graphdef, shapes = abstract_state(config)
    params = jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape).astype(x.dtype), shapes.params)
    codebook = jax.tree.map(lambda x: rng.random(x.shape).astype(x.dtype), shapes.codebook)
    moments = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.moments)
    key = run_keys(0).step
    return graphdef, TrainState(params, codebook, moments, key, jnp.int32(0), jnp.bool_(False))


def make_run(run_dir):
    """Writes the directory of a run."""
    config = TrainConfig(run_dir=str(run_dir), model=tiny(num_classes=4), data=DATA)
    _, state = random_state(config)
    meta = CheckpointMeta(
        config=to_dict(config),
        class_names=list(load_dataset(task="cath-class", split="val").class_names),
        fingerprint="1234",
        epoch=3,
        so_far=nothing_yet(),
        stage=1,
        bypass_codebook=False,
        temperature=0.5,
        num_parameters=sum(variable.size for _, variable in nnx.to_flat_state(state.params)),
        validation={},
        best=None,
    )
    run_dir.mkdir()
    save_yaml(config, run_dir / "config.yaml")
    save_imported(run_dir, state, meta)
    return run_dir


@pytest.fixture(scope="package")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("model") / "run")


@pytest.fixture(scope="session")
def proteins(chains):
    """Chains of 12 to 30 residues, one with missing atoms, and one of a single residue."""
    one = dataclasses.replace(crop(chains[0], 5, 1), name="one residue")
    return [without_atoms(chains[0], [3, 4]), *chains[1:5], one]
