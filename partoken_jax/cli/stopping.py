"""SIGTERM and Ctrl-C during `partoken train`: finish the step, save, and exit with code 75, within seconds.

Only the main thread hears signals, and not while it computes in a library: so the run goes on in another
thread and the main thread does nothing but wait. Standard library only, because a signal may come while the
rest is still being imported.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL: try again, which job queues understand."""
PATIENCE = 7.0
"""Seconds that a run has to finish its step and save."""


class Stopping(AbstractContextManager):
    """Listens to SIGTERM and SIGINT while it is entered; outside the main thread it hears nothing."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        """What the run looks at after every step."""
        self._since = 0.0
        self._waiting = False
        self._name = ""
        self._earlier: dict[int, object] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._earlier[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def wait_for(self, call: Callable[[], None]) -> None:
        """Runs `call` in another thread and raises what it raises."""
        raised: list[BaseException] = []

        def run() -> None:
            try:
                call()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run, name="partoken-train", daemon=True)
        self._waiting = True
        if self.asked.is_set():
            self._leave("before the run had started;")
        thread.start()
        while thread.is_alive():
            thread.join(0.1)
            if self.asked.is_set() and time.monotonic() - self._since > PATIENCE:
                self._leave(
                    f"in the middle of something that takes more than {PATIENCE:.0f} s; what was done since "
                    "the last checkpoint is lost, and"
                )
        self._waiting = False
        if raised:
            raise raised[0]

    def _heard(self, number: int, frame: FrameType | None) -> None:
        again = self.asked.is_set()
        self._name, self._since = signal.Signals(number).name, time.monotonic()
        self.asked.set()
        if again or not self._waiting:
            self._leave("at once, because it came twice;" if again else "before the run had started;")

    def _leave(self, when: str) -> None:
        line = f"stopped by {self._name} {when} the same command with --resume goes on"
        os.write(2, (line + "\n").encode())  # sys.stderr may stand for something else just now
        os._exit(EXIT_CODE)
