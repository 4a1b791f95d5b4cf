"""The command line of the comparison: `python -m experiments.compare --help`."""

import contextlib
import io
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import tyro

from experiments.compare.settings import CompareConfig
from partoken_jax.cli.errors import tyro_in_a_sentence
from partoken_jax.cli.files import check_output_files, save_json
from partoken_jax.config import ConfigError

PROGRAM = "python -m experiments.compare"


@dataclass(frozen=True)
class Output:
    """Where the results go. Without a file they are only printed."""

    json: Path | None = None
    """The file for the results. It is written again after every case, so that nothing is lost if a later one
    fails. experiments/results/README.md describes its fields."""
    markdown: Path | None = None
    """The file for the report. A plot is written beside it."""

    def __post_init__(self) -> None:
        check_output_files(self.json, self.markdown)


@dataclass(frozen=True)
class Flags(CompareConfig):
    """Times both models against PyTorch on this machine.

    Every variant gets the same weights and the same proteins. Its results are compared with those of jax_fast
    before it is timed, and one that computes something else is not timed. Then it takes turns with jax_fast,
    run by run.
    """

    output: Output = field(default_factory=Output)


def parse(words: list[str]) -> Flags:
    """The flags of a command line. Raises ConfigError for a setting that cannot be used, or a flag that does
    not exist."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                Flags,
                prog=PROGRAM,
                args=words,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as exit_:
        # tyro puts our sentences into a box of its own; say them as they are.
        cause: BaseException | None = exit_
        while cause is not None and not isinstance(cause, ConfigError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        if exit_.code != 2:
            raise
        raise ConfigError(tyro_in_a_sentence(complaint.getvalue(), PROGRAM)) from None


def run(flags: Flags, command: str) -> None:
    """Compares, writes the files that were asked for, and prints the report."""
    from experiments.compare.comparison import compare_frameworks
    from experiments.compare.report import markdown, plot

    result = compare_frameworks(flags, command=command, save=partial(save_json, flags.output.json))
    report = markdown(result)
    if flags.output.markdown is not None:
        picture = flags.output.markdown.with_suffix(".png")
        plot(result, picture)
        flags.output.markdown.write_text(f"{report}\n![times]({picture.name})\n")
    print(report, flush=True)


def main(args: list[str] | None = None) -> int:
    """Runs the command; returns 0, 2 for a mistake (one sentence on stderr), or 130 on Ctrl-C."""
    words = sys.argv[1:] if args is None else args
    try:
        run(parse(words), " ".join([PROGRAM, *words]))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
