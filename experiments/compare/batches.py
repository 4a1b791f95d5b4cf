"""The batch and the recorded noise that all workers share."""

import numpy as np

from experiments.compare.protocol import Settings
from partoken_jax.config import ModelConfig
from partoken_jax.timing_config import TimingConfig


def timing_config(settings: Settings, variant: str) -> TimingConfig:
    """The batch and the model of one variant; the batch is the same for all."""
    size = {"node_hidden": (16, 4), "edge_hidden": (8, 1), "num_layers": 1} if settings.small else {}
    model = ModelConfig(
        message_passing="general" if variant == "jax_plain" else "dense",
        precision=settings.precision,  # type: ignore[arg-type]
        **size,  # type: ignore[arg-type]
    )
    return TimingConfig(
        batch_size=settings.batch_size,
        residues=settings.residues,
        path=settings.path,
        neighbours=settings.neighbours,
        model=model,
        seed=settings.seed,
    )


def noise(config: ModelConfig, num_nodes: int) -> np.ndarray:
    """Uniform numbers float32 [S, num_nodes] for the seeds; the first residues have the same ones however
    many rows of padding follow."""
    rounds = config.partitioner.max_clusters
    return np.random.default_rng(0).random((num_nodes, rounds), np.float32).T.copy()
