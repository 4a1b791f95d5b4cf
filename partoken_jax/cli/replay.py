"""`partoken replay`: a training step that was not finite, run again."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def verb(args: list[str]) -> Callable[..., Callable[[], int]]:
    """The flags of `partoken replay`, as a function that tyro reads."""

    def replay(
        file: Annotated[
            Positional[Path],
            arg(help="File non_finite_step_<n>.npz in the directory of a run.", metavar="FILE"),
        ],
    ) -> Callable[[], int]:
        """Run a training step that was not finite again, from its file alone, and show where it stops being
        finite. The exit code is 0 if it is not finite here either, and 1 if it is."""
        return partial(_replay, file)

    return replay


def _replay(file: Path) -> int:
    from partoken_jax.training.step_file import read_step_file

    read_step_file(file)  # whatever is wrong with the file is said before JAX is imported
    from partoken_jax.tables import markdown_table
    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.guard import replay

    use_compilation_cache()
    found = replay(file)
    about = found.about
    rows = [[row.component, "yes" if row.finite else "NO", f"{row.largest:.3g}"] for row in found.findings]
    print(markdown_table(["component", "finite", "largest magnitude"], rows))
    print(f"\n{about['where']}, with {', '.join(f'{k} {v}' for k, v in about['environment'].items())}")
    print(f"proteins: {', '.join(name for name in about['proteins'] if name)}")
    print(f"then: loss {about['loss']:.6g}, gradient norm {about['gradient_norm']:.6g}")
    print(f"here: loss {found.loss:.6g}, gradient norm {found.gradient_norm:.6g}")
    if found.finite:
        print(
            "The step is finite here: another device or version of JAX rounds differently. Go on from the "
            "last checkpoint with --resume."
        )
        return 1
    print(f"First not finite: {found.offender or 'none of the components, when computed apart'}.")
    return 0
