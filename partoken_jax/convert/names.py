"""Names and layouts: the original's `state_dict` and the arrays of our modules.

The original's keys are rewritten to our dotted paths; a Linear weight [out, in] becomes a kernel [in, out].
Arrays in, arrays out: no PyTorch needed.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from flax import nnx

EPOCH = "partitioner.epoch"
"""The original's counter of epochs, int64 []: its temperature is tau(epoch)."""

# Built by the original, but never part of what the model computes.
_UNUSED = re.compile(r"(^|\.)dummy_param$|^partitioner\.epoch$|^cluster_attention\.")

OURS_ALONE = ("codebook.uses",)
"""Our buffers that the original lacks: imports start them at 0, exports leave them out."""

_MLP = {"0": "layers.0", "2": "layers.1", "3": "layers.1", "6": "layers.2"}
_RULES: list[tuple[str, Any]] = [
    (r"^(?:node_encoder|W_v)\.0\.", "encoder.node_norm."),
    (r"^(?:node_encoder|W_v)\.1\.", "encoder.node_gvp."),
    (r"^(?:edge_encoder|W_e)\.0\.", "encoder.edge_norm."),
    (r"^(?:edge_encoder|W_e)\.1\.", "encoder.edge_gvp."),
    (r"^(?:gvp_layers|layers)\.", "encoder.layers."),
    (r"^(?:output_projection|W_out)\.0\.", "encoder.output_norm."),
    (r"^(?:output_projection|W_out)\.1\.", "encoder.output_gvp."),
    (r"^(?:W_s|sequence_embedding)\.weight$", "encoder.residue_embedding.embedding"),
    (r"^attention\.", "pool.score."),
    (r"^partitioner\.context_encoder\.", "partitioner.context."),
    (r"^partitioner\.expander\.Wq\.", "partitioner.query."),
    (r"^partitioner\.expander\.Wk\.", "partitioner.key."),
    (r"^partitioner\.expander\.threshold_head\.mlp\.", "partitioner.threshold."),
    (r"^global_cluster_attn\.q\.", "attention.query."),
    (r"^global_cluster_attn\.k\.", "attention.key."),
    (r"^global_cluster_attn\.v\.", "attention.value."),
    (r"^global_cluster_attn\.out\.", "attention.out."),
    (r"^fw_gate\.beta_mlp\.", "fusion.gate."),
    (r"^fw_gate\.proj_c\.", "fusion.project."),
    (r"^fw_gate\.ln\.", "fusion.norm."),
    (r"^codebook\.ema_", "codebook."),
    (r"(^|\.)message_func\.", r"\1message."),
    (r"(^|\.)ff_func\.", r"\1feed_forward."),
    (r"(^|\.)norm\.(\d)", r"\1norms.\2"),
    (r"(^|\.)wsv\.", r"\1wg."),
    (
        r"^(classifier|pool\.score|partitioner\.seed_selector|partitioner\.threshold|fusion\.gate)\.(\d)\.",
        lambda m: f"{m[1]}.{_MLP[m[2]]}.",
    ),
    (r"(scalar_norm|fusion\.norm)\.weight$", r"\1.scale"),
    (r"\.weight$", ".kernel"),
]


def our_path(key: str) -> str | None:
    """The dotted path of a `state_dict` key in our modules; None for a key that nothing computes with."""
    if _UNUSED.search(key):
        return None
    for pattern, replacement in _RULES:
        key = re.sub(pattern, replacement, key)
    return key


def from_state_dict(arrays: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    """Arrays by our path, in our layout.

    A part of a model (its partitioner, say) has keys without the part's name: `prefix` is that name in the
    original ("partitioner."). The paths returned are then relative to the part.
    """
    ours = {}
    for key, array in arrays.items():
        path = our_path(prefix + key)
        if path is not None:
            path = path.partition(".")[2] if prefix else path
            ours[path] = array.T if path.endswith("kernel") else array
    return ours


def to_state_dict(
    ours: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict` for a whole model: arrays under the original's keys, in its layout.

    `shapes` names the keys (`partoken_jax.convert.original.state_dict_shapes`). A key for which `ours` has
    nothing (nothing computes with it) is filled with zeros; `partitioner.epoch` is an integer.
    """
    theirs = {}
    for key, shape in shapes.items():
        path = our_path(key)
        if path is not None and path in ours:
            array = ours[path].T if path.endswith("kernel") else ours[path]
            theirs[key] = array.copy(order="C")  # writers of files take the buffer as it lies in memory
        else:
            theirs[key] = np.zeros(shape, np.int64 if key == EPOCH else np.float32)
    return theirs


def set_arrays(module: "nnx.Module", arrays: Mapping[str, np.ndarray]) -> None:
    """Sets every parameter and buffer of a module from arrays by dotted path; a buffer of `OURS_ALONE` may
    be missing and is then 0.

    Raises ValueError that lists missing, unknown and misshapen names.
    """
    from flax import nnx

    state = nnx.state(module)
    targets = {dotted(path): variable for path, variable in nnx.to_flat_state(state)}
    zeros = {name: np.zeros(targets[name][...].shape) for name in OURS_ALONE if name in targets}
    arrays = {**zeros, **arrays}
    missing = sorted(set(targets) - set(arrays))
    unknown = sorted(set(arrays) - set(targets))
    misshapen = [
        f"{name} is {arrays[name].shape}, expected {targets[name][...].shape}"
        for name in targets
        if name in arrays and arrays[name].shape != targets[name][...].shape
    ]
    if missing or unknown or misshapen:
        problems = [("missing", missing), ("unknown", unknown), ("misshapen", misshapen)]
        raise ValueError(
            "weights do not fit the model: " + "; ".join(f"{k} {', '.join(v)}" for k, v in problems if v)
        )
    for name, variable in targets.items():
        variable[...] = np.asarray(arrays[name], variable[...].dtype)
    nnx.update(module, state)


def filled(part: "nnx.State", arrays: Mapping[str, np.ndarray]) -> "nnx.State":
    """Parameters or buffers with the values of arrays by dotted path, in the types they have; those of `part`
    may be shapes alone (`jax.eval_shape`). Raises KeyError for one that is not there."""
    from flax import nnx

    return nnx.from_flat_state(
        [
            (path, variable.replace(np.asarray(arrays[dotted(path)], variable.dtype)))
            for path, variable in nnx.to_flat_state(part)
        ]
    )


def dotted(path: tuple) -> str:
    """('encoder', 'layers', 0) → 'encoder.layers.0'"""
    return ".".join(map(str, path))
