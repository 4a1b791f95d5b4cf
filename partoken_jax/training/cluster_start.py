"""Clusters that start at their expected size: the partitioner's start (`nn.partitioner.start`) from the first
training batches, in inference mode, before the first step.

The encoder reads the batches once. The partitioner then partitions them again and again, because every later
round depends on the clusters before it: `REPEATS` times the scale is set from the scores of the candidates,
and the bias by bisection, for the soft size falls as the threshold rises.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from partoken_jax.config import TrainConfig
from partoken_jax.graphs.features import featurise
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.models import matmul_precision
from partoken_jax.nn.devices import sum_over_devices
from partoken_jax.nn.forms import Target, in_form
from partoken_jax.nn.partitioner.start import ClusterSums, Start, apply_start, cluster_sums
from partoken_jax.nn.platform import target_platform
from partoken_jax.training.devices import AXIS, SAME, SPLIT, evaluate_on_mesh, replicate
from partoken_jax.training.objective import split_model
from partoken_jax.training.state import TrainState

PROTEINS = 128
"""As many batches are read as hold about so many proteins: their mean cluster size is then known to 2%."""
SPREAD = 2.0
"""Standard deviation over the candidates of a seed that the score starts with, in units of τ: enough that as
many join (p > 0.5) as Σp counts, and little enough that p(1 - p), the gradient of most, is far from 0."""
LARGEST_SHARE = 0.75
"""Of the candidates. Where few neighbours make the expected size exceed it, clusters start at this share, for
a threshold that lets all join tells no residue from another."""
REPEATS, HALVINGS, REACH = 3, 12, 8.0
"""Of scale and bias, one after the other; of the bisection, whose bracket reaches `REACH` τ to both sides."""


class ResidueFeatures(NamedTuple):
    """What the encoder makes of a batch."""

    x: jax.Array
    """[1, N, D], an axis of shards first."""
    total: jax.Array
    """[D]: sum over the real residues of the batch."""


def starts_from_data(config: TrainConfig) -> bool:
    """Whether a run sets the start of its clusters before its first step."""
    settings = config.model.partitioner
    return config.model.kind == "partoken" and settings.kind == "learned" and settings.start == "data"


class StartProgram(NamedTuple):
    """The structure of a model, and what is compiled for the start of its clusters."""

    graphdef: nnx.GraphDef
    features: Callable[..., ResidueFeatures]
    """`(params, codebook, graph, τ)`"""
    sums: Callable[..., ClusterSums]
    """`((params, start), codebook, (graph, x), τ)`, over all devices"""


def start_clusters(
    config: TrainConfig,
    program: StartProgram,
    state: TrainState,
    batches: Iterable[PackedGraph],
    mesh: Mesh | None = None,
) -> tuple[TrainState, str]:
    """The state of a model before its first step with the partitioner's start, from the first of the training
    `batches`, and a line that says what it did."""
    temperature = np.float32(config.temperature.at(0))
    read = list(islice(batches, -(-PROTEINS // config.data.batch_size)))
    encoded = [program.features(state.params, state.codebook, graph, temperature) for graph in read]

    def measured(start: Start) -> Any:  # ClusterSums on the host
        found = [
            program.sums((state.params, start), state.codebook, (graph, features.x), temperature)
            for graph, features in zip(read, encoded, strict=True)
        ]
        return jax.tree.map(lambda *parts: float(sum(parts)), *jax.device_get(found))

    here = jax.tree.map(jnp.array, jax.device_get((state.params, state.codebook)))  # copies, to be donated
    model: Any = nnx.merge(program.graphdef, *here, copy=True)
    bias = np.float32(model.partitioner.threshold.layers[-1].bias[0])
    # Only the direction of the mean residue counts, so the sum will do; at length 1 no square overflows.
    total = np.sum(jax.device_get([found.total for found in encoded]), axis=0)
    direction = total / max(np.linalg.norm(total), np.finfo(np.float32).tiny)
    before = measured(Start(np.zeros_like(total), np.float32(1), bias))
    start = calibrated(measured, Start(direction, np.float32(1), bias), float(temperature))
    after = measured(start)

    apply_start(model.partitioner, start)
    _, params, _ = split_model(model)
    line = f"clusters start from {len(read)} batches: {described(before)} → {described(after)}"
    return state._replace(params=replicate(params, mesh)), line


def calibrated(measured: Callable[[Start], Any], start: Start, temperature: float) -> Start:
    """`start` with the scale and the bias at which the scores of a seed's candidates have the standard
    deviation `SPREAD` τ and the mean soft size is the expected one, at most `LARGEST_SHARE` of candidates."""
    for _ in range(REPEATS):
        found = measured(start)
        if found.variance > 0:
            deviation = (found.variance / found.compared) ** 0.5
            start = start._replace(scale=np.float32(start.scale * SPREAD * temperature / deviation))
            found = measured(start)
        centre = float(start.bias) + found.margin / max(found.grown, 1.0)

        def too_large(bias: float, start: Start = start) -> bool:
            sums = measured(start._replace(bias=np.float32(bias)))
            return sums.soft_size > min(sums.expected, LARGEST_SHARE * sums.candidates)

        reach = REACH * temperature
        bias = bisected(too_large, centre - reach, centre + reach)
        start = start._replace(bias=np.float32(bias))
    return start


def bisected(too_low: Callable[[float], bool], low: float, high: float) -> float:
    """Where `too_low`, true below and false above, changes between `low` and `high`; after `HALVINGS`."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_low(middle) else (low, middle)
    return (low + high) / 2


def described(sums: Any) -> str:
    """`ClusterSums` in words: coverage and mean sizes."""
    clusters = max(sums.clusters, 1.0)
    return (
        f"coverage {sums.assigned / max(sums.residues, 1.0):.2f}, mean soft size "
        f"{sums.soft_size / clusters:.1f} (expected {sums.expected / clusters:.1f})"
    )


def start_program(graphdef: nnx.GraphDef, mesh: Mesh | None = None) -> StartProgram:
    """What `start_clusters` runs, for a mesh of devices that share every batch."""
    target = Target(target_platform(mesh))

    def summed(tree: Any) -> Any:
        return tree if mesh is None else sum_over_devices(tree, AXIS)

    def features(params, codebook, graph: PackedGraph, temperature):
        model = nnx.merge(graphdef, params, codebook, copy=True)
        with jax.default_matmul_precision(matmul_precision(model.config)):
            read, form = in_form(featurise(graph), model.config, target)
            x = model.encoder(read, form=form)
        total = jnp.sum(jnp.where(graph.nodes.mask[:, None], x, 0.0), axis=0)
        return ResidueFeatures(x[None], summed(total))

    def sums(params_and_start, codebook, graph_and_x, temperature):
        (params, start), (graph, x) = params_and_start, graph_and_x
        model = nnx.merge(graphdef, params, codebook, copy=True)
        x, mask = x[0] if mesh is None else x, graph.nodes.mask
        apply_start(model.partitioner, start)
        with jax.default_matmul_precision(matmul_precision(model.config)):
            partition = model.partitioner(x, mask, graph, temperature=temperature)
            return summed(cluster_sums(model.partitioner, partition, x, mask, graph))

    if mesh is None:
        return StartProgram(graphdef, jax.jit(features), jax.jit(sums))
    specs: Any = (SPLIT, SAME)
    specs = ResidueFeatures._make(specs)
    return StartProgram(graphdef, evaluate_on_mesh(features, mesh, specs), evaluate_on_mesh(sums, mesh, SAME))
