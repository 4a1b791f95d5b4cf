"""A trained model in one safetensors file: arrays by our names, and in the metadata all that they need.

JAX is imported where a model is built, after everything has been checked.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from partoken_jax.config import ConfigError, TrainConfig, from_dict, to_dict
from partoken_jax.convert.files import metadata_json, read_safetensors, write_safetensors
from partoken_jax.convert.names import dotted, filled
from partoken_jax.version import __version__

if TYPE_CHECKING:
    from partoken_jax.training.trained import TrainedModel

SCHEMA = "partoken.model/1"
KEY = "partoken"
"""Of the metadata; its value is a `ModelMeta` as JSON."""


class ModelError(ValueError):
    """A model that cannot be loaded; the message names it and says what to do."""


class ModelMeta(TypedDict):
    """What a file says beside the arrays. The fields are those of `TrainedModel`."""

    schema: str
    version: str
    """Of the package that wrote the file."""
    config: dict
    """`TrainConfig` as `partoken_jax.config.to_dict` gives it."""
    class_names: list[str]
    temperature: float
    bypass_codebook: bool
    epoch: int
    fingerprint: str
    calibration: float
    training: dict


def write_model(path: str | Path, model: "TrainedModel") -> None:
    """Writes a model to a .safetensors file, codebook included, so that `read_model` gives the same one.

    Raises ModelError for another suffix, ConvertError for a file that cannot be written.
    """
    from partoken_jax.training.objective import named_arrays

    path = Path(path)
    _check_suffix(path)
    meta = ModelMeta(
        schema=SCHEMA,
        version=__version__,
        config=to_dict(model.config),
        class_names=list(model.class_names),
        temperature=model.temperature,
        bypass_codebook=model.bypass_codebook,
        epoch=model.epoch,
        fingerprint=model.fingerprint,
        calibration=model.calibration,
        training=dict(model.training),
    )
    write_safetensors(path, named_arrays(model.params, model.codebook), {KEY: json.dumps(meta)})


def read_model(path: str | Path) -> "TrainedModel":
    """Reads a file that `write_model` made.

    Raises ConvertError for a file that cannot be read or is damaged, ModelError for one of another kind, of
    another version, or whose arrays are not those of its settings.
    """
    path = Path(path)
    _check_suffix(path)
    arrays, metadata = read_safetensors(path)
    meta = _checked(path, metadata_json(path, metadata, KEY))
    try:
        config = from_dict(TrainConfig, meta["config"])
    except ConfigError as error:
        raise ModelError(
            f"{path}: its settings are not those of this version of partoken_jax, {__version__} "
            f"(the file is from {meta['version']}): {error}; use that version"
        ) from None

    import jax
    from flax import nnx

    from partoken_jax.training.state import abstract_state
    from partoken_jax.training.trained import TrainedModel

    graphdef, shapes = abstract_state(config)
    parts = (shapes.params, shapes.codebook)
    wanted = {dotted(place): variable for part in parts for place, variable in nnx.to_flat_state(part)}
    _check_arrays(path, arrays, {name: variable.shape for name, variable in wanted.items()})
    params, codebook = (jax.tree.map(jax.numpy.asarray, filled(part, arrays)) for part in parts)
    return TrainedModel(
        source=str(path),
        config=config,
        class_names=tuple(meta["class_names"]),
        graphdef=graphdef,
        params=params,
        codebook=codebook,
        temperature=meta["temperature"],
        bypass_codebook=meta["bypass_codebook"],
        epoch=meta["epoch"],
        fingerprint=meta["fingerprint"],
        calibration=meta["calibration"],
        training=meta["training"],
    )


def model_arrays(path: str | Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file that `write_model` made, by our names, for `training.loop.train`; None for another
    kind of file.

    Raises ConvertError for a .safetensors file that cannot be read or is damaged.
    """
    if Path(path).suffix != ".safetensors":
        return None
    arrays, metadata = read_safetensors(Path(path))
    return arrays if KEY in metadata else None


def _check_suffix(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise ModelError(
            f"{path}: a file of a model ends in .safetensors; give one, or the directory of a run"
        )


def _checked(path: Path, meta: Any) -> ModelMeta:
    """What a file says, if it is a model of ours. Raises ModelError otherwise."""
    schema = meta.get("schema") if isinstance(meta, Mapping) else None
    if schema is None:
        raise ModelError(
            f"{path}: is no model of partoken_jax; `partoken convert` makes a run of weights of the PyTorch "
            "original, and its directory can be given instead"
        )
    if schema != SCHEMA:
        raise ModelError(
            f"{path}: is written as {schema}, but this version of partoken_jax, {__version__}, "
            f"reads {SCHEMA}; use the version that wrote it"
        )
    missing = [name for name in ModelMeta.__annotations__ if name not in meta]
    if missing:
        raise ModelError(f"{path}: {', '.join(missing)} is missing from its metadata; write the file again")
    return meta


def _check_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises ModelError that lists the arrays which are not those of the model."""
    problems = [f"{name} is missing" for name in shapes if name not in arrays]
    problems += [f"{name} is unknown" for name in arrays if name not in shapes]
    problems += [
        f"{name} is {arrays[name].shape}, expected {shape}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ModelError(
            f"{path}: its arrays are not those of its settings: {'; '.join(problems[:5])}{more}; write the "
            "file again"
        )
