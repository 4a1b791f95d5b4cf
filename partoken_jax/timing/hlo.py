"""Reads a compiled program: what every executed operation is, what it costs, and which component it belongs
to.

The text of an optimised HLO module (`compiled.as_text()`) names for every instruction the scope that made it
(`metadata.op_name`). Costs follow XLA's own cost analysis: one operation per element of an elementwise
result, 2·m·n·k for a matrix product, one per element that a reduction reads; bytes are what an operation
reads and writes at its border, and a slice or gather reads only what it returns. On a TPU an array counts
with what fills up its last tiles, and not at all while it is on the chip.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from partoken_jax.timing.hlo_products import product_flops
from partoken_jax.timing.hlo_text import CONTAINERS, FUSIONS, Computation, Instruction, parse_module

COMPONENTS = (
    "features",
    "embedding",
    "conv",
    "feed_forward",
    "residual_norm",
    "output_projection",
    "pooling",
    "partitioner",
    "codebook",
    "attention",
    "fusion",
    "classifier",
    "losses",
    "optimiser",
    "metrics",
)
"""The name scopes of the models and the training step; an operation belongs to the innermost one it is in."""

OTHER = "other"
"""Component of operations outside every scope, such as the bookkeeping of the loop over layers."""

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
"""What devices send each other."""

PRODUCTS, GATHERS, COPIES, REST = "products", "gathers", "copies", "rest"
KINDS = (PRODUCTS, GATHERS, COPIES, REST)
"""What an operation is about: a matrix product, with what is fused to it, or a kernel of our own; rows by
index (gather, scatter, sort); only moving arrays, as layouts want it; or elementwise work and sums."""

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"}
_FREE |= {"partition-id", "replica-id"}
_MOVES = {
    "copy",
    "copy-start",
    "slice-start",
    "broadcast",
    "reshape",
    "transpose",
    "slice",
    "concatenate",
    "pad",
}
_MOVES |= {"iota", "reverse", "gather", "dynamic-slice", "dynamic-update-slice", "convert", "bitcast-convert"}
_MOVES |= {"sort"}
_TAKES = {"slice", "dynamic-slice", "gather", "dynamic-update-slice"}
_KERNELS = ("tpu_custom_call", "mosaic_gpu")
"""How the names of library calls begin that run a Pallas kernel."""
_NOTHING = {"AllocateBuffer", "ConcatBitcast", "SliceBitcast", "AssumeGatherIndicesInBound"}
"""What a TPU's compiler tells itself by a library call."""


class Cost(NamedTuple):
    """Work of a program, or of a part of it."""

    flops: float
    bytes: float


Place = tuple[str, str]
"""A component and a direction."""


@dataclass
class Operation:
    """One instruction that the runtime executes on its own, such as a fusion."""

    name: str
    opcode: str
    runs: int
    """How often one call of the program executes it. Of the branches of a conditional, the one that moves
    most bytes counts as taken and the others as not."""
    flops: float
    """Per run."""
    bytes: float
    """Per run."""
    shares: dict[Place, float]
    """Which components its work belongs to; sums to 1. More than one only for a fusion that spans components:
    its time is divided in proportion to the operations that each component's instructions in it perform
    (at least one per element of their results)."""
    is_product: bool = False
    """A matrix product, by XLA itself or by a library that it calls."""
    cycles: int = 0
    """Per run, by the estimate of a TPU's compiler; 0 where it makes none."""
    kind: str = REST
    """One of KINDS."""


