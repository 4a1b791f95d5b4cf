"""The process that holds one variant and does what it is told (experiments/compare/protocol.py).

    python -m experiments.compare.worker VARIANT SETTINGS

Orders come on standard input and answers go to standard output; everything else that a library prints goes to
standard error.
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
from typing import Any, cast

import numpy as np

from experiments.compare.protocol import ORIGINAL, Compared, Settings, Worker

SHARE_OF_MEMORY = 0.85
"""Of what the machine has free that a worker may allocate; more is refused instead of killing the machine."""


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


def make_worker(variant: str, settings: Settings) -> tuple[Worker, bool]:
    """The worker of a variant, and whether it runs on the CPU. Only its own framework is imported."""
    if variant == ORIGINAL:
        from experiments.compare.original_worker import OriginalWorker
        from experiments.compare.torch_worker import on_cpu

        return OriginalWorker(settings), on_cpu()
    if variant.startswith("torch"):
        from experiments.compare.torch_worker import PeerWorker, on_cpu

        return PeerWorker(variant, settings), on_cpu()
    from experiments.compare import jax_worker

    return jax_worker.JaxWorker(variant, settings), jax_worker.on_cpu()


def main() -> None:
    variant, settings = sys.argv[1], Settings(**json.loads(sys.argv[2]))
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=channel, flush=True)

    worker, on_cpu = make_worker(variant, settings)
    if on_cpu:
        _limit_memory()
    serve(worker, answer)


if __name__ == "__main__":
    main()
