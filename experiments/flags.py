"""Flags of the scripts here. A mistake in them is answered in one sentence, as `partoken` answers it."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from partoken_jax.cli.errors import is_mistake
from partoken_jax.cli.files import check_output_files


class Flags(argparse.ArgumentParser):
    """Without a page of usage before the sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see --help\n")


def count(word: str) -> int:
    """A number of things."""
    if not word.isdecimal() or len(word) > 7 or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word[:80]!r} is no whole number from 1 to 9,999,999")
    return int(word)


def output(word: str) -> Path:
    """A file to write; the directory has to be there."""
    try:
        check_output_files(Path(word))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(word)


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Runs a script, and ends the process with its exit code: 2 for a mistake, 130 for Ctrl-C."""
    try:
        code = main()
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) and not is_mistake(error):
            raise  # a fault of ours keeps its traceback
        said = (
            f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else error
        )
        print(f"error: {said}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
