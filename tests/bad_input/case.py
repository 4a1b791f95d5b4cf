"""What a case is, and what a command does with it."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Case(NamedTuple):
    """A command line that is a mistake."""

    name: str
    args: tuple[str, ...]
    """As after `partoken`, in a directory of its own; or from "python", "-m" on."""
    words: tuple[str, ...]
    """What the sentence has to say: the file or field, and the remedy."""
    make: Callable[[Path], object] = lambda folder: None
    """Puts the files of the case into its directory."""
    heavy: bool = False
    """Found out only after JAX or PyTorch is there."""


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str
    in_time: bool
    seconds: float
    megabytes: float
    """Largest resident memory."""
    imported_jax: bool


class Server:
    """A process that runs commands (`server`)."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.bad_input.server", *flags],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(self, args: tuple[str, ...], cwd: Path) -> Outcome:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"args": args, "cwd": str(cwd)}) + "\n")
        self.process.stdin.flush()
        return Outcome(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.communicate()


def listing(folder: Path) -> dict[str, tuple]:
    """Everything below a folder: kind, size, time of change, and content where it is not large."""
    found: dict[str, tuple] = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        small = path.is_file() and not path.is_symlink() and stat.st_size < 2**20
        content = hashlib.sha256(path.read_bytes()).hexdigest() if small else ""
        found[str(path.relative_to(folder))] = (stat.st_mode, stat.st_size, stat.st_mtime_ns, content)
    return found
