"""The messages of one conv layer compiled for TPUs and GPUs that need not be there: bytes and memory.

    pip install -e '.[tpu]'       # libtpu, for v5e and v6e
    pip install -e '.[cuda13]'    # for h100, with jax 0.12 or newer
    python -m experiments.fused_layer [--only v5e_float32_gradient ...]

Nothing is run on a device. 64 chains of 300 residues and 30 neighbours, and 334 of them to show that the size
of a batch is not bounded by the chip's memory. Bytes are those of every operation in the text of the compiled
program, as `timing.hlo` reads it. For the kernels of a TPU they are what they copy, by arithmetic over the
batch: their blocks, the weights once, and every chunk of the senders' table as often as the window fetches
it. For those of a GPU they are their operands and results, once each: what a block reads again, and the sums
that it adds to, are small enough for the cache.

The blocks of a TPU are there to be compared with; they are ordinary operations, and no kernel.

The errors of every precision of the kernels come from interpret mode, which rounds as the kernels do: the
norm of the difference to the dense form in float32, relative to the norm, largest of the messages and of the
gradients.

What is in the file already is not made again.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding
from jax.typing import DTypeLike

from experiments.flags import Flags, run_script
from partoken_jax.files import write_whole
from partoken_jax.graphs.types import EdgeFeatures, HiddenGraph, HiddenNodes
from partoken_jax.nn.encoder import whole_blocks
from partoken_jax.nn.fused_messages import backward, forward
from partoken_jax.nn.fused_messages.gpu.layout import slot_edges
from partoken_jax.nn.fused_messages.gpu.messages import gpu_messages
from partoken_jax.nn.fused_messages.layout import ROWS, TILE, lane_edges, rounded_up
from partoken_jax.nn.fused_messages.messages import fused_messages
from partoken_jax.nn.fused_messages.window import NOTHING, WINDOW
from partoken_jax.nn.gather import reverse_neighbours
from partoken_jax.nn.message_passing import GVPConv
from partoken_jax.nn.message_passing_blocks import block_edges, block_messages
from partoken_jax.timing.batches import timing_data
from partoken_jax.timing.compiled import DEVICES, compile_for, device_mesh, use_compilers
from partoken_jax.timing.hlo import Module
from partoken_jax.timing_config import TimingConfig

OUT = Path(__file__).parent / "results" / "compiled" / "fused_layer.json"
NODE, EDGE = (100, 16), (32, 1)
SMALL, LARGE = 64, 334


class Program(NamedTuple):
    """One conv layer, compiled."""

    device: str
    precision: str
    what: str
    """forward, or gradient, which has the forward pass in it: of the residues, the edges and the weights."""
    proteins: int = SMALL
    form: str = "fused"

    @property
    def name(self) -> str:
        large = "" if self.proteins == SMALL else f"_{self.proteins}"
        form = "" if self.form == "fused" else f"_{self.form}"
        return f"{self.device}_{self.precision}_{self.what}{large}{form}"


PROGRAMS = (
    Program("v5e", "float32", "forward"),
    Program("v5e", "float32", "gradient"),
    Program("v5e", "bfloat16", "forward"),
    Program("v5e", "bfloat16", "gradient"),
    Program("v5e", "float32", "gradient", LARGE),
    Program("v6e", "bfloat16", "gradient"),
    Program("v5e", "tensorfloat32", "gradient"),
    Program("v5e", "float32", "forward", form="blocks"),
    Program("v5e", "float32", "gradient", form="blocks"),
    Program("v5e", "float32", "forward", form="dense"),
    Program("v5e", "float32", "gradient", form="dense"),
    Program("h100", "tensorfloat32", "forward"),
    Program("h100", "tensorfloat32", "gradient"),
    Program("h100", "bfloat16", "forward"),
    Program("h100", "bfloat16", "gradient"),
    Program("h100", "tensorfloat32", "forward", form="dense"),
    Program("h100", "tensorfloat32", "gradient", form="dense"),
    Program("h100", "bfloat16", "forward", form="dense"),
    Program("h100", "bfloat16", "gradient", form="dense"),
)


def compiled(program: Program) -> dict[str, Any]:
    """A row: the program's bytes, those of the kernels and of the rest, and its memory."""
    batch, device = layer_batch(program.proteins), DEVICES[program.device]
    gpu = device.platform == "cuda"
    if program.form == "dense":
        if gpu:
            batch, _ = whole_blocks(batch, None)
        function, arguments = _dense_layer(program, batch)
    else:
        _, made_by = _form(program)
        made = jax.jit(made_by)(batch.edges, batch.senders)
        function, arguments = _layer(program, tuple(batch.nodes), made)
    place = SingleDeviceSharding(device_mesh(device).devices.flat[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), arguments)
    precision = "tensorfloat32" if program.precision == "tensorfloat32" else "highest"
    with jax.default_matmul_precision(precision):
        done = compile_for(device, jax.jit(function), shapes)
    moved = {name: o.bytes * o.runs for name, o in Module(done.text).operations().items()}
    kernels = sum(moved.get(name, 0.0) for name in _kernels(done.text))
    rest = sum(moved.values()) - kernels
    if program.form == "fused" and not gpu:
        kernels = kernel_bytes(program, made)
    facts = ("temp_bytes", "argument_bytes", "output_bytes", "compile_s")
    return {
        **program._asdict(),
        "rows": len(batch.senders),
        "bytes": rest + kernels,
        "kernel_bytes": kernels,
        "other_bytes": rest,
        **{name: done.facts[name] for name in facts},
    }


