"""Reads the text of an optimised HLO module: its computations, instructions and arrays.

Modules of all back ends are read. Those for a TPU lay arrays out in tiles, keep some of them on the chip, and
do not say how often a loop runs.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

CONTAINERS = frozenset({"while", "call", "conditional", "async-start"})
"""Operations that only run others."""

FUSIONS = frozenset({"fusion", "fusion-start"})
"""Operations that are several in one."""

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "f16": 2, "bf16": 2, "s16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4}
_BYTES |= {"f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16, "token": 0}

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([\d,]*)(?::([^{}]*))?\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_OPCODE = re.compile(r"\s([a-z][\w\-]*)\(")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(r"\b(calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class Array(NamedTuple):
    """One array, and how it lies in memory."""

    dtype: str
    dims: tuple[int, ...]
    layout: tuple[int, ...] = ()
    """The axes, from the one whose elements lie side by side."""
    tile: tuple[int, ...] = ()
    """Rows and columns that are stored together, even where the array does not fill them; on a TPU."""
    on_chip: bool = False
    """Whether the compiler keeps it beside the arithmetic, where reading it moves nothing."""

    @property
    def elements(self) -> int:
        return math.prod(self.dims)

    @property
    def stored_bytes(self) -> int:
        """Wherever it is, with what its last tiles are filled up by."""
        ordered = [self.dims[axis] for axis in self.layout] or list(reversed(self.dims))
        ordered += [1] * (len(self.tile) - len(ordered))
        for place, size in enumerate(reversed(self.tile)):
            ordered[place] = -(-ordered[place] // size) * size
        return math.prod(ordered) * _BYTES.get(self.dtype, 1)

    @property
    def bytes(self) -> int:
        """That reading all of it moves."""
        return 0 if self.on_chip else self.stored_bytes


@dataclass
class Instruction:
    name: str
    opcode: str
    results: list[Array]
    """One array, or the parts of a tuple."""
    operands: list[str]
    op_name: str
    called: list[str]
    trips: int | None
    """Iterations of a while loop, None where nothing tells them; 1 for everything else."""
    cycles: int
    """By the estimate of a TPU's compiler; 0 where it makes none."""
    attributes: str = field(repr=False)
    literal: str = ""
    """Value of a constant, number of a parameter."""
    is_root: bool = False

    @property
    def elements(self) -> int:
        return sum(r.elements for r in self.results)

    @property
    def bytes(self) -> int:
        return sum(r.bytes for r in self.results)

    @property
    def stored_bytes(self) -> int:
        return sum(r.stored_bytes for r in self.results)


Computation = dict[str, Instruction]
"""By name, in the order in which they run."""


def parse_module(text: str) -> tuple[str, str, dict[str, Computation]]:
    """Name of a module, name of its entry, and all its computations. Raises ValueError for text without an
    entry computation."""
    computations: dict[str, Computation] = {}
    entry = ""
    named = re.match(r"HloModule ([\w.\-]+)", text)
    current: Computation = {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], {})
            if header[1]:
                entry = header[2]
        elif match := _INSTRUCTION.match(line):
            current[match[2]] = _parse(match[2], match[3], is_root=match[1] is not None)
    if not entry:
        raise ValueError("the text has no ENTRY computation; give the text of a compiled program")
    for computation in computations.values():
        for instruction in computation.values():
            if instruction.opcode == "while" and instruction.trips is None:
                instruction.trips = _counted(instruction, computation, computations)
    return named[1] if named else "", entry, computations


def _counted(loop: Instruction, around: Computation, computations: Mapping[str, Computation]) -> int | None:
    """Iterations of a loop whose condition is "counter < constant", as `lax.scan` and `lax.fori_loop` write
    it: the constant less what the counter starts from. None for any other loop."""
    named = dict(_CALLED.findall(loop.attributes))
    condition = computations[named["condition"]]
    test = next(i for i in condition.values() if i.is_root)
    if test.opcode != "compare" or "direction=LT" not in test.attributes:
        return None
    counter, limit = (condition[operand] for operand in test.operands)
    index = re.search(r"index=(\d+)", counter.attributes)
    if counter.opcode != "get-tuple-element" or limit.opcode != "constant" or index is None:
        return None
    start = around.get(around[loop.operands[0]].operands[int(index[1])])
    while start is not None and start.opcode in ("copy", "bitcast"):
        start = around.get(start.operands[0])
    if start is None or start.opcode != "constant":
        return None
    return max(0, int(limit.literal) - int(start.literal))


def _parse(name: str, rest: str, *, is_root: bool) -> Instruction:
    # The result shape comes first; a tuple's is in parentheses.
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        raise ValueError(f"cannot read the instruction {name} = {rest[:120]}")
    close = _closing(rest, opcode.end() - 1)
    arguments, attributes = rest[opcode.end() : close], rest[close + 1 :]
    op_name, trips, cycles = (p.search(attributes) for p in (_OP_NAME, _TRIPS, _CYCLES))
    called = [m[2] for m in _CALLED.finditer(attributes)]
    if branches := _BRANCHES.search(attributes):
        called += [branch.strip().lstrip("%") for branch in branches[1].split(",")]
    if opcode[1] not in CONTAINERS | FUSIONS:
        called = []  # what a reduction or a sort applies is not executed on its own
    return Instruction(
        name=name,
        opcode=opcode[1],
        results=list(_arrays(rest[:end])),
        operands=re.findall(r"%([\w.\-]+)", arguments),
        op_name=op_name[1] if op_name else "",
        called=called,
        trips=int(trips[1]) if trips else None if opcode[1] == "while" else 1,
        cycles=int(cycles[1]) if cycles else 0,
        attributes=attributes,
        literal=arguments if opcode[1] in ("constant", "parameter") else "",
        is_root=is_root,
    )


def _closing(text: str, opening: int) -> int:
    depth = 0
    for position in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"unbalanced parentheses in {text[:120]}")


def _arrays(text: str) -> Iterator[Array]:
    for dtype, dims, layout, more in _SHAPE.findall(text):
        tile, space = _TILE.search(more), _SPACE.search(more)
        yield Array(
            dtype,
            _integers(dims),
            _integers(layout),
            _integers(tile[1]) if tile else (),
            on_chip=space is not None and space[1] != "0",
        )


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(d) for d in text.split(",") if d)
