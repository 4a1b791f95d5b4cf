"""Steps compiled for an accelerator that need not be there: XLA's own compilers for TPUs (libtpu) and for
NVIDIA GPUs run on any machine, and say what a program would need and move.

Nothing here runs the program. Times are the compiler's estimate, or arithmetic over what the maker of the
device says of it.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from partoken_jax.config import ConfigError, ModelConfig
from partoken_jax.model_config import Kind, Precision
from partoken_jax.nn.forms import Target
from partoken_jax.timing.batches import timing_data
from partoken_jax.timing.hlo import CONTAINERS, KINDS, Module
from partoken_jax.timing.programs import timing_settings, train_config
from partoken_jax.timing_config import TimingConfig
from partoken_jax.training.devices import AXIS, SAME, SPLIT
from partoken_jax.training.state import abstract_state
from partoken_jax.training.step import make_eval_step, make_train_step

T = TypeVar("T")
Pass = Literal["forward", "train_step"]
"""Inference, and the whole training step, as in `timing.programs`."""


class Device(NamedTuple):
    """What a program is compiled for; all numbers are of one chip."""

    title: str
    platform: Literal["tpu", "cuda"]
    topology: str
    """As `jax.experimental.topologies` names it."""
    chips: int
    memory_bytes: float
    bytes_per_s: float
    flops_per_s: Mapping[Precision, float]
    """Of matrix products at each precision of the model."""
    clock_hz: float | None
    """That turns the compiler's cycles into time; None where the compiler tells none."""
    source: str


TPU_SOURCE = (
    "Google Cloud's page of the chip; float32 and TensorFloat32 are six and three bfloat16 products, as XLA "
    "makes them; the clock follows from the peak and the matrix units"
)
_V5E: dict[str, Any] = {
    "platform": "tpu",
    "memory_bytes": 16e9,
    "bytes_per_s": 819e9,
    "flops_per_s": {"float32": 197e12 / 6, "tensorfloat32": 197e12 / 3, "bfloat16": 197e12},
    "clock_hz": 197e12 / (2 * 4 * 128 * 128),  # four matrix units of 128 × 128 multiply-adds
    "source": TPU_SOURCE,
}
DEVICES: Mapping[str, Device] = {
    "v5e": Device(title="TPU v5e", topology="v5e:1x1", chips=1, **_V5E),
    "v5e-8": Device(title="8 × TPU v5e", topology="v5e:2x4", chips=8, **_V5E),
    "v6e": Device(
        title="TPU v6e",
        platform="tpu",
        topology="v6e:1x1",
        chips=1,
        memory_bytes=32e9,
        bytes_per_s=1640e9,
        flops_per_s={"float32": 918e12 / 6, "tensorfloat32": 918e12 / 3, "bfloat16": 918e12},
        clock_hz=None,
        source=TPU_SOURCE,
    ),
    "h100": Device(
        title="H100 SXM",
        platform="cuda",
        topology="1x1x1",
        chips=1,
        memory_bytes=80e9,
        bytes_per_s=3.35e12,
        # Strict float32 has no matrix units; the others without sparsity.
        flops_per_s={"float32": 67e12, "tensorfloat32": 494.5e12, "bfloat16": 989.5e12},
        clock_hz=None,
        source="NVIDIA's data sheet of the H100 SXM, products without sparsity",
    ),
}
"""By the name that a result calls them."""

PACKAGES = {"tpu": ("libtpu", "libtpu"), "cuda": ("jax_cuda13_plugin", "jax-cuda13-plugin")}
"""Module and distribution of the compiler of a platform."""
EXTRAS = {"tpu": "tpu", "cuda": "cuda13"}
CUDA_TARGET = Path(__file__).parent / "h100.txtpb"
"""What XLA would read from the driver of an H100."""


class CompiledFor(NamedTuple):
    """A program for a device, and what its compiler said of it."""

    text: str
    """The optimised HLO module."""
    facts: dict[str, Any]
    """Bytes of memory on one chip, seconds of compilation, and the versions of what compiled it."""


