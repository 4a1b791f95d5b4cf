"""Reads recorded vectors and the settings that they were recorded with.

An array is asked for in one of two ways. `v["in.x"]` is indispensable: without it `Unusable` is raised, and
the file fails. `v.recorded("logits")` is compared with: without it the result is None, the name is noted as
missing, and the comparison is left out.
"""

import json
from pathlib import Path

import numpy as np

from partoken_jax.config import CodebookConfig, ModelConfig, PartitionerConfig, TemperatureConfig
from partoken_jax.convert import our_path, state_dict_shapes


class Unusable(Exception):
    """A file that cannot be checked; the message goes on from the file's name."""


class Settings(dict):
    """The hyper-parameters of a file; one that is missing raises `Unusable`."""

    def __missing__(self, name: str):
        raise Unusable(f"its config lacks the hyper-parameter {name}; record the file again with it")


class Vectors:
    """The arrays of one file, or of those whose name starts with `prefix`, under the rest of their name.

    `missing` lists the full names of arrays to compare with that the file lacks, and is shared with all that
    `under` returns. Where a file lacks everything under a prefix, the prefix is listed: "train.g.total.*".
    """

    def __init__(self, arrays: dict[str, np.ndarray], prefix: str = "", missing: list[str] | None = None):
        self.arrays = arrays
        self.prefix = prefix
        self.missing: list[str] = [] if missing is None else missing

    @classmethod
    def load(cls, path: Path) -> "Vectors":
        """Raises `Unusable` for what is not an .npz file of plain arrays."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls({name: file[name] for name in file.files})
        except Exception as error:  # zip, zlib, pickle, NumPy and the file system each raise their own
            raise Unusable(
                "it cannot be read as an .npz file of arrays; copy it again or give another folder"
            ) from error

    def __contains__(self, name: str) -> bool:
        """Whether there is an array of this name, or one below it."""
        return name in self.arrays or any(key.startswith(name + ".") for key in self.arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        """An array that the check cannot run without. Raises `Unusable`."""
        if name not in self.arrays:
            raise Unusable(f"it lacks the array {self.prefix}{name}, and cannot be checked without it")
        return self.arrays[name]

    def recorded(self, name: str) -> np.ndarray | None:
        """An array to compare with; None, and noted as missing, where the file lacks it."""
        if name in self.arrays:
            return self.arrays[name]
        full = self.prefix + name if self.arrays or not self.prefix else f"{self.prefix}*"
        if full not in self.missing:
            self.missing.append(full)
        return None

    def all_recorded(self, names: dict[str, str]) -> dict[str, np.ndarray]:
        """Arrays by our name of each; none at all, and noted as missing, where the file lacks one of them."""
        found = {ours: self.recorded(name) for ours, name in names.items()}
        arrays = {ours: array for ours, array in found.items() if array is not None}
        return arrays if len(arrays) == len(names) else {}

    def holds(self, name: str) -> bool:
        """Whether there is anything below "name."; noted as missing if not."""
        part = self.under(name)
        if not part.arrays:
            part.recorded("")
        return bool(part.arrays)

    def under(self, prefix: str) -> "Vectors":
        """The arrays below "prefix.", without it."""
        prefix += "."
        arrays = {k[len(prefix) :]: a for k, a in self.arrays.items() if k.startswith(prefix)}
        return Vectors(arrays, self.prefix + prefix, self.missing)

    def without(self, *names: str) -> "Vectors":
        """All arrays but these."""
        return Vectors({k: a for k, a in self.arrays.items() if k not in names}, self.prefix, self.missing)

    def groups(self) -> list[str]:
        """First parts of the names, in order."""
        return list(dict.fromkeys(key.partition(".")[0] for key in self.arrays))

    @property
    def config(self) -> Settings:
        try:
            return Settings(json.loads(str(self["config"])))
        except (ValueError, TypeError) as error:
            raise Unusable("its config is not a JSON object of hyper-parameters; record it again") from error


def recorded_batch(v: Vectors) -> Vectors:
    """The inputs of a whole model (`in.*`). Raises `Unusable` that names the first that is missing."""
    inputs = v.under("in")
    for name in ("node_s", "node_v", "edge_index", "edge_s", "edge_v", "batch", "y", "seq"):
        inputs[name]
    return inputs


def need_weights(weights: Vectors, config: ModelConfig, part: str = "") -> None:
    """Raises `Unusable` that names the first weight of the original that is missing. `part` is the name of a
    part in the original ("partitioner."), whose weights are recorded without it."""
    for key in state_dict_shapes(config):
        if key.startswith(part) and our_path(key) is not None:
            weights[key.removeprefix(part)]


def model_config(config: dict, kind: str, **changes) -> ModelConfig:
    """Our configuration of a recorded model. Recorded models run without dropout."""
    codebook, partitioner, attention = CodebookConfig(), PartitionerConfig(), {}
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
        attention = {"attention_heads": config["attention_heads"]}
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
        "partitioner": partitioner,
        "codebook": codebook,
    }
    return ModelConfig(**{**values, **attention, **changes})


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
