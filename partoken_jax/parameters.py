"""The parameters of a model, by component."""

from typing import Any

from flax import nnx


def parameter_table(model: nnx.Module) -> list[tuple[str, int]]:
    """Trainable parameters per component, in the order of the forward pass, and their sum as "total".

    Codebook buffers are moved by averages and do not count.

    Raises TypeError for what is no module; what `load_model` returns has one as its `model`.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"parameter_table takes a module, not {type(model).__name__}; of a loaded model, give model.model"
        )
    rows = {
        name: sum(variable.size for variable in variables)
        for name, variables in by_component(nnx.state(model, nnx.Param)).items()
    }
    return [*rows.items(), ("total", sum(rows.values()))]


def by_component(params: nnx.State) -> dict[str, list[Any]]:
    """Parameters, or what has their structure, per component and in the order of the forward pass."""
    found: dict[str, list[Any]] = {}
    for path, value in nnx.to_flat_state(params):
        found.setdefault(_component(path), []).append(value)
    return {name: found[name] for name in sorted(found, key=lambda name: _ORDER.index(name.split(" ")[0]))}


_ORDER = (
    "embedding",
    "node",
    "edge",
    "conv",
    "output",
    "pooling",
    "partitioner",
    "attention",
    "gated",
    "classifier",
    "head",
)
_NAMES = {
    "residue_embedding": "embedding of residue types",
    "node_norm": "node encoder",
    "node_gvp": "node encoder",
    "edge_norm": "edge encoder",
    "edge_gvp": "edge encoder",
    "output_norm": "output projection",
    "output_gvp": "output projection",
    "pool": "pooling",
    "fusion": "gated fusion",
    "attention": "attention over clusters",
    "residue_head": "head of residue types",
}


def _component(path: tuple) -> str:
    if path[0] != "encoder":
        return _NAMES.get(path[0], path[0])
    return f"conv layer {path[2]}" if path[1] == "layers" else _NAMES[path[1]]