def missing_compiler(device: Device) -> str | None:
    """One sentence that says what to install where this interpreter cannot compile for a device."""
    module, distribution = PACKAGES[device.platform]
    if find_spec(module) is not None:
        return None
    extra = EXTRAS[device.platform]
    return (
        f"{distribution}, the compiler for {device.title}, is not installed for this Python; install it "
        f"with pip install -e '.[{extra}]' (no such device is needed)"
    )


def use_compilers() -> None:
    """Sets what the compilers read when JAX starts; call it before any other use of JAX.

    The host is a CPU whatever else it has, libtpu asks no cloud for its machine and lets other processes
    compile beside it, and XLA does not try kernels out on a GPU that is not there.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0",
    }


def device_mesh(device: Device) -> Mesh:
    """The chips of a device, as a mesh for data-parallel steps. Raises ConfigError where its compiler is not
    installed."""
    if said := missing_compiler(device):
        raise ConfigError(said)
    more: dict[str, Any] = {}
    if device.platform == "cuda":
        more = {"topology": device.topology, "target_config": CUDA_TARGET.read_text()}
    found = topologies.get_topology_desc(device.topology, device.platform, **more)
    auto = (jax.sharding.AxisType.Auto,)
    return Mesh(np.array(found.devices[: device.chips]), (AXIS,), axis_types=auto)


def compile_step(
    device: Device,
    name: Pass,
    kind: Kind,
    model: ModelConfig,
    *,
    proteins: int,
    residues: int,
    neighbours: int = 30,
) -> CompiledFor:
    """Compiles the project's own step for synthetic proteins; on several chips each gets its part of them.

    Args:
      model: of this `kind`, with its precision and its form of message passing; what is "auto" is as the
        device's platform has it.
      proteins: on all chips together.
    """
    mesh = device_mesh(device)
    config = TimingConfig(
        batch_size=proteins // device.chips, residues=residues, neighbours=neighbours, model=model
    )
    data = timing_data(config)
    train = train_config(config, data, kind)
    graphdef, state = abstract_state(train)
    shared = mesh if device.chips > 1 else None
    target = Target("tpu" if device.platform == "tpu" else "gpu")
    one = SingleDeviceSharding(mesh.devices.flat[0])
    same, split = (NamedSharding(mesh, spec) if shared else one for spec in (SAME, SPLIT))
    graph = _abstract(data.batch, split, (device.chips,) if shared else ())
    if name == "train_step":
        step: Any = make_train_step(graphdef, bypass_codebook=False, mesh=shared, target=target)
        arguments: tuple[Any, ...] = (_abstract(state, same), graph, _abstract(timing_settings(train), same))
    else:
        step = make_eval_step(graphdef, bypass_codebook=False, mesh=shared, target=target)
        rest = _abstract((state.params, state.codebook, np.float32(1.0)), same)
        arguments = (*rest[:2], graph, rest[2])
    return compile_for(device, step, arguments)


def compile_for(device: Device, step: Any, arguments: tuple[Any, ...]) -> CompiledFor:
    """Compiles a `jax.jit` function for arguments that are only shapes, with shardings on the device."""
    start = time.perf_counter()
    lowered = step.trace(*arguments).lower(lowering_platforms=(device.platform,))
    middle, cpu = time.perf_counter(), time.process_time()
    compiled = lowered.compile()
    end, memory = time.perf_counter(), compiled.memory_analysis()
    facts = {
        "lower_s": round(middle - start, 2),
        "compile_s": round(end - middle, 2),
        "compile_cpu_s": round(time.process_time() - cpu, 2),
        "peak_bytes": memory.peak_memory_in_bytes,
        "reserved_bytes": reserved_bytes(memory),
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "versions": versions(device),
    }
    return CompiledFor(compiled.as_text(), facts)


def reserved_bytes(memory: Any) -> int:
    """Memory of one chip that a program asks for: its temporaries, with the gaps between them, arguments,
    results that do not reuse an argument, and its code."""
    return (
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.generated_code_size_in_bytes
    )


def versions(device: Device) -> dict[str, str]:
    """Of what compiled a program."""
    found = {}
    for name in ("jax", "jaxlib", PACKAGES[device.platform][1]):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _abstract(tree: T, sharding: Any, leading: tuple[int, ...] = ()) -> T:
    """Shapes in place of arrays, with axes in front and a place on the device."""

    def shape(x):
        x = x if isinstance(x, jax.ShapeDtypeStruct) else jax.eval_shape(lambda: jnp.asarray(x))
        return jax.ShapeDtypeStruct((*leading, *x.shape), x.dtype, sharding=sharding)

    return jax.tree.map(shape, tree)


class PartCost(TypedDict):
    name: str
    flops: float
    bytes: float
    ms: float
    """As `ProgramCost.estimate_ms`."""


class ProgramCost(TypedDict):
    """What a program for one chip does in one call, loops multiplied out; compiled, not run."""

    flops: float
    bytes: float
    """Between the chip and its memory."""
    compute_ms: float
    """Operations at the device's ceiling for products of this precision."""
    memory_ms: float
    """Bytes at the device's ceiling."""
    predicted_ms: float
    """The larger of the two: what the program cannot take less than."""
    estimate_ms: float
    """Its operations one after the other, each as long as the compiler estimates; where it does not, as long
    as its bytes or its arithmetic need at the ceilings, whichever is longer. What the program starts beside
    others, such as copies to the chip, counts no time."""
    cycles_ms: float
    """The compiler's part of that."""
    operations: int
    """That the runtime starts."""
    collectives: dict[str, int]
    """How often chips exchange something, by kind."""
    collective_bytes: float
    """That every chip brings to that."""
    host_calls: int
    uncounted_loops: int
    """Loops whose bodies count once, because nothing tells how often they run."""
    components: list[PartCost]
    """By falling estimate."""
    kinds: list[PartCost]
    """By `timing.hlo.KINDS`."""


