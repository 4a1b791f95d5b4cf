"""Where a training step stops being finite: its parts in the order in which they are computed.

Runs beside the training step, in a program of its own, once the host knows of a bad step. It calls the model
itself: the blocks of the model are wrapped, so that each notes what it returns.

Legend: B proteins, N residues.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from partoken_jax.graphs.features import featurise
from partoken_jax.graphs.segments import graph_index
from partoken_jax.graphs.types import PackedGraph
from partoken_jax.parameters import by_component
from partoken_jax.training.objective import LossTerms, Randomness, forward
from partoken_jax.training.schedules import StepSettings
from partoken_jax.training.state import TrainState
from partoken_jax.training.step import make_gradient_step

BLOCKS = {
    "encoder": "output projection",  # what the encoder returns
    "pool": "pooling",
    "partitioner": "partitioner",
    "codebook": "codebook",
    "attention": "attention over clusters",
    "fusion": "gated fusion",
    "classifier": "classifier",
    "residue_head": "head of residue types",
}
"""The blocks of all models, and what their results are called."""


class Finding(NamedTuple):
    """What there is to say about one part of a step."""

    component: str
    finite: bool
    """Every number that counts is; padding and residues with missing atoms do not count."""
    largest: float
    """Largest magnitude of the finite numbers."""
    slot: int
    """The first protein, by its place in the batch, with a number that is not finite; -1 where there is none
    or where the part belongs to all proteins."""


class _Part(NamedTuple):
    """The numbers that a `Finding` is about."""

    arrays: tuple[Any, ...]
    mask: Any = None
    """bool, along the leading axes of every array: the numbers that count; None: all."""
    slot: Any = None
    """int32, along the leading axis of every array: place of the protein in the batch."""


def examine(
    graphdef: nnx.GraphDef,
    state: TrainState,
    graph: PackedGraph,
    settings: StepSettings,
    *,
    bypass_codebook: bool,
    label_smoothing: float = 0.0,
    freeze_encoder: bool = False,
) -> list[Finding]:
    """Every part of the step that `make_train_step` makes from `state`, in order: parameters, codes,
    coordinates, features, the blocks of the model, the terms of the loss, gradients."""
    look, names = _examiner(graphdef, bypass_codebook, label_smoothing, freeze_encoder)
    computed, found = jax.device_get(look(state, graph, settings))
    params, codebook, graph, settings = jax.device_get((state.params, state.codebook, graph, settings))
    parts = [(f"parameters: {name}", _Part(arrays)) for name, arrays in _arrays(params)]
    if codes := jax.tree.leaves(codebook):
        parts.append(("parameters: codebook", _Part(tuple(codes))))
    slot = np.repeat(np.arange(len(graph.n_node)), graph.n_node)
    parts.append(("coordinates", _Part((graph.nodes.backbone,), graph.nodes.mask, slot)))
    parts += zip(names, computed, strict=True)
    losses = found.losses._asdict()
    parts += [(f"loss: {name}", _Part((losses[name],))) for name in (*LossTerms._fields[1:], "total")]
    parts += [(f"gradients: {name}", _Part(arrays)) for name, arrays in _arrays(found.gradients)]
    parts.append(("gradients: global norm", _Part((found.norm,))))
    parts.append(("learning rate", _Part((settings.learning_rate,))))
    return [_finding(name, part) for name, part in parts]


def first_offender(findings: Sequence[Finding]) -> Finding | None:
    """The first part that is not finite."""
    return next((finding for finding in findings if not finding.finite), None)


def _finding(name: str, part: _Part) -> Finding:
    finite, largest, slots = True, 0.0, []
    for array in part.arrays:
        x = np.asarray(array, np.float32)
        counts = np.ones(x.shape, bool)
        if part.mask is not None:
            counts &= part.mask.reshape(*part.mask.shape, *(1,) * (x.ndim - part.mask.ndim))
        bad = counts & ~np.isfinite(x)
        finite &= not bad.any()
        largest = max(largest, float(np.abs(x, where=counts & ~bad, out=np.zeros_like(x)).max(initial=0.0)))
        if part.slot is not None and bad.any():
            slots.append(int(part.slot[bad.reshape(len(x), -1).any(axis=1)].min()))
    return Finding(name, bool(finite), largest, min(slots, default=-1))


def _arrays(params: nnx.State) -> list[tuple[str, tuple[Any, ...]]]:
    return [(name, tuple(v[...] for v in variables)) for name, variables in by_component(params).items()]


class _Backward(NamedTuple):
    losses: LossTerms
    gradients: nnx.State
    norm: jax.Array


@functools.lru_cache(maxsize=4)
def _examiner(
    graphdef: nnx.GraphDef, bypass_codebook: bool, label_smoothing: float, freeze_encoder: bool
) -> tuple[Callable[..., tuple[list[_Part], _Backward]], list[str]]:
    """The compiled examination, and the names of the parts it returns, which are there once it has run."""
    gradient_step = make_gradient_step(
        graphdef,
        bypass_codebook=bypass_codebook,
        label_smoothing=label_smoothing,
        freeze_encoder=freeze_encoder,
    )
    names: list[str] = []  # not arrays, so they cannot be returned by what jax traces

    def look(state: TrainState, graph: PackedGraph, settings: StepSettings) -> tuple[list[_Part], _Backward]:
        parts = _forward_parts(graphdef, state, graph, settings, bypass_codebook)
        names[:] = [name for name, _ in parts]
        found = gradient_step(state, graph, settings)
        backward = _Backward(found.losses, found.gradients, optax.tree.norm(found.gradients))
        return [part for _, part in parts], backward

    # It runs once or twice: no time spent on making it fast.
    return jax.jit(look, compiler_options={"xla_backend_optimization_level": 0}), names


def _forward_parts(
    graphdef: nnx.GraphDef,
    state: TrainState,
    graph: PackedGraph,
    settings: StepSettings,
    bypass_codebook: bool,
) -> list[tuple[str, _Part]]:
    """Features, and what the blocks of the model return when it runs as in the training step."""
    model = nnx.merge(graphdef, state.params, state.codebook, copy=True)
    residues, proteins = jnp.asarray(graph.nodes.mask), jnp.asarray(graph.globals.mask[:-1])
    protein_of_residue, slots = graph_index(graph), jnp.arange(proteins.shape[0])
    parts: list[tuple[str, _Part]] = []

    def of_residues(name: str, *arrays: Any) -> None:
        parts.append((name, _Part(arrays, residues, protein_of_residue)))

    def of_proteins(name: str, *arrays: Any, mask: Any = proteins) -> None:
        parts.append((name, _Part(arrays, mask, slots)))

    def note(
        block: str, out: Any, *args: Any, key: jax.Array | None = None, form: Any = None, **_: Any
    ) -> None:
        name = BLOCKS[block]
        if block == "encoder":
            hidden = model.encoder.embed(args[0])
            _, layers = model.encoder.run_layers(hidden, key, form, every=True)
            of_residues("embedding of residues", *hidden.nodes)
            for number in range(layers.scalars.shape[0]):
                of_residues(f"conv layer {number}", layers.scalars[number], layers.vectors[number])
            of_residues(name, out)
        elif block == "residue_head":
            of_residues(name, out)
        elif block == "pool":
            of_proteins(name, out[:-1])
        elif block == "partitioner":
            of_proteins(name, out.features[:-1], mask=out.mask[:-1])
            of_proteins(f"{name}: thresholds", out.rounds.theta.T[:-1], mask=out.rounds.seed.T[:-1] >= 0)
        elif block == "codebook":
            of_proteins(name, out.features, mask=args[1])
        elif block == "attention":
            of_proteins(name, out.pooled, out.weights)
        else:  # fusion returns the fused vector and its gate
            of_proteins(name, *(out if isinstance(out, tuple) else (out,)))

    features = featurise(graph)
    of_residues("features of residues", features.nodes.scalars, features.nodes.vectors)
    table = graph.receivers is None
    edges = (features.edges.scalars, features.edges.vectors)  # 0 where there is no edge
    parts.append(("features of edges", _Part(edges, slot=protein_of_residue if table else None)))
    for block in BLOCKS:
        if getattr(model, block, None) is not None:
            setattr(model, block, _Noting(getattr(model, block), functools.partial(note, block)))
    forward(
        model,
        graph,
        randomness=Randomness(key=jax.random.fold_in(state.key, state.step)),
        temperature=settings.temperature,
        update_codebook=jnp.logical_not(settings.frozen),
        bypass_codebook=bypass_codebook,
    )
    return parts


class _Noting:
    """A block that tells what it returns, and what it was given, and is otherwise the block."""

    def __init__(self, block: Any, note: Callable[..., None]):
        self._block, self._note = block, note

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = self._block(*args, **kwargs)
        self._note(out, *args, **kwargs)
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._block, name)
