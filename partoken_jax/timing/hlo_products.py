"""Operations of matrix products as a compiled program writes them: `dot`, a library call or, for a TPU,
`convolution`."""

import json
import math
import re
from functools import cache

import numpy as np

from partoken_jax.timing.hlo_text import Computation, Instruction

_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_COUNT = {name: re.compile(rf"{name}=(\d+)") for name in ("feature_group_count", "batch_group_count")}


def product_flops(instruction: Instruction, siblings: Computation) -> float:
    """Two per multiply-add. `siblings`: the instructions around it, for the shapes of its operands."""
    if instruction.opcode == "convolution":
        return 2.0 * _convolution(instruction, siblings)
    key = "lhs_contracting_dims" if instruction.opcode == "dot" else "lhs_contracting_dimensions"
    return 2.0 * instruction.results[0].elements * _contracted(instruction, siblings, key)


def _contracted(instruction: Instruction, siblings: Computation, key: str) -> int:
    """Length of the summed axis of a matrix product: of its left operand, `key` names the axes."""
    match = re.search(rf'"?{key}"?[=:][{{\[]([^}}\]]*)[}}\]]', instruction.attributes)
    left = siblings.get(instruction.operands[0])
    if match is None or left is None:
        return 1
    axes = json.loads("[" + match[1].replace('"', "") + "]")
    return math.prod(left.results[0].dims[axis] for axis in axes)


def _convolution(instruction: Instruction, siblings: Computation) -> int:
    """Multiply-adds: for every output and input feature and every member of the batch, the pairs of an output
    position and a place of the window that meet an element, along each spatial axis. A batched product is a
    convolution with holes, and most of its pairs meet none."""
    labels = _LABELS.search(instruction.attributes)
    if labels is None:
        return instruction.elements
    left, kernel = (siblings[name].results[0].dims for name in instruction.operands[:2])
    out = instruction.results[0].dims
    shapes = (left, kernel, out)
    features, batches = (_group(instruction, name) for name in _COUNT)
    pairs = (left[labels[1].index("f")] // features) * out[labels[3].index("f")]
    pairs *= left[labels[1].index("b")] // batches
    for axis, window in enumerate(_windows(instruction.attributes, len(left) - 2)):
        sizes = (dims[label.index(str(axis))] for dims, label in zip(shapes, labels.groups(), strict=True))
        pairs *= _meeting(*sizes, *window)
    return pairs


def _group(instruction: Instruction, name: str) -> int:
    match = _COUNT[name].search(instruction.attributes)
    return int(match[1]) if match else 1


def _windows(attributes: str, axes: int) -> list[tuple[int, int, int, int]]:
    """Stride, padding before, spacing of the input and spacing of the window, along each spatial axis."""
    window = re.search(r"window=\{([^}]*)\}", attributes)
    told = dict(re.findall(r"(\w+)=([\w\-]+)", window[1])) if window else {}
    pads = [int(pad.split("_")[0]) for pad in told["pad"].split("x")] if "pad" in told else [0] * axes
    rest = [
        [int(n) for n in told[name].split("x")] if name in told else [1] * axes
        for name in ("stride", "lhs_dilate", "rhs_dilate")
    ]
    return list(zip(rest[0], pads, rest[1], rest[2], strict=True))


@cache
def _meeting(size: int, window: int, outputs: int, stride: int, pad: int, apart: int, spread: int) -> int:
    """Pairs of an output position and a place of the window that meet an element of the input, and not what
    pads it or lies between its elements."""
    total, start = 0, stride * np.arange(outputs) - pad
    for place in range(window):
        met = start + place * spread
        total += int(np.sum((met >= 0) & (met < (size - 1) * apart + 1) & (met % apart == 0)))
    return total