def program_cost_on(device: Device, precision: Precision, text: str) -> ProgramCost:
    """Reads what a compiled program costs on one chip of a device.

    Args:
      text: optimised HLO of a program for this device.
    """
    module = Module(text)
    operations = [o for o in module.operations().values() if o.runs and o.opcode not in CONTAINERS]
    ceiling = device.flops_per_s[precision]
    by_component: dict[str, PartCost] = {}
    by_kind: dict[str, PartCost] = {name: _nothing(name) for name in KINDS}
    cycles_ms = 0.0
    for operation in operations:
        flops, moved = operation.flops * operation.runs, operation.bytes * operation.runs
        if operation.cycles and device.clock_hz is not None:
            ms = 1e3 * operation.cycles * operation.runs / device.clock_hz
            cycles_ms += ms
        elif operation.opcode.endswith("-start"):  # runs beside the others
            ms = 0.0
        else:
            ms = 1e3 * max(flops / ceiling, moved / device.bytes_per_s)
        parts = [(by_kind[operation.kind], 1.0)]
        for (name, _), share in operation.shares.items():
            parts.append((by_component.setdefault(name, _nothing(name)), share))
        for row, share in parts:
            row["flops"] += share * flops
            row["bytes"] += share * moved
            row["ms"] += share * ms
    rows = sorted(by_component.values(), key=lambda row: -row["ms"])
    for row in (*rows, *by_kind.values()):
        row["flops"], row["bytes"] = round(row["flops"]), round(row["bytes"])
    flops, moved = sum(row["flops"] for row in rows), sum(row["bytes"] for row in rows)
    compute_ms, memory_ms = 1e3 * flops / ceiling, 1e3 * moved / device.bytes_per_s
    collectives = module.collectives()
    return {
        "flops": flops,
        "bytes": moved,
        "compute_ms": compute_ms,
        "memory_ms": memory_ms,
        "predicted_ms": max(compute_ms, memory_ms),
        "estimate_ms": sum(row["ms"] for row in rows),
        "cycles_ms": cycles_ms,
        "operations": sum(o.runs for o in operations),
        "collectives": {name: runs for name, (runs, _) in collectives.items()},
        "collective_bytes": sum(brought for _, brought in collectives.values()),
        "host_calls": module.host_calls,
        "uncounted_loops": module.uncounted_loops,
        "components": rows,
        "kinds": list(by_kind.values()),
    }


def _nothing(name: str) -> PartCost:
    return {"name": name, "flops": 0.0, "bytes": 0.0, "ms": 0.0}
