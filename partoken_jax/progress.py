"""What long work says while it goes: lines that are flushed at once, and how far it is.

In a terminal (standard output and standard error both are one) progress is drawn by tqdm and vanishes when it
is done. Elsewhere it is a plain line now and then, without carriage returns. With `quiet` nothing is said but
warnings. Where several processes run together, all but process 0 are quiet.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from tqdm import tqdm

T = TypeVar("T")

INTERVAL = 30.0
"""Seconds between two lines about the same thing where there is no terminal."""

Update = Callable[..., None]
"""`update(count, **shown)`: so many more are done, and this is how things stand, by name."""


def say(line: str, *, quiet: bool = False) -> None:
    """Writes a line to standard output and flushes it, so that a file or a pipe shows it at once."""
    if not quiet:
        tqdm.write(line, file=sys.stdout)  # a bar that is being drawn moves down for it
        sys.stdout.flush()


def warn(line: str) -> None:
    """Writes "warning: LINE" to standard error, quiet or not."""
    tqdm.write(f"warning: {line}", file=sys.stderr)
    sys.stderr.flush()


def in_terminal() -> bool:
    """Whether somebody is looking: standard output and standard error are both a terminal."""
    return sys.stdout.isatty() and sys.stderr.isatty()


@contextmanager
def waiting(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Says what takes long, and for how long it has, while the body runs.

    In a terminal that is one line, drawn again every second; elsewhere a line at the start and one every
    `INTERVAL` seconds. A last line says how long it took, unless the body raises.
    """
    if quiet:
        yield
        return
    start, over, terminal = time.monotonic(), threading.Event(), in_terminal()
    line = tqdm(bar_format="{desc} ... {elapsed}", desc=what, leave=False) if terminal else None

    def watch() -> None:
        while not over.wait(1.0 if line is not None else INTERVAL):
            if line is not None:
                line.refresh()
            else:
                say(f"{what} ... {duration(time.monotonic() - start)}")

    if line is None:
        say(f"{what} ...")
    watcher = threading.Thread(target=watch, name="partoken-waiting", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        if line is not None:
            line.close()
    say(f"{what}: {duration(time.monotonic() - start)}")


def announced(step: T, what: str, *, quiet: bool = False) -> T:
    """A compiled step that says so (`waiting`) while it is compiled, which is once per batch shape.

    `what` names it: "the training step of stage 0". Its compilations can be counted as those of `step`.
    """
    known: set[tuple[int, ...]] = set()

    def call(*args: Any) -> Any:
        mask = next(x.nodes.mask for x in args if hasattr(x, "nodes"))  # the batch
        if mask.shape in known:
            return step(*args)  # type: ignore[operator]
        with waiting(f"compiling {what} for {mask.size:,} residues", quiet=quiet):
            result = step(*args)  # type: ignore[operator]
        known.add(mask.shape)
        return result

    call._cache_size = step._cache_size  # type: ignore[attr-defined]
    return cast(T, call)


@contextmanager
def progress(
    total: int, description: str, *, unit: str = "proteins", done: int = 0, quiet: bool = False
) -> Iterator[Update]:
    """Shows how many of `total` are done, how things stand, and the time that is left.

    The body gets `update(count, **shown)`, to be called after every step. `done` were done before. In a
    terminal this is a bar; elsewhere a line every `INTERVAL` seconds, and none for what is over sooner.
    """
    if quiet:
        yield lambda count, **shown: None
        return
    if in_terminal():
        with tqdm(total=total, initial=done, desc=description, unit=f" {unit}", leave=False) as bar:

            def draw(count: int, **shown: str) -> None:
                bar.set_postfix(shown, refresh=False)
                bar.update(count)

            yield draw
        return
    start = last = time.monotonic()
    before = done

    def tell(count: int, **shown: str) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= INTERVAL:
            last = now
            left = (now - start) * (total - done) / max(done - before, 1)
            stand = "".join(f", {name} {value}" for name, value in shown.items())
            say(f"{description}: {done:,} of {total:,} {unit}{stand}, {duration(left)} left")

    yield tell


def duration(seconds: float) -> str:
    """A time as people say it: "0.4 s", "12 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
