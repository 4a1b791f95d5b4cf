"""How a run that is asked to stop comes to its end."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

from jax.experimental import multihost_utils

T = TypeVar("T")


class Interrupted(Exception):
    """A run that was asked to stop. What `train` raises says where it is, and whether it has saved."""


class StopTogether(threading.Event):
    """The stop of a run of several processes: a signal to any of them stops all after the same step.

    JAX hears the signal (`jax.distributed`) and finds a step that none has passed yet. Every process asks as
    often as every other, after the same steps and batches.
    """

    def __init__(self, here: threading.Event | None = None) -> None:
        """`here` is set where this process is asked to stop by what JAX does not hear."""
        super().__init__()
        self._asked, self._here = 0, here

    def is_set(self) -> bool:
        """Whether this is the step to stop after."""
        self._asked += 1
        if self._here is not None and self._here.is_set():
            self._here = None
            os.kill(os.getpid(), signal.SIGTERM)  # JAX hears it and tells the others
        return super().is_set() or multihost_utils.reached_preemption_sync_point(self._asked)


def until(stop: threading.Event | None, items: Iterable[T]) -> Iterator[T]:
    """The items, until somebody sets `stop`. Raises Interrupted then."""
    for item in items:
        if stop is not None and stop.is_set():
            raise Interrupted
        yield item
