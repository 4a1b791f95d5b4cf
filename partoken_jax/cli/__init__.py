"""The `partoken` command. Thin: every verb is a file here, and one call into the library.

JAX is imported by the call, so that --help and mistakes answer at once; and the verbs by `parse`, so that a
signal that comes early finds somebody who listens.
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from partoken_jax.cli.stopping import EXIT_CODE, Stopping
from partoken_jax.version import __version__


def main(args: list[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0, 1 for a replayed step that is finite here, 2 for a mistake
    (one sentence on stderr), 3 where some files could not be annotated and 4 where none could, 75 for a
    training run that was stopped by a signal and has saved what it had, 130 on Ctrl-C in other verbs."""
    words = sys.argv[1:] if args is None else args
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file or a pipe gets every line at once, and what it cannot spell in another way.
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    training = words[:1] == ["train"]
    with Stopping() if training else contextlib.nullcontext() as stopping, warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            call = parse(words)
            if stopping is None:
                return call() or 0
            stopping.wait_for(lambda: call(stopping.asked))  # type: ignore[arg-type, call-arg]
        except OSError as error:
            print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
            return 2
        except ValueError as error:
            from partoken_jax.cli.errors import is_mistake

            if not is_mistake(error):
                raise  # a fault of ours keeps its traceback
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except Exception as error:
            from partoken_jax.training.interruption import Interrupted

            if not isinstance(error, Interrupted):
                raise
            print(error, file=sys.stderr)
            return EXIT_CODE
    return 0


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    """Ours as a sentence, without the line of code that says it; those of others as Python shows them."""
    if category is UserWarning:
        from partoken_jax.progress import warn

        warn(str(message))
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno))


def parse(args: list[str]) -> Callable[[], int | None]:
    """The call that a command line stands for.

    Raises ConfigError for settings that cannot be used and for words that mean nothing.
    """
    if args == ["--version"]:
        return partial(print, f"partoken_jax {__version__}")

    import tyro

    from partoken_jax.cli import annotate, convert, evaluate, params, prepare, replay, time, train, tune
    from partoken_jax.cli.errors import tyro_in_a_sentence
    from partoken_jax.cli.flags import flags_from_settings
    from partoken_jax.config import ConfigError

    verbs = {
        "annotate": annotate.verb,
        "train": train.verb,
        "evaluate": evaluate.verb,
        "params": params.verb,
        "time": time.verb,
        "tune": tune.verb,
        "convert": convert.verb,
        "replay": replay.verb,
        "prepare": prepare.verb,
    }
    left_out: dict[str, Any] = {"time": time.LEFT_OUT, "tune": tune.LEFT_OUT}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                {name: verb(args) for name, verb in verbs.items()},
                prog="partoken",
                description="Annotate protein structures; prepare data; train, evaluate, time, tune and "
                "convert GVP and ParToken. `partoken --version` tells which one this is.",
                args=args,
                config=(tyro.conf.FlagCreatePairsOff,),
                registry=flags_from_settings(left_out=left_out.get(args[0], ()) if args else ()),
            )
    except SystemExit as exit_:
        if exit_.code != 2:
            raise
        program = f"partoken {args[0]}" if args and args[0] in verbs else "partoken"
        raise ConfigError(tyro_in_a_sentence(complaint.getvalue(), program)) from None