class Module:
    """The computations of an optimised HLO module."""

    def __init__(self, text: str):
        """Parses `compiled.as_text()`. Raises ValueError for text without an entry computation."""
        self.name, self.entry, self.computations = parse_module(text)
        instructions = [i for c in self.computations.values() for i in c.values()]
        self._tiled = any(result.tile for i in instructions for result in i.results)
        self.uncounted_loops = sum(i.trips is None for i in instructions)
        """Loops whose iterations nothing tells; their bodies count once."""
        self.host_calls = sum(_calls_host(i) for i in instructions)
        """Places in the program where the device waits for the host."""

    def operations(self) -> dict[str, Operation]:
        """Every operation that the runtime executes on its own, by name, with its costs and its
        components."""
        found: dict[str, Operation] = {}
        self._collect(self.entry, 1, found)
        return found

    def collectives(self) -> dict[str, tuple[int, float]]:
        """By kind of collective: how often one call of the program runs one, and the bytes that each device
        brings to all of them together."""
        found: dict[str, tuple[int, float]] = {}
        instructions = {name: i for c in self.computations.values() for name, i in c.items()}
        for name, operation in self.operations().items():
            kind = operation.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                brought = sum(instructions[o].stored_bytes for o in instructions[name].operands)
                runs, total = found.get(kind, (0, 0.0))
                found[kind] = (runs + operation.runs, total + operation.runs * brought)
        return found

    def _collect(
        self, computation: str, runs: int, found: dict[str, Operation], around: Place = (OTHER, FORWARD)
    ) -> None:
        instructions = self.computations[computation]
        places = self._places(computation, around)
        for name, instruction in instructions.items():
            if instruction.opcode in _FREE:
                continue
            if instruction.opcode in CONTAINERS:
                taken = set(instruction.called)
                if instruction.opcode == "conditional":
                    taken = {max(instruction.called, key=self._moved)}
                for called in instruction.called:
                    inside = runs * (instruction.trips or 1) * (called in taken)
                    self._collect(called, inside, found, places[name])
                cost, shares = Cost(0.0, 0.0), {places[name]: 1.0}
            else:
                cost, shares = self._cost(instruction, instructions), self._shares(instruction, places[name])
            if name in found:  # the same computation called from several places
                found[name].runs += runs
            else:
                found[name] = Operation(
                    name,
                    instruction.opcode,
                    runs,
                    cost.flops,
                    cost.bytes,
                    shares,
                    _is_product(instruction),
                    instruction.cycles,
                    self._kind(instruction),
                )

    def _kind(self, instruction: Instruction) -> str:
        inside = list(self._within(instruction))
        if any(_is_product(i) and i.opcode not in FUSIONS for i in inside):
            return PRODUCTS
        if instruction.opcode == "custom-call" and _target(instruction).startswith(_KERNELS):
            return PRODUCTS
        opcodes = {i.opcode for i in inside}
        if opcodes & {"gather", "scatter", "sort"}:
            return GATHERS
        return COPIES if opcodes <= _MOVES | _FREE | FUSIONS | {"copy-done", "slice-done"} else REST

    def _within(self, instruction: Instruction) -> Iterator[Instruction]:
        yield instruction
        for called in instruction.called if instruction.opcode in FUSIONS else ():
            for inner in self.computations[called].values():
                yield from self._within(inner)

    def _moved(self, computation: str) -> float:
        found: dict[str, Operation] = {}
        self._collect(computation, 1, found)
        return sum(o.bytes * o.runs for o in found.values())

    def _places(self, computation: str, around: Place) -> dict[str, Place]:
        """Component and direction of every instruction. One that XLA made itself (a copy, a broadcast) has no
        scope: it belongs to whatever reads its result, else to what made its input, else to where the
        computation is called (`around`)."""
        instructions = self.computations[computation]
        known = {name: place(i.op_name) for name, i in instructions.items() if i.op_name}
        for name, instruction in instructions.items():
            if name not in known and instruction.opcode in FUSIONS:
                inner = [i.op_name for c in instruction.called for i in self.computations[c].values()]
                if named := [op_name for op_name in inner if op_name]:
                    known[name] = place(named[-1])
        readers: dict[str, list[str]] = {}
        for name, instruction in instructions.items():
            for operand in instruction.operands:
                readers.setdefault(operand, []).append(name)
        for name in reversed(instructions):  # users come after what they use
            if name not in known:
                candidates = [known[reader] for reader in readers.get(name, []) if reader in known]
                if candidates:
                    known[name] = candidates[0]
        for name, instruction in instructions.items():
            if name not in known:
                candidates = [known[operand] for operand in instruction.operands if operand in known]
                known[name] = candidates[0] if candidates else around
        return known

    def _shares(self, instruction: Instruction, own: Place) -> dict[Place, float]:
        if instruction.opcode not in FUSIONS:
            return {own: 1.0}
        work: dict[Place, float] = {}
        for called in instruction.called:
            inner = self.computations[called]
            for inner_instruction in inner.values():
                if inner_instruction.opcode in _FREE or not inner_instruction.op_name:
                    continue
                where = place(inner_instruction.op_name)
                amount = max(self._flops(inner_instruction, inner), inner_instruction.elements)
                work[where] = work.get(where, 0.0) + amount
        total = sum(work.values())
        return {where: amount / total for where, amount in work.items()} if total else {own: 1.0}

    def _cost(self, instruction: Instruction, siblings: Computation) -> Cost:
        opcode = instruction.opcode
        if opcode in FUSIONS:
            inner = self.computations[instruction.called[0]]
            parameters = [i.name for i in inner.values() if i.opcode == "parameter"]
            moved = sum(self._read(inner, p) for p in parameters) + self._written(inner)
            return Cost(self._flops(instruction, siblings), moved)
        if opcode.endswith(("-done", "-update")):  # of what a start began, where it counts
            return Cost(0.0, 0.0)
        if opcode == "custom-call" and _target(instruction) in _NOTHING:
            return Cost(0.0, 0.0)
        if opcode in ("copy-start", "slice-start"):  # its results: both sides, and a flag
            source, target = instruction.results[:2]
            read = 0 if source.on_chip else min(source.stored_bytes, target.stored_bytes)
            return Cost(0.0, read + target.bytes)
        read = sum(siblings[o].bytes for o in instruction.operands if o in siblings)
        if opcode in ("slice", "dynamic-slice", "gather"):
            source = siblings[instruction.operands[0]].results[0]
            read = 0 if source.on_chip else instruction.stored_bytes
        elif opcode == "dynamic-update-slice":
            update = siblings[instruction.operands[1]].bytes
            return Cost(0.0, 2 * update)
        elif opcode == "custom-call" and _target(instruction).startswith("__cublas"):
            # Its other result is a workspace.
            return Cost(self._flops(instruction, siblings), read + instruction.results[0].bytes)
        moved = max(read + instruction.bytes, _told(instruction, "bytes_accessed"))
        return Cost(self._flops(instruction, siblings), moved)

    def _read(self, inner: Computation, parameter: str) -> float:
        """Bytes that a fusion reads of a parameter. One that is only sliced or gathered from counts what is
        taken from it."""
        array = inner[parameter]
        if not array.bytes:
            return 0.0
        names = self._views(inner, parameter)
        taken = 0.0
        for use in inner.values():
            if use.name in names or not names & set(use.operands):
                continue
            if use.opcode == "fusion":  # those of a TPU hold others
                deeper, inside = self._inside(use, names)
                taken += sum(self._read(deeper, name) for name in inside)
            elif use.opcode not in _TAKES or use.operands[0] not in names:
                return float(array.bytes)
            elif use.opcode != "dynamic-update-slice":
                taken += use.stored_bytes
        # A TPU has no cache that would hold a row for the next time that it is gathered.
        return taken if self._tiled else min(taken, array.bytes)

    def _views(self, inner: Computation, parameter: str) -> set[str]:
        """A parameter and what is only another view of it, such as a fusion that does nothing else."""
        names = {parameter}
        for instruction in inner.values():
            if instruction.opcode == "bitcast" and instruction.operands[0] in names:
                names.add(instruction.name)
            elif instruction.opcode == "fusion" and names & set(instruction.operands):
                deeper, inside = self._inside(instruction, names)
                root = next(i.name for i in deeper.values() if i.is_root)
                if any(root in self._views(deeper, name) for name in inside):
                    names.add(instruction.name)
        return names

    def _inside(self, fusion: Instruction, names: set[str]) -> tuple[Computation, list[str]]:
        """What a fusion runs, and what some of its operands are called there."""
        deeper = self.computations[fusion.called[0]]
        numbers = {int(i.literal): i.name for i in deeper.values() if i.opcode == "parameter"}
        return deeper, [numbers[place] for place, name in enumerate(fusion.operands) if name in names]

    def _written(self, inner: Computation) -> float:
        """Bytes that a fusion writes. A result that updates a slice in place counts the slice."""
        root = next(i for i in inner.values() if i.is_root)
        results = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
        total = 0.0
        for result in results:
            on_chip = not result.bytes
            while result.opcode == "bitcast":
                result = inner[result.operands[0]]
            if result.opcode == "dynamic-update-slice":
                total += 0 if on_chip else inner[result.operands[1]].stored_bytes
            elif result.opcode == "fusion":
                total += 0 if on_chip else self._written(self.computations[result.called[0]])
            else:
                total += 0 if on_chip else result.stored_bytes
        return total

    def _flops(self, instruction: Instruction, siblings: Computation) -> float:
        opcode = instruction.opcode
        if opcode in _FREE or opcode in _MOVES or opcode in CONTAINERS or opcode.endswith("-done"):
            return 0.0
        if opcode in ("dot", "convolution"):
            return product_flops(instruction, siblings)
        if opcode in ("reduce", "reduce-window"):
            return float(_operand_elements(instruction, siblings, 0))
        if opcode == "scatter":
            return float(_operand_elements(instruction, siblings, -1))
        if opcode == "custom-call":
            is_product = _is_product(instruction)
            return product_flops(instruction, siblings) if is_product else _told(instruction, "flops")
        if opcode in FUSIONS:
            inner = self.computations[instruction.called[0]]
            return sum(self._flops(i, inner) for i in inner.values())
        return float(instruction.elements)


