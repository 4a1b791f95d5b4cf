"""Compiles programs, with what the compiler says of them, and times them taking turns."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

Name = TypeVar("Name")


class Compiled(NamedTuple):
    """A compiled program and what compiling it told."""

    run: Callable[..., Any]
    lower_s: float
    """Tracing and lowering."""
    compile_s: float
    """XLA's part, without any cache."""
    flops: float
    """By XLA's cost analysis."""
    bytes: float
    """Read and written by all operations, by XLA's cost analysis."""
    temp_bytes: int
    """Peak temporary memory, without arguments and results."""
    text: str
    """The optimised HLO module."""


class Timing(NamedTuple):
    """Seconds of repeated runs."""

    median: float
    quartiles: tuple[float, float]
    seconds: list[float]
    """Every run, in order."""


def compile_program(function: Any, *args: Any) -> Compiled:
    """Lowers and compiles a `jax.jit` function for arguments of these shapes."""
    # A program from a cache would say nothing about compiling.
    cached = jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # jax asks for the setting once only
    try:
        start = time.perf_counter()
        lowered = function.lower(*args)
        middle = time.perf_counter()
        compiled = lowered.compile()
        end = time.perf_counter()
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
        compilation_cache.reset_cache()
    cost = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    return Compiled(
        run=compiled,
        lower_s=middle - start,
        compile_s=end - middle,
        flops=float(cost.get("flops", float("nan"))),
        bytes=float(cost.get("bytes accessed", float("nan"))),
        temp_bytes=int(memory.temp_size_in_bytes) if memory is not None else -1,
        text=compiled.as_text(),
    )


class Compilations:
    """Counts what jax compiles."""

    count = 0

    def listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.count += 1


@contextlib.contextmanager
def count_compilations() -> Iterator[Compilations]:
    """Programs compiled while the context is open; in a timed loop there should be none."""
    counter = Compilations()
    jax.monitoring.register_event_duration_secs_listener(counter.listen)
    try:
        yield counter
    finally:
        jax.monitoring.unregister_event_duration_listener(counter.listen)


def interleave(
    calls: Mapping[Name, Callable[[], Any]],
    *,
    repeats: int,
    warm_up: int = 1,
    progress: Callable[[], Any] = lambda: None,
) -> dict[Name, Timing]:
    """Times every call `repeats` times, all of them taking turns, so that a slow moment of the machine meets
    all.

    Args:
      calls: each runs a compiled program once; its result is waited for.
      warm_up: untimed rounds before.
      progress: called after every timed call.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            elapsed = time.perf_counter() - start
            if turn >= warm_up:
                seconds[name].append(elapsed)
                progress()
    return {name: summary(times) for name, times in seconds.items()}


def summary(seconds: Sequence[float]) -> Timing:
    """Median and quartiles."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return Timing(float(middle), (float(low), float(high)), list(seconds))


def ratio(above: Timing, below: Timing) -> dict[str, Any]:
    """Median and quartiles of the ratio, pair by pair of interleaved runs."""
    pairs = np.array(above.seconds) / np.array(below.seconds)
    low, middle, high = np.quantile(pairs, [0.25, 0.5, 0.75])
    return {"median": float(middle), "quartiles": [float(low), float(high)], "pairs": len(pairs)}
