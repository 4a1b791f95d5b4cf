"""Weights between the PyTorch original and our modules."""

from partoken_jax.convert.names import dotted, from_state_dict, our_path, set_arrays, to_state_dict
from partoken_jax.convert.original import state_dict_shapes

__all__ = ["dotted", "from_state_dict", "our_path", "set_arrays", "state_dict_shapes", "to_state_dict"]
