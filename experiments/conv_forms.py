"""What each choice in the fast form of the messages is worth on this machine: one conv, programs in turns.

    python -m experiments.conv_forms [--batch-size 4] [--json experiments/results/conv_forms.json]

The first layer of the published GVP encoder, on proteins of 300 residues. Every other form differs from the
present one in a single choice and is compiled beside it. What is compared is the time of the process on all
its cores, which other programs on the machine disturb less than time by the clock; ratios are taken pair by
pair.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.flags import Flags, count, output, run_script
from partoken_jax.graphs.features import featurise
from partoken_jax.graphs.types import HiddenGraph
from partoken_jax.nn import linear, message_passing_dense, norms
from partoken_jax.nn.encoder import CHUNK
from partoken_jax.nn.message_passing import GVPConv
from partoken_jax.tables import markdown_table
from partoken_jax.timing.batches import timing_data
from partoken_jax.timing.measure import Timing, ratio, summary
from partoken_jax.timing.programs import train_config
from partoken_jax.timing_config import TimingConfig
from partoken_jax.training.report import environment
from partoken_jax.training.state import initial_state

RESIDUES = 300
PRESENT = f"the present form, {CHUNK} receivers at a time"
Patches = dict[tuple[Any, str], Any]


def packed_nodes(*arguments: Any) -> Any:
    """As `_project_nodes`, with the senders' scalars and vectors in one table."""
    (s, v), receiver = PROJECT(*arguments)
    return (jnp.concatenate([s, v.reshape(len(v), -1)], axis=1), v.shape[1:]), receiver


def packed_rows(sender: Any, neighbours: jax.Array, reverse: Any) -> Any:
    table, shape = sender
    rows = GATHER(table, neighbours, reverse)
    scalars = table.shape[1] - math.prod(shape)
    return rows[..., :scalars], rows[..., scalars:].reshape(*neighbours.shape, *shape)


def product_of_more_axes(x: jax.Array, weight: jax.Array) -> jax.Array:
    return x.astype(weight.dtype) @ weight


def two_products(*factors: tuple[jax.Array, jax.Array]) -> jax.Array:
    """As `_sum_of_products`, one by one."""
    (x1, w1), (x2, w2) = factors
    return linear.product(x1, w1) + linear.product(x2, w2)


@jax.custom_vjp
def sorted_rows(x: jax.Array, neighbours: jax.Array) -> jax.Array:
    """x[neighbours], with a gradient that adds up what is sorted by sender."""
    return x[neighbours]


def _sorted_backward(residuals: Any, gradient: jax.Array) -> Any:
    neighbours, like = residuals
    flat = neighbours.reshape(-1)
    order = jnp.argsort(flat)
    rows = gradient.reshape(flat.shape[0], *gradient.shape[2:])[order]
    return jnp.zeros_like(like).at[flat[order]].add(rows, indices_are_sorted=True), None


sorted_rows.defvjp(lambda x, neighbours: (x[neighbours], (neighbours, x)), _sorted_backward)


DENSE = message_passing_dense
PROJECT = message_passing_dense._project_nodes
GATHER: Any = message_passing_dense._gather
FORMS: dict[str, tuple[int | None, Patches]] = {
    PRESENT: (CHUNK, {}),
    **{f"{size} receivers at a time": (size, {}) for size in (32, 64, 128, 256) if size != CHUNK},
    "all receivers at once, nothing computed again": (None, {}),
    "products of vectors with three axes": (
        CHUNK,
        {(linear, "product"): product_of_more_axes, (DENSE, "product"): product_of_more_axes},
    ),
    "sums over x, y and z as a reduction": (
        CHUNK,
        {(norms, "component_product"): lambda a, b, axis: jnp.sum(a * b, axis=axis)},
    ),
    "a reciprocal root in the norm's gradient": (CHUNK, {(norms, "inverse_root"): jax.lax.rsqrt}),
    "the senders' scalars and vectors packed in one row": (
        CHUNK,
        {(DENSE, "_project_nodes"): packed_nodes, (DENSE, "_gather"): packed_rows},
    ),
    "two products for an edge's scalars and norms": (
        CHUNK,
        {(DENSE, "_sum_of_products"): two_products},
    ),
    "the senders' gradient by sorted segments": (
        CHUNK,
        {(DENSE, "_gather"): lambda sender, n, _: jax.tree.map(lambda x: sorted_rows(x, n), sender)},
    ),
}


