"""ParToken in JAX: proteins → clusters of residues → discrete tokens → a class.

The public names, nothing else. A trained model, and what it says of proteins::

    model = load_model()
    model.predict(load_dataset(task="cath-architecture", split="test").proteins[:8])

A new model and its batch in four lines::

    proteins = load_dataset(task="cath-class", split="val")
    tables = neighbour_tables(proteins.proteins[:8], 30)
    graph = featurise(pack(proteins.proteins[:8], tables))
    output = build_model(ModelConfig(num_classes=4), rngs=flax.nnx.Rngs(0))(graph)

A name is loaded when it is first used, so that importing this package does not import JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from partoken_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from partoken_jax.config import (
        CodebookConfig,
        ConfigError,
        DataConfig,
        LossConfig,
        ModelConfig,
        PartitionerConfig,
        PretrainingConfig,
        StageConfig,
        TemperatureConfig,
        TrainConfig,
    )
    from partoken_jax.convert import ConvertError
    from partoken_jax.graphs import BatchLoader, featurise, neighbour_tables, pack, plan_batches
    from partoken_jax.interpret.annotate import annotate
    from partoken_jax.interpret.annotation import Annotation, Cluster
    from partoken_jax.models import (
        GVPClassifier,
        GVPOutput,
        ParToken,
        ParTokenOutput,
        ResidueModel,
        ResidueOutput,
        build_model,
    )
    from partoken_jax.parameters import parameter_table
    from partoken_jax.presets import preset
    from partoken_jax.pretrained import ModelError, load_model
    from partoken_jax.pretrained.export import export
    from partoken_jax.proteins import DataError, Protein, ProteinDataset, load_dataset
    from partoken_jax.proteins.structures import read_structure
    from partoken_jax.training.run_directory import CheckpointError
    from partoken_jax.training.trained import Prediction, TrainedModel

__all__ = [
    "Annotation",
    "BatchLoader",
    "CheckpointError",
    "Cluster",
    "CodebookConfig",
    "ConfigError",
    "ConvertError",
    "DataConfig",
    "DataError",
    "GVPClassifier",
    "GVPOutput",
    "LossConfig",
    "ModelConfig",
    "ModelError",
    "ParToken",
    "ParTokenOutput",
    "PartitionerConfig",
    "Prediction",
    "PretrainingConfig",
    "Protein",
    "ProteinDataset",
    "ResidueModel",
    "ResidueOutput",
    "StageConfig",
    "TemperatureConfig",
    "TrainConfig",
    "TrainedModel",
    "annotate",
    "build_model",
    "export",
    "featurise",
    "load_dataset",
    "load_model",
    "neighbour_tables",
    "pack",
    "parameter_table",
    "plan_batches",
    "preset",
    "read_structure",
]

_ROOMS = {
    "convert": ("ConvertError",),
    "graphs": ("BatchLoader", "featurise", "neighbour_tables", "pack", "plan_batches"),
    "interpret.annotate": ("annotate",),
    "interpret.annotation": ("Annotation", "Cluster"),
    "models": (
        "GVPClassifier",
        "GVPOutput",
        "ParToken",
        "ParTokenOutput",
        "ResidueModel",
        "ResidueOutput",
        "build_model",
    ),
    "parameters": ("parameter_table",),
    "presets": ("preset",),
    "pretrained": ("ModelError", "load_model"),
    "pretrained.export": ("export",),
    "proteins": ("DataError", "Protein", "ProteinDataset", "load_dataset"),
    "proteins.structures": ("read_structure",),
    "training.run_directory": ("CheckpointError",),
    "training.trained": ("Prediction", "TrainedModel"),
}
"""Where a name is, if not in config."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'partoken_jax' has no attribute {name!r}")
    room = next((room for room, names in _ROOMS.items() if name in names), "config")
    value = globals()[name] = getattr(importlib.import_module(f"partoken_jax.{room}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
