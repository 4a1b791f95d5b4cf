"""Writes a trained model as programs that run without this package: StableHLO, through `jax.export`.

docs/guide/annotate.md says how one is run.
"""

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export as jax_export

from partoken_jax.config import ConfigError
from partoken_jax.files import write_whole
from partoken_jax.graphs.types import NeighbourEdges, PackedGraph, ProteinGlobals, ResidueNodes
from partoken_jax.nn.forms import Target
from partoken_jax.nn.platform import by_platform
from partoken_jax.proteins.protein import RESIDUE_TYPES
from partoken_jax.training.objective import forward
from partoken_jax.training.trained import TrainedModel, output_arrays

PLATFORMS = ("cpu", "cuda", "tpu")
SCHEMA = "partoken.program/1"


def export(
    model: TrainedModel,
    folder: str | Path,
    *,
    residues: Sequence[int] = (256, 1024),
    platforms: Sequence[str] = PLATFORMS,
) -> Path:
    """Writes the inference of one protein as portable programs, weights included.

    Each takes `backbone` float32 [N, 4, 3] (N, CA, C, O in Å, NaN where an atom is missing),
    `residue_types` int32 [N] and `length` int32 [] (the rows after it are padding), finds the neighbours
    itself and returns a dictionary of the arrays of `training.trained.ProteinOutput`, those of residues with
    N rows.

    Args:
      folder: where the files go: residues_N.stablehlo for every N, and program.json, which describes them.
      residues: sizes N, of which the smallest that is larger than a protein is the one to use.
      platforms: what the programs can run on, of `PLATFORMS`. Each has its own form of the operations that
        differ between platforms in the file, whatever machine this is called on.

    Returns the path of program.json. Raises DataError for a model that was only pretrained, ConfigError for
    sizes that no protein with neighbours fits, for a folder that is a file, and without flatbuffers, which
    writes the files.
    """
    model.require_classifier()
    num = model.config.data.neighbours
    if not residues or min(residues) <= num + 1:
        raise ConfigError(
            f"residues is {tuple(residues)}, but every size must be more than {num + 1}: a residue, its "
            f"{num} neighbours and a row of padding"
        )
    if find_spec("flatbuffers") is None:
        raise ConfigError(
            "exporting a program needs flatbuffers; install it with pip install 'partoken_jax[export]'"
        )
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"{folder}: is a file, or in one; name a folder for the programs") from None
    program = jax.jit(_program(model, num, platforms))
    for size in residues:
        arguments = (
            jax.ShapeDtypeStruct((size, 4, 3), jnp.float32),
            jax.ShapeDtypeStruct((size,), jnp.int32),
            jax.ShapeDtypeStruct((), jnp.int32),
        )
        exported = jax_export.export(program, platforms=tuple(platforms))(*arguments)
        write_whole(folder / f"residues_{size}.stablehlo", bytes(exported.serialize()))
    path = folder / "program.json"
    write_whole(path, json.dumps(_description(model, residues, platforms), indent=1) + "\n")
    return path


def _program(model: TrainedModel, num: int, platforms: Sequence[str]) -> Callable[..., dict[str, jax.Array]]:
    temperature = np.float32(model.temperature)

    def on(platform: str) -> Callable[..., dict[str, jax.Array]]:
        def inference(params, codebook, graph: PackedGraph) -> dict[str, jax.Array]:
            network = nnx.merge(model.graphdef, params, codebook, copy=True)
            out = forward(
                network,
                graph,
                temperature=temperature,
                bypass_codebook=model.bypass_codebook,
                target=Target(platform),
            )
            of_protein, of_residue = output_arrays(out, graph)
            arrays = {name: array[0] for name, array in of_protein.items()}
            return {
                **arrays,
                **of_residue,
                "probabilities": jax.nn.softmax(arrays["logits"] / np.float32(model.calibration)),
            }

        return inference

    def program(backbone: jax.Array, residue_types: jax.Array, length: jax.Array) -> dict[str, jax.Array]:
        graph = one_protein(backbone, residue_types, length, num)
        # The weights are arguments, so that they are in the file once and not once for every platform.
        return by_platform(on, platforms)(model.params, model.codebook, graph)

    return program


def one_protein(
    backbone: jax.Array,  # [N, 4, 3]
    residue_types: jax.Array,  # int32 [N]
    length: jax.Array,  # int32 []
    num: int,
) -> PackedGraph:
    """A batch of one protein with its `num` nearest neighbours, as `neighbour_table` and `pack` make it, but
    for the order of neighbours whose distances differ by less than the rounding of float32."""
    size = backbone.shape[0]
    row = jnp.arange(size, dtype=jnp.int32)
    complete = jnp.isfinite(backbone).all(axis=(1, 2)) & (row < length)
    ca = jnp.where(complete[:, None], backbone[:, 1], 0)
    distance = jnp.linalg.norm(ca[:, None] - ca, axis=-1)
    possible = complete[:, None] & complete & (row[:, None] != row)
    nearest, senders = jax.lax.top_k(-jnp.where(possible, distance, jnp.inf), num)
    there = jnp.isfinite(nearest)
    n_node = jnp.stack([length, size - length]).astype(jnp.int32)
    return PackedGraph(
        nodes=ResidueNodes(
            jnp.where(row[:, None, None] < length, backbone, jnp.nan), residue_types, complete
        ),
        edges=NeighbourEdges(there),
        globals=ProteinGlobals(
            label=jnp.full(2, -1, jnp.int32),
            protein=jnp.array([0, -1], jnp.int32),
            mask=jnp.array([True, False]),
        ),
        senders=jnp.where(there, senders.astype(jnp.int32), row[:, None]),
        receivers=None,
        n_node=n_node,
        n_edge=n_node * num,
    )


def _description(model: TrainedModel, residues: Sequence[int], platforms: Sequence[str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "programs": {f"residues_{size}.stablehlo": size for size in residues},
        "platforms": list(platforms),
        "inputs": ["backbone", "residue_types", "length"],
        "residue_types": RESIDUE_TYPES,
        "unknown_residue_type": len(RESIDUE_TYPES),
        "task": model.task,
        "class_names": list(model.class_names),
        "jax": jax.__version__,
    }
