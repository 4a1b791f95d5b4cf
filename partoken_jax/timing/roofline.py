"""What the algorithm needs at least, what the device can do at most, and how far a step is from both."""

import time
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from partoken_jax.config import ModelConfig
from partoken_jax.models import matmul_precision
from partoken_jax.nn.platform import target_platform

FLOAT = 4
MESSAGE_GVPS = 3


class Ceilings(TypedDict):
    """Measured on the device."""

    flops_per_s: float
    """Of a large matrix product, in the precision of the model."""
    bytes_per_s: float
    """Read and written, of x + 1 over a large array."""
    matrix: int
    """Rows and columns of the matrices."""
    array_bytes: int


class Minimum(TypedDict):
    """Of one training step."""

    flops: float
    bytes: float


class Roofline(TypedDict):
    minimum: Minimum
    compute_ms: float
    """Minimal operations at the measured ceiling."""
    memory_ms: float
    """Minimal bytes at the measured ceiling."""
    bound_ms: float
    """The larger of the two."""
    step_over_bound: float


def measure_ceilings(config: ModelConfig, repeats: int = 5) -> Ceilings:
    """Times a large matrix product, in the precision of the model, and a large copy on the default device."""
    on_cpu = target_platform() == "cpu"
    size, length = (2048, 1 << 25) if on_cpu else (8192, 1 << 28)
    matrix = jnp.ones((size, size), jnp.bfloat16 if config.precision == "bfloat16" else jnp.float32)
    array = jnp.ones(length, jnp.float32)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1.0)
    with jax.default_matmul_precision(matmul_precision(config)):
        product_s = _best(product, matrix, repeats)
    return {
        "flops_per_s": 2.0 * size**3 / product_s,
        "bytes_per_s": 2.0 * FLOAT * length / _best(copy, array, repeats),
        "matrix": size,
        "array_bytes": FLOAT * length,
    }


def encoder_multiply_adds(config: ModelConfig) -> tuple[int, int]:
    """Multiply-adds of the encoder's forward pass (per residue, per edge), with the sender and receiver parts
    of the first message GVP and the tail of the last one worked out per residue (docs/TIMING.md,
    "Roofline")."""
    (si, vi), (se, ve) = config.node_in, config.edge_in
    (s, v), (es, ev) = config.node_hidden, config.edge_hidden
    si += 20 * config.residue_types

    def gvp(s_in, v_in, s_out, v_out, hidden=None):
        hidden = hidden or max(v_in, v_out)
        return (s_in + hidden) * s_out + 3 * hidden * (v_in + v_out)

    hidden = 2 * v + ev  # of the first message GVP
    first_node = 2 * s * s + 3 * 2 * v * hidden  # W_s and W_h of sender and receiver
    first_edge = (es + hidden) * s + 3 * ev * hidden + 3 * hidden * v  # edge parts, norms, W_v
    middle_edge = (MESSAGE_GVPS - 2) * gvp(s, v, s, v)
    last_edge = 3 * v * v  # W_h; the norm needs it per edge
    last_node = (s + v) * s + 3 * v * v
    feed_forward = gvp(s, v, 4 * s, 2 * v) + gvp(4 * s, 2 * v, s, v)
    per_residue = (
        gvp(si, vi, s, v)
        + config.num_layers * (first_node + last_node + feed_forward)
        + (s + v) * s
        + 3 * v * v
    )
    per_edge = gvp(se, ve, es, ev) + config.num_layers * (first_edge + middle_edge + last_edge)
    return per_residue, per_edge


def minimum(config: ModelConfig, residues: int, edges: int, parameters: int) -> Minimum:
    """Work that one training step of the encoder cannot do without: it is about 99% of both models.

    FLOPs: 2 per multiply-add of the forward pass, twice that again for the gradients by inputs and by
    weights. Bytes, were every layer and pass one perfect kernel: coordinates and neighbour tables once; per
    layer, node features read and written and hidden edge features and neighbour table read, once forward and
    twice backward; parameters, gradients and Adam's moments read and written once.
    """
    per_residue, per_edge = encoder_multiply_adds(config)
    node = FLOAT * (config.node_hidden[0] + 3 * config.node_hidden[1])
    edge = FLOAT * (config.edge_hidden[0] + 3 * config.edge_hidden[1] + 1)
    layer = residues * 2 * node + edges * edge
    inputs = residues * 4 * 3 * FLOAT + edges * FLOAT
    return {
        "flops": 3 * 2.0 * (residues * per_residue + edges * per_edge),
        "bytes": float(inputs + 3 * config.num_layers * layer + 7 * FLOAT * parameters),
    }


def roofline(least: Minimum, ceilings: Ceilings, step_ms: float) -> Roofline:
    """The bound that minimum and ceilings set, and how many times longer the step takes."""
    compute = 1e3 * least["flops"] / ceilings["flops_per_s"]
    memory = 1e3 * least["bytes"] / ceilings["bytes_per_s"]
    bound = max(compute, memory)
    return {
        "minimum": least,
        "compute_ms": compute,
        "memory_ms": memory,
        "bound_ms": bound,
        "step_over_bound": step_ms / bound,
    }


def _best(function, argument, repeats: int) -> float:
    jax.block_until_ready(function(argument))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(argument))
        seconds.append(time.perf_counter() - start)
    return float(np.min(seconds))
