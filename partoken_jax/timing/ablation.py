"""What each part of ParToken adds to a training step: models that grow part by part from the GVP baseline."""

from collections.abc import Callable
from typing import Any, TypedDict

import jax.numpy as jnp
import numpy as np
from flax import nnx

from partoken_jax.config import ModelConfig, TrainConfig
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.models import build_model
from partoken_jax.nn.attention import Attended
from partoken_jax.nn.linear import MLP
from partoken_jax.timing.measure import Timing, interleave
from partoken_jax.timing.programs import Program, timing_settings, train_step_program
from partoken_jax.training.state import initial_state

PARTS = ("partitioner", "attention", "fusion", "classifier", "codebook")
"""In the order in which they are added. "partitioner" comes with its loss, "codebook" with its two; until it
is there, it is bypassed."""


class PartCost(TypedDict):
    name: str
    ms: float
    """Median of the differences of neighbouring models, pair by pair of interleaved steps. The parts need not
    add up to the difference of the whole."""
    quartiles_ms: list[float]
    """Of the same differences."""
    share_of_gvp: float
    """`ms` over the median of the baseline's step."""


class MeanOfClusters(nnx.Module):
    """Stands in for the attention: the mean of a protein's clusters."""

    def __call__(self, protein, clusters, mask, *, noise=None) -> Attended:
        weight = mask / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
        return Attended(jnp.einsum("bs,bsd->bd", weight, clusters), weight, weight[:, None])


class Sum(nnx.Module):
    """Stands in for the gated fusion."""

    def __call__(self, protein, pooled, *, noise=None):
        return protein + pooled, jnp.ones_like(protein)


def partial_model(parts: tuple[str, ...]) -> Callable[..., nnx.Module]:
    """A maker of ParToken with only the named parts."""

    def make(config: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
        model: Any = build_model(config, rngs=rngs)
        width = config.node_hidden[0]
        if "attention" not in parts:
            model.attention = MeanOfClusters()
        if "fusion" not in parts:
            model.fusion = Sum()
        if "classifier" not in parts:
            widths = (width, 2 * width, width, config.num_classes)
            model.classifier = MLP(widths, dropout=config.dropout, rngs=rngs)
        return model

    return make


def ablation(
    baseline: Program,
    whole: Program,
    config: TrainConfig,
    graph: PackedGraph,
    *,
    repeats: int,
    progress: Callable[[], Any] = lambda: None,
) -> list[PartCost]:
    """Interleaved training steps of the growing models: what each costs more than the one before it.

    Args:
      baseline: the training step of GVP, compiled.
      whole: the training step of ParToken, compiled; what lies between the two is made here.
      config: of ParToken.
    """
    programs = {"gvp": baseline}
    for number in range(1, len(PARTS)):
        parts = PARTS[:number]
        graphdef, state = initial_state(config, partial_model(parts))
        programs[parts[-1]] = train_step_program(
            graphdef, state, graph, timing_settings(config), bypass_codebook=True
        )
    programs[PARTS[-1]] = whole
    times = interleave({name: p.call for name, p in programs.items()}, repeats=repeats, progress=progress)
    return differences(times)


def differences(times: dict[str, Timing]) -> list[PartCost]:
    """What every model of a growing chain costs more than the one before it; the first is the base."""
    base, *names = times
    rows: list[PartCost] = []
    before = base
    for name in names:
        pairs = np.array(times[name].seconds) - np.array(times[before].seconds)
        low, added, high = (float(q) for q in np.quantile(pairs, [0.25, 0.5, 0.75]))
        rows.append(
            {
                "name": name,
                "ms": 1e3 * added,
                "quartiles_ms": [1e3 * low, 1e3 * high],
                "share_of_gvp": added / times[base].median,
            }
        )
        before = name
    return rows
