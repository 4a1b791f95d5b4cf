"""Reads recorded vectors and the settings that they were recorded with."""

import json
from pathlib import Path

import numpy as np

from partoken_jax.config import CodebookConfig, ModelConfig, PartitionerConfig, TemperatureConfig


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


def one_protein(inputs: Vectors, number: int) -> Vectors:
    """A recorded batch (`in.*`) cut down to one of its proteins."""
    batch, edge_index = inputs["batch"], inputs["edge_index"]
    nodes = np.flatnonzero(batch == number)
    edges = np.flatnonzero(batch[edge_index[1]] == number)
    per_edge = ("edge_s", "edge_v")
    cut = {name: array[edges if name in per_edge else nodes] for name, array in inputs.arrays.items()
           if name in ("node_s", "node_v", "seq", *per_edge)}  # fmt: skip
    cut["edge_index"] = edge_index[:, edges] - nodes[0]
    cut["batch"], cut["y"] = np.zeros(len(nodes), int), inputs["y"][number : number + 1]
    return Vectors(cut)
