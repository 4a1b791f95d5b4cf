"""All training runs that results are quoted from, several at once: the same command starts them and goes on.

    python -m experiments.learn --root runs/learn [--only cath-architecture] [--at-once 1] [--minutes 600]

Each run is `partoken train` in ROOT/TASK/RECIPE/seedN, with the settings that this file says; its
config.yaml has them all. A run starts when the run that it takes weights from is done. When the time is up, or
on Ctrl-C, every run under way saves its state and stops, and the same command resumes it. Runs that are done
are left alone.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.flags import Flags, count, run_script
from partoken_jax.config import TrainConfig, from_dict, save_yaml
from partoken_jax.progress import say

CHAINS = "experiments/data/pdb_chains.npz"
PRETRAINING = "pretraining"
TASKS = ("cath-architecture", "ec-class", "cath-class")
Settings = dict[str, Any]

EVERYWHERE: Settings = {
    "model": {"precision": "bfloat16"},
    # A budget instead of a number of proteins: every run of a task then has one shape, whatever its seed.
    "data": {
        "path": CHAINS,
        "neighbours": 16,
        "batch_size": 96,
        "residues_per_batch": 12_288,
        "max_length": 1200,
        "too_long": "crop",
    },
}
PUBLISHED_HEAD: Settings = {"model": {"pooling": "sum", "norm_pooled": False}}


class Recipe(NamedTuple):
    """How a model is trained, beside what `EVERYWHERE` says."""

    settings: Settings
    pretrained: bool = False
    """Starts from the encoder of the pretraining run."""
