"""What the comparison and its workers agree on: the variants, the settings of a worker, and what it can do.

A worker is a process that holds one variant (experiments/compare/worker.py). It gets one order per line of
its standard input and answers each with one line of JSON on its standard output:

{"do": "probe", "weights": FILE, "out": FILE}    writes outputs and gradients of fixed weights to an .npz
{"do": "prepare", "pass": PASS}                  gets ready; answers compile_s, peak_bytes, host_reads
{"do": "infer", "out": FILE}                     writes the logits of the prepared inference to an .npz
{"do": "run", "pass": PASS}                      runs once; answers seconds

Its first line says what it is: device, padding_share and num_proteins. An answer {"error": WHY} means that
the order could not be carried out.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

VARIANTS = ("torch_loops", "torch_vectorised", "torch_compile", "jax_plain", "jax_fast")
"""Loops: the partitioner reads every decision, as published. Vectorised: segment operations, run eagerly.
Compile: the same under torch.compile. Plain and fast: `message_passing` general and dense."""

REFERENCE = "jax_fast"
"""The variant that all others are compared with and take turns with."""

ORIGINAL = "original"
"""The authors' code, from a checkout: timed, but not compared."""

ORIGINAL_MODELS = (("partoken_model", "ParTokenModel"), ("bioblobs_model", "BioBlobsModel"))
"""Module and class, before and after the model was renamed."""

MODELS = ("gvp", "partoken")
PRECISIONS = ("float32", "tensorfloat32")

PASSES = ("forward", "train_step")
"""Inference with the features; and features, forward pass, backward pass and Adam."""


class Settings(NamedTuple):
    """What one worker runs: the same for all variants of a case."""

    model: str
    batch_size: int
    residues: int | None
    """Length of synthetic proteins; None for real ones."""
    path: str | None
    neighbours: int
    precision: str
    seed: int
    small: bool
    """A small model, for trying things out."""
    original: str | None
    """A checkout of the authors' code."""

    @property
    def batch(self) -> str:
        """Proteins per step × their length, as the names of ratios have it."""
        return f"{self.batch_size}x{self.residues or 'real'}"


class Prepared(NamedTuple):
    """What compiling and warming up told."""

    compile_s: float | None
    """Tracing and compiling; None where nothing is compiled."""
    host_reads: int | None
    """Values that the host reads from the device in one run; None where it cannot be counted."""
    planned_bytes: int = 0
    """Temporary memory that the compiler planned; 0 where nothing is planned."""


class Worker(Protocol):
    """One variant."""

    device: str
    padding_share: float
    """Of the rows that are computed."""
    num_proteins: int
    """In the batch: fewer than its size, where there are no more."""

    def prepare(self, name: str) -> Prepared:
        """Readies a pass."""

    def run(self, name: str) -> None:
        """Runs one pass and waits for its result."""

    def peak_growth(self, name: str) -> int | None:
        """The most device memory that a run takes beyond what is in use before it; None where the device does
        not count it."""


class Compared(Worker, Protocol):
    """One variant whose results have to be those of the others."""

    def probe(self, weights: Path) -> dict[str, Any]:
        """Outputs, and gradients as "g.PATH" by our dotted path, of the weights in an .npz, without dropout
        and with recorded noise."""

    def inferred(self) -> np.ndarray:
        """Logits [B, C] of the prepared inference; the probe's weights, if no training step came before."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