def _is_product(instruction: Instruction) -> bool:
    if instruction.opcode == "custom-call":
        return any(word in _target(instruction) for word in ("gemm", "matmul"))
    return instruction.opcode in ("dot", "convolution") or (
        instruction.opcode == "fusion" and "kind=kCustom" in instruction.attributes
    )


def _told(instruction: Instruction, what: str) -> float:
    """What the author of a Pallas kernel says of its cost (`pallas_call(cost_estimate=)`); 0 of all else."""
    told = re.search(rf'"cost_estimate":\{{[^}}]*"{what}":"?(\d+)', instruction.attributes)
    return float(told[1]) if told else 0.0


def _calls_host(instruction: Instruction) -> bool:
    """Whether an instruction waits for the host: a callback, or a transfer that it begins itself."""
    if instruction.opcode == "custom-call":
        return "callback" in _target(instruction)
    if instruction.opcode in ("send", "recv"):
        return "is_host_transfer=true" in instruction.attributes
    return instruction.opcode in ("infeed", "outfeed")


def place(op_name: str) -> Place:
    """Component and direction of an operation from its scopes, e.g.
    "jit(step)/transpose(jvp(encoder))/conv/dot".

    The component is the innermost scope that is in COMPONENTS. What jax made by transposition is the backward
    pass, and so is what rematerialisation computes again for it; the optimiser is a direction of its own, the
    update.
    """
    component = OTHER
    scopes = op_name.split("/")
    for scope in scopes:
        for word in re.findall(r"[\w.\-]+", scope):
            if word in COMPONENTS:
                component = word
    if component == "optimiser":
        return component, UPDATE
    backward = any("transpose(" in scope or scope.startswith("rematted_computation") for scope in scopes)
    return component, BACKWARD if backward else FORWARD


def _target(instruction: Instruction) -> str:
    match = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return match[1] if match else ""


def _operand_elements(instruction: Instruction, siblings: Computation, place: int) -> int:
    operand = siblings.get(instruction.operands[place])
    return operand.elements if operand else instruction.elements
