"""Puts recorded weights, or the JAX package's, into a peer."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from partoken_jax.convert import our_path


def load_original(module: nn.Module, arrays: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """Sets every parameter and buffer from arrays under the original's `state_dict` keys.

    Keys that nothing computes with may be missing or too many. A part of a model has keys without the part's
    name: `prefix` is that name in the original ("partitioner."). The dtype stays the module's.

    Raises RuntimeError that lists missing, unknown and misshapen keys.
    """
    own = {key: value for key, value in module.state_dict().items() if our_path(prefix + key) is None}
    given = {
        key: torch.as_tensor(array) for key, array in arrays.items() if our_path(prefix + key) is not None
    }
    module.load_state_dict(own | given)


def load_ours(module: nn.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Sets every parameter and buffer of a whole model from arrays by the JAX model's dotted path.

    Raises KeyError for a path that is missing.
    """
    state = module.state_dict()
    for key in state:
        path = our_path(key)
        if path is not None:
            array = arrays[path].T if path.endswith("kernel") else arrays[path]
            state[key] = torch.tensor(array)
    module.load_state_dict(state)
