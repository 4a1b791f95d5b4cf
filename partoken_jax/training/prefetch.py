"""Batches moved to the device ahead of the step: transfers run while the device works."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

T = TypeVar("T")

DEPTH = 1
"""Batches that wait on the device, ready or on their way."""


def prefetch(batches: Iterable[T], depth: int = DEPTH) -> Iterator[T]:
    """The same batches in the same order, on the device, `depth` of them ahead of the reader.

    `jax.device_put` starts a transfer and returns, and `BatchLoader` packs in threads, so this needs none.
    """
    waiting: deque[T] = deque()
    for batch in batches:
        waiting.append(jax.device_put(batch))
        if len(waiting) > depth:
            yield waiting.popleft()
    yield from waiting
