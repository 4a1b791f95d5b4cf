"""The fused messages of one conv layer on the GPU at hand: whether they are right, and how long they take.

    python -m experiments.gpu_suite --out DIR --part fused64

The kernels are experimental: they were compiled for an H100 and interpreted before any device ran them, so
this comes first on one. The messages and gradients of random features are compared with those of the dense
form in float32, then both forms are timed taking turns.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.fused_layer import EDGE, NODE, gradient_of, layer_batch
from partoken_jax.graphs.types import EdgeFeatures, HiddenGraph, HiddenNodes
from partoken_jax.nn.fused_messages.gpu.layout import slot_edges
from partoken_jax.nn.fused_messages.gpu.messages import gpu_messages, too_old
from partoken_jax.nn.gather import reverse_neighbours
from partoken_jax.nn.message_passing import GVPConv
from partoken_jax.timing.measure import compile_program, interleave, ratio
from partoken_jax.timing.tune import TOLERANCES

PRECISIONS, PASSES = ("tensorfloat32", "bfloat16"), ("forward", "gradient")
HOPPER = "9.0"
"""The compute capability of the GPUs that the kernels are for."""


def why_not() -> str | None:
    """One sentence where the kernels cannot run on the default device."""
    device = jax.devices()[0]
    capability = getattr(device, "compute_capability", None)
    if device.platform != "gpu" or capability != HOPPER:
        return f"the kernels are for GPUs of compute capability {HOPPER}, but this is {device.device_kind}"
    return too_old()


def compare(proteins: int, repeats: int, *, interpret: bool = False) -> dict[str, Any]:
    """Errors and times of one layer over so many chains of 300 residues, by precision; or why there are none.

    `interpret`: the kernels as ordinary operations, on any device: for tests.
    """
    if not interpret and (said := why_not()):
        return {"left_out": said}
    batch = layer_batch(proteins)
    run = functools.partial(_run, batch, _drawn(batch), interpret)
    exact = {what: run("dense", "float32", what)() for what in PASSES}
    rows = []
    for precision in PRECISIONS:
        tolerances = dict(zip(("forward", "gradient"), TOLERANCES[precision], strict=True))
        for what in PASSES:
            calls = {form: run(form, precision, what) for form in ("dense", "fused")}
            errors = {form: _worst(call(), exact[what]) for form, call in calls.items()}
            times = interleave(calls, repeats=repeats)
            rows.append(
                {
                    "precision": precision,
                    "what": what,
                    "errors": errors,
                    # No worse than the tolerance, or than the dense form where that is worse.
                    "right": errors["fused"] <= max(tolerances[what], 1.5 * errors["dense"]),
                    "ms": {form: 1e3 * timing.median for form, timing in times.items()},
                    "fused_over_dense": ratio(times["fused"], times["dense"]),
                }
            )
    return {"proteins": proteins, "rows": rows, "holds": all(row["right"] for row in rows)}


def _drawn(batch: HiddenGraph) -> tuple[Any, Any, Any]:
    """Random residues and edges, and what the gradient of the messages is taken with."""
    rng, nodes = np.random.default_rng(0), tuple(batch.nodes)
    shapes = (nodes, (batch.edges.scalars, batch.edges.vectors), nodes)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)


def _run(
    batch: HiddenGraph, drawn: tuple[Any, Any, Any], interpret: bool, form: str, precision: str, what: str
) -> Callable[[], Any]:
    """Compiles the messages or their gradient in this form; returns what runs them."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else None
    graphdef, params = nnx.split(GVPConv(NODE, NODE, EDGE, dtype=dtype, rngs=nnx.Rngs(0)))
    senders, mask = jnp.asarray(batch.senders), jnp.asarray(batch.edges.mask)

    def forward(params, nodes, features, _):
        conv = nnx.merge(graphdef, params)
        scalars, vectors = (x.astype(dtype or x.dtype) for x in features)
        edges = EdgeFeatures(scalars, vectors, mask)
        if form == "dense":
            here = batch._replace(nodes=HiddenNodes(*nodes), edges=edges)
            return conv(here, reverse=reverse_neighbours(senders, mask))
        return gpu_messages(conv.message, nodes, slot_edges(edges, senders), interpret=interpret)

    nodes, features, cotangents = drawn
    function: Callable[..., Any] = forward
    arguments: tuple[Any, ...] = (params, nodes, features, None)
    if what == "gradient":
        function, arguments = gradient_of(forward), (*arguments, cotangents)
    with jax.default_matmul_precision("tensorfloat32" if precision == "tensorfloat32" else "highest"):
        program = compile_program(jax.jit(function), *arguments).run
    return lambda: jax.block_until_ready(program(*arguments))


def _worst(found: Any, exact: Any) -> float:
    """The largest error of an array, relative by the norm."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    return max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in pairs)
