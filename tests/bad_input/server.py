"""Runs command lines, each in a process of its own: a fork of this one, so that imports are paid for once.

A line of JSON comes in ({"args": [...], "cwd": "..."}), and one goes out (the fields of `case.Outcome`).
Started with "heavy", it imports beforehand what only commands need that have passed the first checks.
"""

import importlib
import importlib.util
import json
import os
import resource
import runpy
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings

SECONDS = 10
ADDRESS_SPACE = 16 * 2**30
"""Bytes. A belt for the machine of the tests; what a case takes is measured."""
LIGHT = ("partoken_jax.cli", "partoken_jax.cli.train", "partoken_jax.cli.flags", "partoken_jax.proteins")
LIGHT += ("partoken_jax.prepare", "partoken_jax.convert", "partoken_jax.training.run_directory", "tyro")
HEAVY = ("jax", "flax.nnx", "optax", "partoken_jax.training.loop", "safetensors.numpy", "torch")


def main() -> None:
    # JAX and newer Pythons warn of forks from processes with threads; these have none that matter.
    warnings.filterwarnings("ignore", message=".*fork.*")
    for name in LIGHT + (HEAVY if "heavy" in sys.argv else ()):
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)
    os._exit(0)  # without the seconds that large libraries take to leave


def run(args: list[str], cwd: str) -> dict:
    """What a command line does. It begins with "python -m MODULE" or is one of `partoken`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        ended, at_exit = os.pipe()
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            os.close(ended)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os._exit(_command(args, cwd, at_exit))
        os.close(at_exit)
        # The end of the pipe that the child holds closes with the child, however it ends.
        in_time = bool(select.select([ended], [], [], SECONDS)[0])
        if not in_time:
            os.kill(child, signal.SIGKILL)
        _, status, usage = os.wait4(child, 0)
        loaded = os.read(ended, 100).decode()
        os.close(ended)
        out.seek(0), err.seek(0)
        return {
            "code": os.waitstatus_to_exitcode(status),
            "out": out.read(10_000).decode(errors="replace"),
            "err": err.read(10_000).decode(errors="replace"),
            "in_time": in_time,
            "seconds": time.monotonic() - start,
            "megabytes": usage.ru_maxrss / 2**10,
            "imported_jax": loaded == "jax",
        }


def _command(args: list[str], cwd: str, at_exit: int) -> int:
    code: object = 1
    try:
        os.chdir(cwd)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        if args[:2] == ["python", "-m"]:
            sys.argv = args[2:]
            code = runpy.run_module(args[2], run_name="__main__") and 0
        else:
            from partoken_jax.cli import main

            code = main(args)
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            print(exit_.code, file=sys.stderr)
        code = exit_.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(at_exit, b"jax" if "jax" in sys.modules else b"none")
    return code if isinstance(code, int) else 0 if code is None else 1


if __name__ == "__main__":
    main()
