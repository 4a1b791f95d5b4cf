"""Weights of the original that the golden files hold, and files made of them."""

import json
from pathlib import Path

import numpy as np

from experiments.parity.vectors import Vectors, model_config
from partoken_jax.config import ModelConfig

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = {
    "baseline": ("case3_baseline.npz", "w.seq0", "gvp", {"pooling": "attention"}),
    "baseline with residue types": (
        "case3_baseline.npz",
        "w.seq1",
        "gvp",
        {"pooling": "attention", "residue_types": True},
    ),
    "partoken": ("case7_partoken.npz", "w", "partoken", {}),
    "baseline of the trajectory": ("case8_trajectory.npz", "gvp.w0", "gvp", {}),
    "partoken of the trajectory": ("case8_trajectory.npz", "pt.w0", "partoken", {}),
}


def vectors(name: str) -> Vectors:
    """Everything recorded of a model."""
    return Vectors.load(GOLDEN / MODELS[name][0])


def recorded(name: str) -> tuple[dict[str, np.ndarray], ModelConfig]:
    """A whole state_dict of the original, and our configuration of it."""
    _, prefix, kind, changes = MODELS[name]
    file = vectors(name)
    return file.under(prefix).arrays, model_config(file.config, kind, **changes)


def partoken_hyper_parameters() -> dict:
    """Nested as the original's Lightning modules store them, with groups about training beside them."""
    config = vectors("partoken").config
    model_cfg = {
        key: value
        for key, value in config.items()
        if key not in ("num_classes", "epoch", "partitioner_hidden_dim")
    }
    return {
        "model_cfg": {
            **model_cfg,
            "nhid": config["partitioner_hidden_dim"],
            "drop_rate": 0.2,
            "codebook_distance": "l2",
            "codebook_cosine_normalize": False,
            "codebook_dim": None,
        },
        "train_cfg": {"lr": 1e-3, "max_clusters": 99},
        "num_classes": config["num_classes"],
    }


def file_of(folder: Path, arrays: dict[str, np.ndarray], name: str = "weights.npz") -> Path:
    """An .npz state_dict."""
    np.savez(folder / name, **arrays)
    return folder / name


def metadata_file(folder: Path, arrays: dict[str, np.ndarray], hyper: dict) -> Path:
    """A safetensors state_dict with hyper-parameters, written without our code."""
    from safetensors.numpy import save_file

    path = folder / "weights.safetensors"
    save_file(
        {f"model.{key}": array for key, array in arrays.items()},
        path,
        metadata={"hyper_parameters": json.dumps(hyper)},
    )
    return path
