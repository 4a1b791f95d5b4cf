"""A process that holds one variant and does what it is told, one line of JSON at a time.

    python -m experiments.comparison.worker VARIANT SETTINGS

Orders come on standard input, answers go to standard output; everything else that a library prints goes to
standard error. The orders:

{"do": "probe", "weights": FILE, "out": FILE}    outputs and gradients of fixed weights, as an .npz
{"do": "prepare", "pass": PASS}                  compiles, warms up; answers compile_s, peak_bytes, host_reads
{"do": "infer", "out": FILE}                     logits of the inference that was prepared, as an .npz
{"do": "run", "pass": PASS}                      one run; answers seconds

PASS is "forward" (inference, with the features) or "train_step" (features, forward, backward, Adam).
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

VARIANTS = ("torch_loops", "torch_vectorised", "torch_compile", "jax_plain", "jax_fast")
"""Loops: the partitioner reads every decision, as published. Vectorised: segment operations, run eagerly.
Compile: the same under torch.compile. Plain and fast: `message_passing` general and dense."""

ORIGINAL = "original"
"""The authors' code, from a checkout: timed, but not compared."""

ORIGINAL_MODELS = (("partoken_model", "ParTokenModel"), ("bioblobs_model", "BioBlobsModel"))
"""Module and class, before and after the model was renamed."""

SHARE_OF_MEMORY = 0.85
"""Of what the machine has free that a worker may allocate; more is refused instead of killing the machine."""


class Settings(NamedTuple):
    """What is run: the same for all variants."""

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


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        """One pass, waited for."""

    def peak_growth(self, name: str) -> int | None:
        """Most device memory that a run takes beyond what is in use before it; None where the device does
        not count it."""


class Compared(Worker, Protocol):
    """One variant whose results have to be those of the others."""

    def probe(self, weights: Path) -> dict[str, Any]:
        """Outputs, and gradients as "g.PATH" by our dotted path, of the weights in an .npz, without dropout
        and with recorded noise."""

    def inferred(self) -> np.ndarray:
        """Logits [B, C] of the prepared inference; the probe's weights, if no training step came before."""


def serve(worker: Worker, answer: Callable[[dict[str, Any]], None]) -> None:
    """Does every order until there are no more."""
    answer(
        {
            "device": worker.device,
            "padding_share": worker.padding_share,
            "num_proteins": worker.num_proteins,
        }
    )
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer(_obey(worker, order))
        except MemoryError:
            answer({"error": "out of memory"})
        except Exception as error:  # torch and jax have no error of their own for memory on every device
            text = str(error)
            if any(sign in text for sign in ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate")):
                answer({"error": "out of memory"})
            else:
                answer({"error": f"{type(error).__name__}: {(text.strip().splitlines() or [''])[0]}"})


def _obey(worker: Worker, order: dict[str, Any]) -> dict[str, Any]:
    if order["do"] == "probe":
        np.savez(order["out"], **cast(Compared, worker).probe(Path(order["weights"])))
        return {"done": True}
    if order["do"] == "infer":
        np.savez(order["out"], logits=cast(Compared, worker).inferred())
        return {"done": True}
    if order["do"] == "prepare":
        prepared = worker.prepare(order["pass"])
        peak = worker.peak_growth(order["pass"])
        if peak is None:
            before = _give_back_memory()
            worker.run(order["pass"])
            # The allocator may keep small blocks, which then do not show as growth.
            peak = max(_resident("VmHWM") - before, prepared.planned_bytes)
        return {"compile_s": prepared.compile_s, "host_reads": prepared.host_reads, "peak_bytes": peak}
    start = time.perf_counter()
    worker.run(order["pass"])
    return {"seconds": time.perf_counter() - start}


def _give_back_memory() -> int:
    """Returns what earlier runs and compilation left behind to the system, and sets the high-water mark back.
    Bytes that stay."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _resident("VmRSS")


def _resident(field: str) -> int:
    """Bytes, of this process: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    return 0


def _limit_memory() -> None:
    available = next(
        (line for line in Path("/proc/meminfo").read_text().splitlines() if "MemAvailable" in line), None
    )
    if available is not None:
        limit = int(SHARE_OF_MEMORY * 1024 * int(available.split()[1]))
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def main() -> None:
    variant, settings = sys.argv[1], Settings(**json.loads(sys.argv[2]))
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=channel, flush=True)

    worker: Worker
    if variant == ORIGINAL or variant.startswith("torch"):
        os.environ["JAX_PLATFORMS"] = "cpu"  # packing needs no device
        from experiments.comparison.original_worker import OriginalWorker
        from experiments.comparison.torch_worker import PeerWorker, on_cpu

        if variant == ORIGINAL:
            worker = OriginalWorker(Path(settings.original or ""), settings)
        else:
            worker = PeerWorker(variant, settings)
        limited = on_cpu()
    else:
        from experiments.comparison.jax_worker import JaxWorker, on_cpu

        worker = JaxWorker(variant, settings)
        limited = on_cpu()
    if limited:
        _limit_memory()
    serve(worker, answer)


if __name__ == "__main__":
    main()
