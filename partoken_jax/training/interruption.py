"""How a run that is asked to stop comes to its end."""

import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Interrupted(Exception):
    """A run that was asked to stop and has saved what it had; the message says where it is."""


def until(stop: threading.Event | None, items: Iterable[T]) -> Iterator[T]:
    """The items, until somebody sets `stop`. Raises Interrupted then."""
    for item in items:
        if stop is not None and stop.is_set():
            raise Interrupted
        yield item
