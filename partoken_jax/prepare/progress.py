"""How far a source has been read: a bar on a terminal, a line now and then elsewhere."""

import sys
import time

from tqdm import tqdm

SECONDS = 5.0
"""Between two lines."""


class Progress:
    """Told after every chunk what was in it."""

    def __init__(self, total: int, done: int, unit: str):
        self.total, self.done, self.unit = total, done, unit
        self.proteins = self.skipped = 0
        self.last = time.monotonic()
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, unit=unit.removesuffix("s")) if terminal else None

    def __call__(self, size: int, proteins: int, skipped: int) -> None:
        self.done += size
        self.proteins += proteins
        self.skipped += skipped
        if self.bar is not None:
            self.bar.set_postfix(proteins=self.proteins, skipped=self.skipped)
            self.bar.update(size)
        elif time.monotonic() - self.last >= SECONDS:
            self.last = time.monotonic()
            print(
                f"read {self.done:,} of {self.total:,} {self.unit}; "
                f"in this run {self.proteins:,} proteins, {self.skipped:,} skipped",
                flush=True,
            )

    def close(self) -> None:
        """Ends the bar."""
        if self.bar is not None:
            self.bar.close()