@contextlib.contextmanager
def patched(patches: Patches) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for (module, name), value in patches.items():
            stack.enter_context(patch.object(module, name, value))
        yield


def first_conv(batch_size: int) -> tuple[GVPConv, HiddenGraph]:
    """The first conv of the published encoder with random weights, and what it reads."""
    config = TimingConfig(batch_size=batch_size, residues=RESIDUES)
    data = timing_data(config)
    graphdef, state = initial_state(train_config(config, data, "gvp"))
    encoder = nnx.merge(graphdef, state.params, state.codebook).encoder
    return encoder.layers[0].conv, jax.jit(lambda graph: encoder.embed(featurise(graph)))(data.batch)


def program(conv: GVPConv, graph: HiddenGraph, chunk: int | None) -> Callable[[], Any]:
    """Compiles the gradient by parameters, nodes and edges of a sum over the conv's outputs."""
    graphdef, params = nnx.split(conv, nnx.Param)

    def total(params, nodes, scalars, vectors):
        edges = graph.edges._replace(scalars=scalars, vectors=vectors)
        s, v = nnx.merge(graphdef, params)(graph._replace(nodes=nodes, edges=edges), chunk=chunk)
        return jnp.sum(jnp.sin(s)) + jnp.sum(jnp.sin(v))

    arguments = (params, graph.nodes, graph.edges.scalars, graph.edges.vectors)
    compiled = jax.jit(jax.grad(total, argnums=(0, 1, 2, 3))).lower(*arguments).compile()
    return lambda: jax.block_until_ready(compiled(*arguments))


def measure(batch_size: int, repeats: int) -> list[dict[str, Any]]:
    """A row for every form: seconds of the processor and their ratio to the present form's."""
    conv, graph = first_conv(batch_size)
    calls = {}
    for name, (chunk, patches) in FORMS.items():
        with patched(patches):
            calls[name] = program(conv, graph, chunk)
        calls[name]()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats):
        for name in calls if turn % 2 else reversed(calls):
            start = time.process_time()
            calls[name]()
            seconds[name].append(time.process_time() - start)
    timings: dict[str, Timing] = {name: summary(values) for name, values in seconds.items()}
    return [
        {"form": name, "processor_ms": 1e3 * timing.median, "ratio": ratio(timing, timings[PRESENT])}
        for name, timing in timings.items()
    ]


def table(result: dict[str, Any]) -> str:
    """Every form's time and ratio."""
    rows = []
    for row in result["rows"]:
        low, high = row["ratio"]["quartiles"]
        shown = (f"{row['processor_ms']:.0f} ms", f"{row['ratio']['median']:.2f}", f"{low:.2f}–{high:.2f}")
        rows.append((row["form"], *shown))
    header = ("a conv, forward and backward", "processor time", "ratio", "quartiles")
    environment = result["environment"]
    where = f"{environment['device']}, jax {environment['jax']}"
    return f"{markdown_table(header, rows, 'lrrr')}\n\n`{result['command']}` ({where})."


def main() -> int:
    flags = Flags(prog="python -m experiments.conv_forms", description=__doc__)
    flags.add_argument("--batch-size", type=count, default=4, help="Proteins in the batch.")
    flags.add_argument("--repeats", type=count, default=15, help="Runs of every form.")
    flags.add_argument("--json", type=output, help="Where to write the result.")
    args = flags.parse_args()
    result = {
        "schema": "partoken.conv_forms/1",
        "command": f"python -m experiments.conv_forms --batch-size {args.batch_size} "
        f"--repeats {args.repeats} --json {args.json}",
        "environment": environment(),
        "rows": measure(args.batch_size, args.repeats),
    }
    print(table(result))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    run_script(main)
