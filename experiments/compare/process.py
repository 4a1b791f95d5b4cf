"""A worker process, as the comparison sees it."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Protocol

from experiments.compare.protocol import ORIGINAL, Settings

ROOT = Path(__file__).parents[2]
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
"""Set for all variants: glibc may keep the memory of a step, which jax's threads hinder (docs/guide/time.md),
and jax does not take most of a GPU at once, which two processes that take turns have to share."""
NO_CACHE = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
"""Compile times are of a first time; `compile_program` does the same for jax."""


class WorkerError(Exception):
    """The worker of `variant` could not do what it was told; says why."""

    def __init__(self, variant: str, why: str):
        super().__init__(why)
        self.variant = variant


class Remote(Protocol):
    """What the comparison asks of a worker."""

    variant: str
    hello: dict[str, Any]
    """What it says of itself; {"error": why} if it could not start."""

    def ask(self, **order: Any) -> dict[str, Any]:
        """What the worker answers to an order. Raises WorkerError."""

    def prepare(self, name: str) -> dict[str, Any]:
        """Readies a pass. Raises WorkerError."""

    def run(self, name: str) -> float:
        """Seconds of one run of a pass. Raises WorkerError."""


class Process:
    """A worker in a process of its own, started for one variant; `with` ends it."""

    def __init__(self, variant: str, settings: Settings):
        self.variant = variant
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed in __exit__
        command = [sys.executable, "-m", "experiments.compare.worker", variant]
        self.process = subprocess.Popen(
            [*command, json.dumps(settings._asdict())],
            cwd=ROOT, env=_environment(variant, settings), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
        )  # fmt: skip
        self.hello = self._answer()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.stdout.close()
        self.log.close()

    def ask(self, **order: Any) -> dict[str, Any]:
        """See `Remote`."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(order), file=self.process.stdin, flush=True)
        answer = self._answer()
        if "error" in answer:
            raise WorkerError(self.variant, answer["error"])
        return answer

    def prepare(self, name: str) -> dict[str, Any]:
        """See `Remote`."""
        return self.ask(do="prepare", **{"pass": name})

    def run(self, name: str) -> float:
        """See `Remote`."""
        return self.ask(do="run", **{"pass": name})["seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        self.log.seek(0)
        last = (self.log.read().strip().splitlines() or ["no message"])[-1]
        out_of_memory = code == -9 or "MemoryError" in last or "bad_alloc" in last
        return {"error": "out of memory" if out_of_memory else last}


def python_path(*first: str) -> str:
    """PYTHONPATH with these folders before those that are there: packages may be installed in them."""
    return os.pathsep.join([*first, *filter(None, [os.environ.get("PYTHONPATH")])])


def _environment(variant: str, settings: Settings) -> dict[str, str]:
    path = [str(ROOT)]
    if variant == ORIGINAL and settings.original is not None:
        path.append(settings.original)  # its modules are imported by name
    environment = {**os.environ, **ALLOCATOR, **NO_CACHE, "PYTHONPATH": python_path(*path)}
    if not variant.startswith("jax"):
        environment["JAX_PLATFORMS"] = "cpu"  # only packs the batch
    return environment
