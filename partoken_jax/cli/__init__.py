"""The `partoken` command. Thin: every verb is a file here, and one call into the library.

JAX is imported by the call, so that --help and mistakes answer at once.
"""

import sys
from collections.abc import Callable

import tyro

from partoken_jax.cli import convert, evaluate, params, prepare, time, train
from partoken_jax.cli.errors import is_mistake
from partoken_jax.cli.flags import flags_from_settings


def main(args: list[str] | None = None) -> int:
    """Runs a command; returns its exit code: 0, 2 for a mistake (one sentence on stderr), 130 on Ctrl-C."""
    words = sys.argv[1:] if args is None else args
    try:
        parse(words)()
    except OSError as error:
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except ValueError as error:
        if not is_mistake(error):
            raise  # a fault of ours keeps its traceback
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resume = "; after a whole epoch `partoken train --resume` with the same --run-dir goes on"
        print("interrupted" + (resume if words[:1] == ["train"] else ""), file=sys.stderr)
        return 130
    return 0


def parse(args: list[str]) -> Callable[[], None]:
    """The call that a command line stands for.

    Raises ConfigError for settings that cannot be used; exits with code 2 for flags that do not exist.
    """
    verbs = {
        "train": train.verb,
        "evaluate": evaluate.verb,
        "params": params.verb,
        "time": time.verb,
        "convert": convert.verb,
        "prepare": prepare.verb,
    }
    return tyro.extras.subcommand_cli_from_dict(
        {name: verb(args) for name, verb in verbs.items()},
        prog="partoken",
        description="Prepare data; train, evaluate, time and convert GVP and ParToken on protein structures.",
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
        registry=flags_from_settings(left_out=time.LEFT_OUT if args[:1] == ["time"] else ()),
    )
