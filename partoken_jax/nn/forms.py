"""Which form a program takes: the one place where settings that are "auto" are decided.

All forms give the same numbers, up to rounding. What decides is what the program is made for, its `Target`,
which is an argument of whatever makes a program and never read from the machine that compiles it.

Legend: N rows of a batch, K neighbours.
"""

import math
from typing import NamedTuple

from partoken_jax.config import ModelConfig
from partoken_jax.graphs.types import FeaturisedGraph, HiddenGraph, NodeFeatures, check_layout, edge_list
from partoken_jax.nn.platform import target_platform

KEPT_BYTES = 2**32
"""A GPU keeps what layers leave up to here, 64 proteins of 300 residues at the published settings: 7 GB of
memory with all else."""


class Form(NamedTuple):
    """How the conv layers are computed; the first three as in `config.ModelConfig`, without "auto"."""

    message_passing: str = "dense"
    rematerialise: str = "none"
    sender_gradient: str = "scatter"
    chunk: int | None = None
    """With rematerialise "chunk", the receivers whose messages are computed at a time; None: as many as
    `encoder.chunk_size` says."""

    def __str__(self) -> str:
        if self.rematerialise == "chunk":
            size = "" if self.chunk is None else f" of {self.chunk}"
            return f"{self.message_passing}, chunks{size}"
        kept = {"none": "all kept", "layer": "layers computed again"}[self.rematerialise]
        read = f", {self.sender_gradient}" if self.message_passing == "dense" else ""
        return f"{self.message_passing}, {kept}{read}"


class ShapeClass(NamedTuple):
    """Programs that a form is measured for together."""

    residues: int
    """N rounded to a power of two."""
    neighbours: int
    node_hidden: tuple[int, int]
    edge_hidden: tuple[int, int]
    num_layers: int
    precision: str


class Target(NamedTuple):
    """What a program is made for."""

    platform: str
    """"cpu", "gpu" or "tpu"."""
    measured: tuple[tuple[ShapeClass, Form], ...] = ()
    """Forms to take where settings are "auto": those found to be right and fast on the device
    (`partoken tune`)."""


def shape_class(config: ModelConfig, num_nodes: int, neighbours: int) -> ShapeClass:
    """The class of batches of `num_nodes` rows."""
    residues = 2 ** round(math.log2(num_nodes))
    return ShapeClass(
        residues, neighbours, config.node_hidden, config.edge_hidden, config.num_layers, config.precision
    )


def choose(config: ModelConfig, target: Target, shape: ShapeClass) -> Form:
    """The form of a program over a table of neighbours.

    What is set stands. What is "auto" is as measured for programs of this shape, unless that contradicts a
    setting; else on a TPU in blocks, unless chunks or a way to sum the senders' gradient are set, which the
    dense form has alone; else dense: on a CPU in chunks, elsewhere with gradients gathered, and with layers
    computed again unless on a GPU what they leave takes no more than `KEPT_BYTES`. What is set to be fused is
    dense where there is no such kernel.
    """
    measured = dict(target.measured).get(shape)
    names = ("message_passing", "rematerialise", "sender_gradient")
    if measured is not None and all(
        getattr(config, name) in ("auto", getattr(measured, name)) for name in names
    ):
        return measured
    if config.message_passing == "general":
        return _of_list(config)
    again, gradient = config.rematerialise, config.sender_gradient
    form: str = config.message_passing
    if form == "auto" and again != "chunk" and gradient == "auto" and target.platform == "tpu":
        form = "blocks"
    if form == "blocks" or (form == "fused" and target.platform == "tpu"):
        # Neither keeps anything of an edge, so that little is left to compute again.
        return Form(form, "none" if again == "auto" else again)
    on_cpu = target.platform == "cpu"
    if again == "auto":
        keeps = target.platform == "gpu" and kept_bytes(shape) <= KEPT_BYTES
        again = "chunk" if on_cpu else "none" if keeps else "layer"
    if gradient == "auto":
        gradient = "scatter" if on_cpu or again == "chunk" else "gather"
    return Form("dense", again, gradient)


def kept_bytes(shape: ShapeClass) -> int:
    """About what the layers of the dense form leave to their backward pass, in float32: as compiled for an
    H100 at the published widths, 3.5 (S + 4 V) numbers of an edge."""
    scalars, vectors = shape.node_hidden
    return shape.residues * shape.neighbours * shape.num_layers * 14 * (scalars + 4 * vectors)


def form_of(config: ModelConfig, target: Target | None, graph: FeaturisedGraph | HiddenGraph) -> Form:
    """The form of a program that reads this graph; without a target, on the default device. A list of edges
    is read in the general form."""
    if graph.receivers is not None:
        return _of_list(config)
    shape = shape_class(config, *graph.senders.shape)
    return choose(config, target or Target(target_platform()), shape)


def in_form(
    graph: FeaturisedGraph, config: ModelConfig, target: Target | None
) -> tuple[FeaturisedGraph, Form]:
    """The graph in the layout that a model reads, and the form that it takes for it.

    Raises TypeError for a graph that is not featurised, ValueError for one of no known layout.
    """
    nodes = getattr(graph, "nodes", graph)
    if not isinstance(nodes, NodeFeatures):
        raise TypeError(
            f"the model reads featurised graphs, not {type(nodes).__name__}; call "
            "partoken_jax.featurise(pack(proteins, tables)) first"
        )
    check_layout(graph)
    form = form_of(config, target, graph)
    return edge_list(graph) if form.message_passing == "general" else graph, form


def _of_list(config: ModelConfig) -> Form:
    return Form("general", "layer" if config.rematerialise == "layer" else "none")
