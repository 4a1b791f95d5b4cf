"""Reads a compiled program: what every executed operation is, what it costs, and which component it belongs
to.

The text of an optimised HLO module (`compiled.as_text()`) names for every instruction the scope that made it
(`metadata.op_name`). Costs follow XLA's own cost analysis: one operation per element of an elementwise
result, 2·m·n·k for a matrix product, one per element that a reduction reads; bytes are what an operation
reads and writes at its border, and a slice or gather reads only what it returns.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

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

CONTAINERS = frozenset({"while", "call", "conditional"})
"""Operations that only run others."""

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"}
_FREE |= {"partition-id", "replica-id"}
_MOVES = {
    "copy",
    "copy-start",
    "copy-done",
    "broadcast",
    "reshape",
    "transpose",
    "slice",
    "concatenate",
    "pad",
}
_MOVES |= {"iota", "reverse", "gather", "dynamic-slice", "dynamic-update-slice", "convert", "bitcast-convert"}
_MOVES |= {"sort"}
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "f16": 2, "bf16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16, "token": 0}

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_OPCODE = re.compile(r"\s([a-z][\w\-]*)\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(r"\b(calls|body|condition|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Array(NamedTuple):
    """Element type and dimensions of one array."""

    dtype: str
    dims: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        return self.elements * _BYTES.get(self.dtype, 1)


@dataclass
class Instruction:
    name: str
    opcode: str
    results: list[Array]
    """One array, or the parts of a tuple."""
    operands: list[str]
    op_name: str
    called: list[str]
    trips: int
    """Iterations of a while loop, 1 where XLA does not know them and for everything else."""
    attributes: str = field(repr=False)
    is_root: bool = False

    @property
    def elements(self) -> int:
        return sum(r.elements for r in self.results)

    @property
    def bytes(self) -> int:
        return sum(r.bytes for r in self.results)


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
    """How often one call of the program executes it."""
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


class Module:
    """The computations of an optimised HLO module."""

    def __init__(self, text: str):
        """Parses `compiled.as_text()`. Raises ValueError for text without an entry computation."""
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        named = re.match(r"HloModule ([\w.\-]+)", text)
        self.name = named[1] if named else ""
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations.setdefault(header[2], {})
                if header[1]:
                    self.entry = header[2]
            elif match := _INSTRUCTION.match(line):
                instruction = _parse(match[2], match[3], is_root=match[1] is not None)
                current[instruction.name] = instruction
        if not self.entry:
            raise ValueError("the text has no ENTRY computation; give the text of a compiled program")

    def operations(self) -> dict[str, Operation]:
        """Every operation that the runtime executes on its own, by name, with its costs and its
        components."""
        found: dict[str, Operation] = {}
        self._collect(self.entry, 1, found)
        return found

    def _collect(self, computation: str, runs: int, found: dict[str, Operation]) -> None:
        instructions = self.computations[computation]
        places = self._places(computation)
        for name, instruction in instructions.items():
            if instruction.opcode in _FREE:
                continue
            if instruction.opcode in CONTAINERS:
                for called in instruction.called:
                    self._collect(called, runs * instruction.trips, found)
                cost, shares = Cost(0.0, 0.0), {places[name]: 1.0}
            else:
                cost, shares = self._cost(instruction, instructions), self._shares(instruction, places[name])
            if name in found:  # the same computation called from several places
                found[name].runs += runs
            else:
                found[name] = Operation(
                    name, instruction.opcode, runs, cost.flops, cost.bytes, shares, _is_product(instruction)
                )

    def _places(self, computation: str) -> dict[str, Place]:
        """Component and direction of every instruction. One that XLA made itself (a copy, a broadcast) has no
        scope: it belongs to whatever reads its result, else to what made its input."""
        instructions = self.computations[computation]
        known = {name: place(i.op_name) for name, i in instructions.items() if i.op_name}
        for name, instruction in instructions.items():
            if name not in known and instruction.opcode == "fusion":
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
                known[name] = candidates[0] if candidates else (OTHER, FORWARD)
        return known

    def _shares(self, instruction: Instruction, own: Place) -> dict[Place, float]:
        if instruction.opcode != "fusion":
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

    def _cost(self, instruction: Instruction, siblings: Mapping[str, Instruction]) -> Cost:
        if instruction.opcode == "fusion":
            inner = self.computations[instruction.called[0]]
            flops = sum(self._flops(i, inner) for i in inner.values())
            return Cost(flops, self._fusion_bytes(inner))
        read = sum(siblings[o].bytes for o in instruction.operands if o in siblings)
        if instruction.opcode in ("slice", "dynamic-slice", "gather"):
            read = instruction.bytes
        elif instruction.opcode == "dynamic-update-slice":
            update = siblings[instruction.operands[1]].bytes
            return Cost(0.0, 2 * update)
        elif instruction.opcode == "custom-call" and _target(instruction).startswith("__cublas"):
            # Its other result is a workspace.
            return Cost(self._flops(instruction, siblings), read + instruction.results[0].bytes)
        return Cost(self._flops(instruction, siblings), read + instruction.bytes)

    def _fusion_bytes(self, inner: Mapping[str, Instruction]) -> float:
        """Bytes that a fusion reads and writes. A parameter that is only sliced or gathered from counts what
        is taken from it; a root that updates a slice in place counts the slice."""
        total = 0.0
        for parameter in inner.values():
            if parameter.opcode != "parameter":
                continue
            names = {parameter.name}  # and what is only another view of it
            for instruction in inner.values():
                if instruction.opcode == "bitcast" and instruction.operands[0] in names:
                    names.add(instruction.name)
            uses = [i for i in inner.values() if names & set(i.operands) and i.name not in names]
            if uses and all(_takes_part(use, names) for use in uses):
                taken = sum(use.bytes for use in uses if use.opcode != "dynamic-update-slice")
                total += min(taken, parameter.bytes)
            else:
                total += parameter.bytes
        root = next(i for i in inner.values() if i.is_root)
        results = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
        for result in results:
            while result.opcode == "bitcast":
                result = inner[result.operands[0]]
            in_place = result.opcode == "dynamic-update-slice"
            total += inner[result.operands[1]].bytes if in_place else result.bytes
        return total

    def _flops(self, instruction: Instruction, siblings: Mapping[str, Instruction]) -> float:
        opcode = instruction.opcode
        if opcode in _FREE or opcode in _MOVES or opcode in CONTAINERS:
            return 0.0
        if opcode == "dot":
            return 2.0 * instruction.elements * _contracted(instruction, siblings, "lhs_contracting_dims")
        if opcode in ("reduce", "reduce-window"):
            return float(_operand_elements(instruction, siblings, 0))
        if opcode == "scatter":
            return float(_operand_elements(instruction, siblings, -1))
        if opcode == "custom-call":
            target = _target(instruction)
            if "gemm" in target or "matmul" in target:
                size = _contracted(instruction, siblings, "lhs_contracting_dimensions")
                return 2.0 * instruction.results[0].elements * size
            return 0.0
        if opcode == "fusion":
            inner = self.computations[instruction.called[0]]
            return sum(self._flops(i, inner) for i in inner.values())
        return float(instruction.elements)


def _is_product(instruction: Instruction) -> bool:
    if instruction.opcode == "custom-call":
        return any(word in _target(instruction) for word in ("gemm", "matmul"))
    return instruction.opcode == "dot" or (
        instruction.opcode == "fusion" and "kind=kCustom" in instruction.attributes
    )


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


def _parse(name: str, rest: str, *, is_root: bool) -> Instruction:
    # The result shape comes first; a tuple's is in parentheses.
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    results = [_array(m) for m in _SHAPE.finditer(rest[:end])]
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        raise ValueError(f"cannot read the instruction {name} = {rest[:120]}")
    close = _closing(rest, opcode.end() - 1)
    arguments, attributes = rest[opcode.end() : close], rest[close + 1 :]
    op_name = _OP_NAME.search(attributes)
    called = [m[2] for m in _CALLED.finditer(attributes)]
    if branches := _BRANCHES.search(attributes):
        called += [branch.strip().lstrip("%") for branch in branches[1].split(",")]
    if opcode[1] not in CONTAINERS and opcode[1] != "fusion":
        called = []  # what a reduction or a sort applies is not executed on its own
    trips = _TRIPS.search(attributes)
    return Instruction(
        name=name,
        opcode=opcode[1],
        results=results,
        operands=re.findall(r"%([\w.\-]+)", arguments),
        op_name=op_name[1] if op_name else "",
        called=called,
        trips=int(trips[1]) if trips else 1,
        attributes=attributes,
        is_root=is_root,
    )


def _closing(text: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"unbalanced parentheses in {text[:120]}")


def _array(match: re.Match) -> Array:
    return Array(match[1], tuple(int(d) for d in match[2].split(",") if d))


def _takes_part(instruction: Instruction, names: set[str]) -> bool:
    sliced = ("slice", "dynamic-slice", "gather", "dynamic-update-slice")
    return instruction.opcode in sliced and instruction.operands[0] in names


def _target(instruction: Instruction) -> str:
    match = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
    return match[1] if match else ""


def _operand_elements(instruction: Instruction, siblings: Mapping[str, Instruction], place: int) -> int:
    operand = siblings.get(instruction.operands[place])
    return operand.elements if operand else instruction.elements


def _contracted(instruction: Instruction, siblings: Mapping[str, Instruction], key: str) -> int:
    """Length of the summed axis of a matrix product: of its left operand, `key` names the axes."""
    match = re.search(rf'"?{key}"?[=:][{{\[]([^}}\]]*)[}}\]]', instruction.attributes)
    left = siblings.get(instruction.operands[0])
    if match is None or left is None:
        return 1
    axes = json.loads("[" + match[1].replace('"', "") + "]")
    return math.prod(left.results[0].dims[axis] for axis in axes)