def _kernels(text: str) -> set[str]:
    """Names of the operations that are kernels of the messages. XLA may put one into a fusion with a slice
    that it reads."""
    lines, computation = text.splitlines(), ""
    found, wrapped = [], []
    for line in lines:
        if line.endswith("{"):
            computation = line.split()[0]
        if " custom-call(" in line and "gvp_messages" in line:
            found.append(line)
            wrapped.append(f"calls={computation},")
    found += [line for line in lines if any(calls in line for calls in wrapped)]
    return {line.split(" = ")[0].split()[-1].lstrip("%") for line in found}


def layer_batch(proteins: int) -> Any:
    """Hidden features of a batch of synthetic chains; their values do not matter."""
    graph = timing_data(TimingConfig(batch_size=proteins, residues=300)).batch
    rows, neighbours = graph.senders.shape
    edges = EdgeFeatures(
        jnp.zeros((rows, neighbours, EDGE[0])),
        jnp.zeros((rows, neighbours, EDGE[1], 3)),
        jnp.asarray(graph.edges.mask),
    )
    nodes = HiddenNodes(jnp.zeros((rows, NODE[0])), jnp.zeros((rows, NODE[1], 3)))
    return HiddenGraph(**{**graph._asdict(), "nodes": nodes, "edges": edges, "globals": None})


def _conv(precision: str):
    dtype = jnp.bfloat16 if precision == "bfloat16" else None
    return nnx.split(nnx.eval_shape(lambda: GVPConv(NODE, NODE, EDGE, dtype=dtype, rngs=nnx.Rngs(0))))


def _layer(program: Program, nodes, made):
    """The layer as a function, and its arguments. The edges are as it reads them: they are the same for all
    layers and brought into this form once."""
    graphdef, params = _conv(program.precision)
    features = made.features.astype(_stored(program))
    messages, _ = _form(program)

    def forward(params, nodes, features, made):
        return messages(nnx.merge(graphdef, params).message, nodes, made._replace(features=features))

    arguments = (params, nodes, features, made._replace(features=None))
    if program.what == "forward":
        return forward, arguments
    return gradient_of(forward), (*arguments, nodes)


def _form(program: Program) -> tuple[Callable, Callable]:
    """What computes the messages of a form other than dense, and what makes the edges that it reads."""
    if program.form == "blocks":
        return block_messages, block_edges
    gpu = DEVICES[program.device].platform == "cuda"
    return (gpu_messages, slot_edges) if gpu else (fused_messages, lane_edges)


def _dense_layer(program: Program, batch):
    """The same for the dense form, with the senders' gradient read as it is on a TPU and on a GPU."""
    nodes = tuple(batch.nodes)
    graphdef, params = _conv(program.precision)

    def forward(params, nodes, features, graph):
        edges = EdgeFeatures(scalars=features[0], vectors=features[1], mask=graph.edges.mask)
        reverse = reverse_neighbours(graph.senders, graph.edges.mask)
        here = graph._replace(nodes=HiddenNodes(*nodes), edges=edges)
        return nnx.merge(graphdef, params)(here, reverse=reverse)

    features = tuple(x.astype(_stored(program)) for x in (batch.edges.scalars, batch.edges.vectors))
    arguments = (params, nodes, features, batch)
    if program.what == "forward":
        return forward, arguments
    return gradient_of(forward), (*arguments, nodes)


def _stored(program: Program) -> DTypeLike:
    """Of the edge features."""
    return jnp.bfloat16 if program.precision == "bfloat16" else jnp.float32


def gradient_of(forward):
    """Of Σ out · cotangent, the last argument, in weights, residues and edges."""

    def total(params, nodes, features, others, cotangents):
        out = forward(params, nodes, features, others)
        return sum(jnp.vdot(x, c) for x, c in zip(out, cotangents, strict=True))

    return jax.grad(total, argnums=(0, 1, 2))


