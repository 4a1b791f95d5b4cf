"""Batches moved to the device ahead, in a thread, so that no step waits for a transfer."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import jax

T = TypeVar("T")

DEPTH = 2
"""Batches that wait, ready, on the device."""


def prefetch(batches: Iterable[T], depth: int = DEPTH, put: Callable[[T], T] = jax.device_put) -> Iterator[T]:
    """The same batches in the same order, on the device, up to `depth` of them ahead of the reader.

    `put` sends them there. One thread reads `batches`, so a generator needs no lock; what it raises is raised
    here, in its place. A reader that stops early stops the thread after the batch it is at.
    """
    source = iter(batches)

    def fetch() -> tuple[T] | None:
        try:
            return (put(next(source)),)
        except StopIteration:
            return None

    pool = ThreadPoolExecutor(1, thread_name_prefix="partoken-batches")
    try:
        waiting: deque[Future] = deque(pool.submit(fetch) for _ in range(depth))
        while (ready := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(fetch))
            yield ready[0]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
