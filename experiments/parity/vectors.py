"""Reads recorded vectors and turns them into our graphs and weights."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import nnx

from partoken_jax.config import CodebookConfig, ModelConfig, PartitionerConfig, TemperatureConfig
from partoken_jax.convert import dotted
from partoken_jax.graphs.layout import dense_layout
from partoken_jax.graphs.types import EdgeFeatures, NodeFeatures, ProteinGlobals


class Vectors:
    """The arrays of one file; `v["eval"]` holds those whose name starts with "eval."."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays

    @classmethod
    def load(cls, path: Path) -> "Vectors":
        with np.load(path, allow_pickle=False) as file:
            return cls({name: file[name] for name in file.files})

    def __contains__(self, name: str) -> bool:
        return name in self.arrays or any(key.startswith(name + ".") for key in self.arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def under(self, prefix: str) -> "Vectors":
        """The arrays below "prefix.", without it."""
        prefix += "."
        return Vectors({k[len(prefix) :]: a for k, a in self.arrays.items() if k.startswith(prefix)})

    def groups(self) -> list[str]:
        """First parts of the names, in order."""
        return list(dict.fromkeys(key.partition(".")[0] for key in self.arrays))

    @property
    def config(self) -> dict:
        return json.loads(str(self.arrays["config"]))


def model_config(config: dict, kind: str, **changes) -> ModelConfig:
    """Our configuration of a recorded model. Recorded models run without dropout."""
    codebook, partitioner = CodebookConfig(), PartitionerConfig()
    if kind == "partoken":
        partitioner = PartitionerConfig(
            max_clusters=config["max_clusters"],
            hidden=config["partitioner_hidden_dim"],
            k_hop=config["k_hop"],
            cluster_size_max=config["cluster_size_max"],
            termination_threshold=config["termination_threshold"],
        )
        codebook = CodebookConfig(
            size=config["codebook_size"],
            beta=config["codebook_beta"],
            decay=config["codebook_decay"],
            epsilon=config["codebook_eps"],
            presence_temperature=config["psc_temp"],
            keep_unused=False,  # the published rule
        )
    values = {
        "kind": kind,
        "num_classes": config["num_classes"],
        "node_in": tuple(config["node_in_dim"]),
        "edge_in": tuple(config["edge_in_dim"]),
        "node_hidden": tuple(config["node_h_dim"]),
        "edge_hidden": tuple(config["edge_h_dim"]),
        "num_layers": config["num_layers"],
        "dropout": 0.0,
        "pooling": config.get("pooling", "sum"),
        "residue_types": config.get("seq_in", False),
        "attention_heads": config.get("attention_heads", 4),
        "partitioner": partitioner,
        "codebook": codebook,
    }
    return ModelConfig(**{**values, **changes})


def temperature(config: dict) -> float:
    return TemperatureConfig(config["tau_init"], config["tau_decay"], config["tau_min"]).at(config["epoch"])


def edge_graph(edge_index: np.ndarray, num_nodes: int, dense: bool):
    """(senders, receivers, mask, take): an edge list as recorded, or in the dense layout. `take` picks the
    recorded edge of each slot."""
    senders, receivers = edge_index
    if not dense:
        return senders, receivers, np.ones(len(senders), bool), np.arange(len(senders))
    table, slot = dense_layout(senders, receivers, num_nodes)
    receivers = np.repeat(np.arange(num_nodes), table.shape[1])
    return table.reshape(-1), receivers, slot.reshape(-1) >= 0, np.maximum(slot.reshape(-1), 0)


def batch_graph(inputs: Vectors, dense: bool, only: int | None = None) -> jraph.GraphsTuple:
    """A recorded batch (`in.*`), or `only` one protein of it, as a featurised graph
    with an empty padding graph."""
    batch, edge_index = inputs["batch"], inputs["edge_index"]
    node_rows, edge_rows = np.arange(len(batch)), np.arange(edge_index.shape[1])
    if only is not None:
        node_rows = np.flatnonzero(batch == only)
        edge_rows = np.flatnonzero(batch[edge_index[1]] == only)
        edge_index = edge_index[:, edge_rows] - node_rows[0]
        batch = np.zeros(len(node_rows), int)
    labels = inputs["y"] if only is None else inputs["y"][only : only + 1]
    num_graphs = len(labels)
    senders, receivers, mask, take = edge_graph(edge_index, len(batch), dense)
    num_nodes = np.append(np.bincount(batch, minlength=num_graphs), 0)
    return jraph.GraphsTuple(
        nodes=NodeFeatures(
            jnp.asarray(inputs["node_s"][node_rows]),
            jnp.asarray(inputs["node_v"][node_rows]),
            jnp.asarray(inputs["seq"][node_rows]),
            jnp.ones(len(batch), bool),
        ),
        edges=EdgeFeatures(
            jnp.asarray(inputs["edge_s"][edge_rows][take]),
            jnp.asarray(inputs["edge_v"][edge_rows][take]),
            jnp.asarray(mask),
        ),
        senders=jnp.asarray(senders),
        receivers=jnp.asarray(receivers),
        n_node=jnp.asarray(num_nodes),
        n_edge=jnp.asarray(np.append(np.bincount(batch[receivers], minlength=num_graphs), 0)),
        globals=ProteinGlobals(
            label=jnp.asarray(np.append(labels, -1)),
            protein=jnp.arange(num_graphs + 1),
            mask=jnp.arange(num_graphs + 1) < num_graphs,
        ),
    )


def flat_state(module_or_state) -> dict[str, np.ndarray]:
    """Parameters and buffers, or gradients in the same structure, by dotted path."""
    state = module_or_state
    if isinstance(module_or_state, nnx.Module):
        state = nnx.state(module_or_state)
    return {dotted(path): np.asarray(variable[...]) for path, variable in nnx.to_flat_state(state)}


def parameter_gradients(module: nnx.Module, loss, *inputs):
    """loss(module, *inputs) → (value, record). Returns gradients by path for the parameters, gradients of
    the inputs, and the record, all from one compiled program."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def total(params, *inputs):
        return loss(nnx.merge(graphdef, params, rest, copy=True), *inputs)

    gradient = jax.jit(jax.grad(total, argnums=tuple(range(len(inputs) + 1)), has_aux=True))
    gradients, record = gradient(params, *inputs)
    return flat_state(gradients[0]), gradients[1:], record
