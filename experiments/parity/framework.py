"""What a framework has to offer to be compared.

A framework is a module (`jax_side.py`, `torch_side.py`) with the functions that the checks call. They take
recorded weights under the original's `state_dict` keys (`Vectors`) and NumPy arrays, and return NumPy arrays:

gvp, layer_norm, conv                     blocks that map (s, v) to (s, v)
features                                  neighbours and features from coordinates
attention, fusion                         from clusters to the classifier
codebook, kmeans                          `kmeans` is None where a framework has none
partitioner                               one pass of the partitioner
baseline, encoder, evaluate, train        the whole models
follow                                    steps of Adam

Gradients are those of Σ over `cotangents` of sum(output · cotangent), with outputs by name.
`CONV_FORMS` and `MODEL_FORMS` name the implementations of message passing and of the models: each is checked.
"""

import importlib
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]


class Result(NamedTuple):
    outputs: Arrays
    parameters: Arrays
    """Gradients by our dotted path, in our layout; empty where no cotangents were given."""
    inputs: Arrays
    """Gradients by the name of the input."""


def framework(name: str) -> ModuleType:
    """The module of "jax" or "torch"; imported on demand, so that neither needs the other's packages."""
    return importlib.import_module(f"experiments.parity.{name}_side")


def partoken_arrays(out: Any) -> dict[str, Any]:
    """What the checks compare of the record that ParToken returns; both frameworks call its fields alike."""
    return {
        "logits": out.logits,
        **out.losses._asdict(),
        "cluster_of_residue": out.cluster_of_residue,
        "cluster_features": out.cluster_features,
        "codes": out.codes,
        "importance": out.importances,
        "presence": out.presence,
        "perplexity": out.perplexity,
        "entropy_loss": out.entropy_loss,
    }
