"""Where the time of a compiled step goes, component by component, from a profile of the step itself."""

from collections.abc import Callable
from typing import Any, TypedDict

from partoken_jax.timing.hlo import CONTAINERS, Module, Operation, Place
from partoken_jax.timing.trace import Profile, profile

MIXED_SHOWN = 8


class ComponentRow(TypedDict):
    model: str
    name: str
    direction: str
    """"forward", "backward" (with what rematerialisation computes again) or "update"."""
    ms: float
    share: float
    """Of the profiled step."""
    flops: float
    bytes: float


class MixedOperation(TypedDict):
    """A fused operation that spans components, and how its time was divided."""

    name: str
    ms: float
    shares: dict[str, float]


class Breakdown(TypedDict):
    model: str
    step_ms: float
    """Mean of the profiled steps; profiling makes them a little slower."""
    components: list[ComponentRow]
    unattributed_share: float
    """1 - Σ components / step: dispatch, gaps between operations, and operations that are not in the
    program's text. Negative would mean time counted twice."""
    mixed_share: float
    """Share of the step in fused operations that span components."""
    mixed: list[MixedOperation]
    """The longest of them."""


def break_down(model: str, text: str, call: Callable[[], Any], *, calls: int = 5) -> Breakdown:
    """Profiles a compiled program and attributes its time, operations and bytes to components.

    Args:
      model: what the rows are named after.
      text: optimised HLO of the program that `call` runs.
    """
    module = Module(text)
    operations = module.operations()
    containers = {name for name, o in operations.items() if o.opcode in CONTAINERS}
    products = {name for name, o in operations.items() if o.is_product}
    return attribute(model, operations, profile(call, module.name, containers, products, calls=calls))


def attribute(model: str, operations: dict[str, Operation], measured: Profile) -> Breakdown:
    """Divides the profiled time of every operation over its components."""
    seconds: dict[Place, float] = {}
    flops: dict[Place, float] = {}
    bytes_: dict[Place, float] = {}
    mixed: list[MixedOperation] = []
    for name, operation in operations.items():
        spent = measured.seconds.get(name, 0.0)
        for where, share in operation.shares.items():
            seconds[where] = seconds.get(where, 0.0) + share * spent
            flops[where] = flops.get(where, 0.0) + share * operation.flops * operation.runs
            bytes_[where] = bytes_.get(where, 0.0) + share * operation.bytes * operation.runs
        if len(operation.shares) > 1 and spent:
            shares = {f"{c} {d}": round(share, 4) for (c, d), share in operation.shares.items()}
            mixed.append({"name": name, "ms": 1e3 * spent, "shares": shares})
    step = measured.call_seconds
    rows: list[ComponentRow] = [
        {
            "model": model,
            "name": component,
            "direction": direction,
            "ms": 1e3 * spent,
            "share": spent / step,
            "flops": flops[component, direction],
            "bytes": bytes_[component, direction],
        }
        for (component, direction), spent in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    mixed.sort(key=lambda row: -row["ms"])
    return {
        "model": model,
        "step_ms": 1e3 * step,
        "components": rows,
        "unattributed_share": 1.0 - sum(seconds.values()) / step,
        "mixed_share": sum(row["ms"] for row in mixed) / (1e3 * step),
        "mixed": mixed[:MIXED_SHOWN],
    }


def program_cost(text: str) -> tuple[float, float]:
    """Floating-point operations and bytes of one call, every iteration of a loop counted (XLA's own analysis
    counts the body of a loop once)."""
    operations = Module(text).operations().values()
    return sum(o.flops * o.runs for o in operations), sum(o.bytes * o.runs for o in operations)