def kernel_bytes(program: Program, lanes) -> int:
    """What the kernels of a program copy to and from the chip."""
    neighbours, width, columns = lanes.features.shape
    scalars, hidden, vectors = (rounded_up(x, ROWS) for x in (NODE[0], 2 * NODE[1] + EDGE[1], NODE[1]))
    rows, out = scalars + 3 * hidden, scalars + 4 * vectors
    features = lanes.features.size * (2 if program.precision == "bfloat16" else 4)
    chunk = rows * TILE * 4
    square = 3 * hidden * width + scalars * (width + hidden + scalars + vectors + 1)
    square += 9 * vectors * (hidden + 3 * vectors)
    read = features + lanes.sender.nbytes + lanes.weight.nbytes + rows * columns * 4 + square * 4
    copied = fetches(lanes, neighbours // forward.slots_at_once(neighbours, forward.SLOTS))
    total = read + out * columns * 4 + copied * chunk
    if program.what == "gradient":
        # Every chunk that a tile brings is fetched with its sums, which go back when it leaves.
        copied = fetches(lanes, 2 * (neighbours // backward.slots_at_once(neighbours, backward.SLOTS)))
        total += read + out * columns * 4 + 3 * copied * chunk
        total += features + rows * columns * 4 + square * 4
    return int(total)


def errors(precision: str, *, gpu: bool) -> dict[str, float]:
    """Of the fused form in this precision on a batch of one chain, and of the dense form in bfloat16."""
    batch = layer_batch(1)
    rng = np.random.default_rng(0)
    drawn = (tuple(batch.nodes), (batch.edges.scalars, batch.edges.vectors), tuple(batch.nodes))
    drawn = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), drawn)

    def found(form: str, precision: str):
        dtype = jnp.bfloat16 if precision == "bfloat16" else None
        graphdef, params = nnx.split(GVPConv(NODE, NODE, EDGE, dtype=dtype, rngs=nnx.Rngs(0)))

        def forward(params, nodes, features, _):
            conv = nnx.merge(graphdef, params)
            edges = EdgeFeatures(scalars=features[0], vectors=features[1], mask=batch.edges.mask)
            if form == "dense":
                return conv(batch._replace(nodes=HiddenNodes(*nodes), edges=edges))
            if gpu:
                return gpu_messages(conv.message, nodes, slot_edges(edges, batch.senders), interpret=True)
            return fused_messages(conv.message, nodes, lane_edges(edges, batch.senders), interpret=True)

        nodes, features, cotangents = drawn
        with jax.default_matmul_precision("highest" if precision == "bfloat16" else precision):
            out = jax.jit(forward)(params, nodes, features, None)
            gradient = jax.jit(gradient_of(forward))(params, nodes, features, None, cotangents)
        return jax.tree.leaves(out), jax.tree.leaves(gradient)

    def worst(form: str, precision: str) -> list[float]:
        pairs = [zip(*both, strict=True) for both in zip(found(form, precision), exact, strict=True)]
        return [max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in part) for part in pairs]

    exact = found("dense", "highest")
    result = dict(zip(("messages", "gradients"), worst("fused", precision), strict=True))
    if precision == "bfloat16":
        result |= dict(zip(("dense_messages", "dense_gradients"), worst("dense", precision), strict=True))
    return result


def fetches(lanes, passes: int) -> int:
    """Chunks that a kernel fetches which goes over the chunks of every tile so many times."""
    held = np.full(WINDOW, NOTHING)
    count = 0
    for first, last in zip(np.asarray(lanes.first), np.asarray(lanes.last), strict=True):
        for _ in range(passes):
            for chunk in range(first, last + 1):
                count += held[chunk % WINDOW] != chunk
                held[chunk % WINDOW] = chunk
    return count


def save(result: dict[str, Any]) -> None:
    """Writes the file anew."""
    write_whole(OUT, json.dumps(result, indent=1) + "\n")


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    names = [program.name for program in PROGRAMS]
    flags.add_argument("--only", nargs="+", choices=names, default=names, help="Only these programs.")
    wanted = flags.parse_args().only
    use_compilers()
    result = json.loads(OUT.read_text()) if OUT.is_file() else {}
    result = {
        "schema": "partoken.fused_layer/1",
        "command": "python -m experiments.fused_layer",
        "run": False,
        "jax": jax.__version__,
        "errors": {},
        "gpu_errors": {},
        "rows": {},
    } | result
    for name, precision in itertools.product(
        ("errors", "gpu_errors"), ("float32", "tensorfloat32", "bfloat16")
    ):
        if precision not in result[name]:
            result[name][precision] = errors(precision, gpu=name == "gpu_errors")
            save(result)
    for program in PROGRAMS:
        if program.name in wanted and program.name not in result["rows"]:
            result["rows"][program.name] = row = compiled(program)
            save(result)
            said = f"{row['bytes'] / 1e9:.2f} GB, of which {row['kernel_bytes'] / 1e9:.2f} GB by the kernels"
            print(f"{program.name}: compiled in {row['compile_s']} s, not run; {said}", flush=True)


if __name__ == "__main__":
    run_script(main)
