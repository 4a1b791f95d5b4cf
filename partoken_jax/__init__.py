"""ParToken in JAX: proteins → clusters of residues → discrete tokens → a class.

    import partoken_jax as pt

    proteins = pt.load_dataset(task="cath-class", split="val")
    model = pt.build_model(pt.ModelConfig(num_classes=len(proteins.class_names)), rngs=nnx.Rngs(0))
"""

from partoken_jax.config import (
    CodebookConfig,
    ConfigError,
    DataConfig,
    LossConfig,
    ModelConfig,
    PartitionerConfig,
    StageConfig,
    TemperatureConfig,
    TrainConfig,
)
from partoken_jax.graphs import BatchLoader, featurise, neighbour_tables, pack, plan_batches
from partoken_jax.models import (
    GVPClassifier,
    GVPOutput,
    ParToken,
    ParTokenOutput,
    build_model,
    parameter_table,
)
from partoken_jax.proteins import DataError, Protein, ProteinDataset, load_dataset

__version__ = "0.1.0"

__all__ = [
    "BatchLoader",
    "CodebookConfig",
    "ConfigError",
    "DataConfig",
    "DataError",
    "GVPClassifier",
    "GVPOutput",
    "LossConfig",
    "ModelConfig",
    "ParToken",
    "ParTokenOutput",
    "PartitionerConfig",
    "Protein",
    "ProteinDataset",
    "StageConfig",
    "TemperatureConfig",
    "TrainConfig",
    "build_model",
    "featurise",
    "load_dataset",
    "neighbour_tables",
    "pack",
    "parameter_table",
    "plan_batches",
]
