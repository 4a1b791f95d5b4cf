"""How a run that is asked to stop comes to its end."""

import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """A run that was asked to stop. What `train` raises says where it is, and whether it has saved."""


def until(stop: threading.Event | None, items: Iterable[T]) -> Iterator[T]:
    """The items, until somebody sets `stop`. Raises Interrupted then."""
    for item in items:
        if stop is not None and stop.is_set():
            raise Interrupted
        yield item
