"""Trained models: those that come with the package, and any other, in one file each.

    model = load_model()                              the one for CATH architectures
    model = load_model("ec-class")                    another one by its name
    model = load_model("runs/mine")                   the best checkpoint of a run
    model = load_model("somewhere/mine.safetensors")  a file that `write_model` made
    model.predict(load_dataset(task="cath-class", split="test").proteins[:8])

`python -m experiments.ship` puts the model of a run in here, and writes its card (docs/models).
"""

from partoken_jax.pretrained.files import ModelError, model_arrays, read_model, write_model
from partoken_jax.pretrained.load import DEFAULT, find_model, load_model, model_names

__all__ = [
    "DEFAULT",
    "ModelError",
    "find_model",
    "load_model",
    "model_arrays",
    "model_names",
    "read_model",
    "write_model",
]
