"""Profiles a compiled program and adds up the time of every operation it executed."""

import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import NamedTuple

import jax
from jax.profiler import ProfileData

NANOSECONDS = 1e-9


class Event(NamedTuple):
    """One execution of one operation on one thread or stream."""

    operation: str
    start: float
    """Seconds."""
    end: float


class Profile(NamedTuple):
    """What the profiler saw of some calls of one program."""

    seconds: dict[str, float]
    """Time of every operation per call, shared out so that no moment counts twice."""
    call_seconds: float
    """Mean time of a call while it was profiled."""


def profile(
    call: Callable[[], object],
    module: str,
    containers: Collection[str],
    products: Collection[str],
    *,
    calls: int,
) -> Profile:
    """Runs `call` so many times under the profiler and reads back what executed.

    Args:
      call: runs the program once, e.g. `lambda: compiled(*args)`; its result is waited for.
      module: name of the HLO module, e.g. "jit_train_step"; operations of other programs are left out.
      containers: operations that only run others (a loop); they count where nothing else runs.
      products: matrix products; see `busy_time`.
    """
    jax.block_until_ready(call())
    with tempfile.TemporaryDirectory() as directory:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # it would slow the dispatch that is measured
        with jax.profiler.trace(directory, profiler_options=options):
            start = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(call())
            elapsed = time.perf_counter() - start
        events = [
            event for path in Path(directory).rglob("*.xplane.pb") for event in read_events(path, module)
        ]
    seconds = {name: total / calls for name, total in busy_time(events, containers, products).items()}
    return Profile(seconds, elapsed / calls)


def read_events(path: Path, module: str) -> list[Event]:
    """The executed operations of a program in a trace file, from every thread and stream that names them."""
    events = []
    for plane in ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                operation = stats.get("hlo_op")
                if operation is None or stats.get("hlo_module", module) != module:
                    continue
                start = event.start_ns * NANOSECONDS
                events.append(Event(str(operation), start, start + event.duration_ns * NANOSECONDS))
    return events


def busy_time(
    events: Iterable[Event], containers: Collection[str], products: Collection[str] = ()
) -> dict[str, float]:
    """Seconds per operation.

    A moment in which several operations run at once (on several threads or streams) is divided equally among
    them, so the sum is the time in which anything ran. On a CPU, XLA hands the parts of a matrix product to
    other threads and records the handing over alone: a moment in which nothing is recorded, right after a
    product, is that product's. A container counts only in what is left, and then the innermost (latest
    started) one.
    """
    edges = []
    for number, event in enumerate(events):
        if event.end > event.start:
            edges += [(event.start, 1, number, event.operation), (event.end, 0, number, event.operation)]
    edges.sort()
    running: dict[int, str] = {}
    waiting: dict[int, str] = {}  # containers
    seconds: dict[str, float] = {}
    before = 0.0
    handed_over: list[str] = []
    for moment, starts, number, operation in edges:
        active = list(running.values()) or handed_over or list(waiting.values())[-1:]
        for name in active:
            seconds[name] = seconds.get(name, 0.0) + (moment - before) / len(active)
        before = moment
        group = waiting if operation in containers else running
        if starts:
            group[number] = operation
        else:
            del group[number]
        if group is running:
            handed_over = [operation] if not starts and operation in products else []
    return seconds
