"""Weights between the PyTorch original and our modules and run directories.

    import_weights("original.ckpt", "runs/from_torch")    a run directory for `partoken evaluate`
    export_weights("runs/mine", "weights.safetensors")    a `state_dict` that the original loads

`names` rewrites names and layouts, `original` lists what a `state_dict` of the original holds, `settings`
works out the configuration, `files` reads and writes files, `runs` puts them together.
"""

from partoken_jax.convert.files import ConvertError, Weights, read_weights, write_weights
from partoken_jax.convert.names import dotted, from_state_dict, our_path, set_arrays, to_state_dict
from partoken_jax.convert.original import state_dict_shapes
from partoken_jax.convert.runs import export_weights, import_weights, read_initial_weights

__all__ = [
    "ConvertError",
    "Weights",
    "dotted",
    "export_weights",
    "from_state_dict",
    "import_weights",
    "our_path",
    "read_initial_weights",
    "read_weights",
    "set_arrays",
    "state_dict_shapes",
    "to_state_dict",
    "write_weights",
]
