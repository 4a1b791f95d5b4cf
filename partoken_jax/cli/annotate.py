"""`partoken annotate`: from structure files to classes, clusters and tokens."""

import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from partoken_jax.cli.flags import whole_number
from partoken_jax.config import ConfigError, DataConfig
from partoken_jax.progress import duration, say

if TYPE_CHECKING:
    from partoken_jax.proteins.structures import Skipped

SOME, NONE = 3, 4
"""Exit codes where only some files, or none, could be annotated."""
SHOWN = 10
"""Reasons that are printed; manifest.json has all."""


def verb(args: list[str]) -> Callable[..., Callable[[], int]]:
    """The flags of `partoken annotate`, as a function that tyro reads."""

    def annotate(
        sources: Annotated[
            Positional[tuple[str, ...]],
            arg(
                help="Structure files (PDB, mmCIF, BinaryCIF or mmJSON, also with .gz), folders of them, and "
                "lists of them: files whose name ends in .txt, with a path in every line but those that "
                "begin with #.",
                metavar="FILE|FOLDER...",
            ),
        ],
        model: Annotated[
            str | None,
            arg(
                help="Name of a model that comes with the package, its file (.safetensors), or the directory "
                "of a run. Without it, the ParToken for CATH architectures that comes with the package.",
                metavar="NAME|FILE|RUN_DIR",
            ),
        ] = None,
        out: Annotated[Path, arg(help="Folder for the results, which is made.", metavar="DIR")] = Path(
            "annotation"
        ),
        chains: Annotated[
            str | None,
            arg(
                help="Chains to take, by their author's names, with commas between them. Without it, all "
                "that are proteins.",
                metavar="NAME[,...]",
            ),
        ] = None,
        models: Annotated[
            Literal["first", "all"],
            arg(
                help='Models of a file to take: the first, or all, as for the models of an NMR entry ("all").'
            ),
        ] = "first",
        max_length: Annotated[
            int, arg(help="Residues of the longest chain that is annotated. Raise it if memory allows.")
        ] = DataConfig.max_length,
        too_long: Annotated[
            Literal["refuse", "crop"],
            arg(
                help="What becomes of a longer chain: it is left out, and listed, or its first residues are "
                'annotated alone ("crop").'
            ),
        ] = "refuse",
        format: Annotated[
            Literal["csv", "parquet"],
            arg(help='Of the tables. Choose "parquet" for many proteins; it needs pyarrow.'),
        ] = "csv",
        structures: Annotated[
            bool,
            arg(
                help="Whether to write every chain as mmCIF and PDB with the ranks of clusters as B factors, "
                "and scripts that colour it in PyMOL, ChimeraX and Mol*."
            ),
        ] = False,
        pages: Annotated[
            bool,
            arg(
                help="Whether to write pages that a browser opens without a network: one for every protein "
                "and one for the codebook, with DIR/index.html to find them by."
            ),
        ] = False,
        overwrite: Annotated[
            bool, arg(help="Whether to replace the annotations in DIR; nothing else is ever replaced.")
        ] = False,
    ) -> Callable[[], int]:
        """Predict the class of proteins from structure files, with the clusters of residues that the model
        found, their tokens and their importances. The exit code is 0, or 3 where some files could not be
        annotated, or 4 where none could."""
        if whole_number("max_length", max_length) < 1:
            raise ConfigError(f"max_length is {max_length}, but must be at least 1")
        if not sources:
            raise ConfigError("there is no source; name a structure file or a folder")
        settings = {
            "chains": None if chains is None else [name.strip() for name in chains.split(",")],
            "models": models,
            "max_length": max_length,
            "too_long": too_long,
            "format": format,
            "structures": structures,
            "pages": pages,
            "overwrite": overwrite,
        }
        return partial(_annotate, sources, model, out, settings)

    return annotate


def _annotate(sources: tuple[str, ...], model: str | None, out: Path, settings: dict[str, Any]) -> int:
    from partoken_jax.interpret.write import check_folder
    from partoken_jax.pretrained import find_model

    # Before JAX is imported, which takes long.
    check_folder(out, settings["overwrite"])
    find_model(model)
    files = _files(sources, out)

    from partoken_jax.interpret.run import annotate_files, counted_as
    from partoken_jax.training.compilation_cache import use_compilation_cache

    use_compilation_cache()
    with _sigterm_as_ctrl_c():
        result = annotate_files(files, out, model, **settings)
    _tell(result.skipped)
    done, left = len(result.done), len(files) - len(result.done)
    if done:
        table = settings["format"]
        say(
            f"{counted_as(result.proteins, 'protein')} of {counted_as(done, 'file')} in "
            f"{duration(result.seconds)} with compilation; {out}/predictions.{table} has the classes, "
            f"clusters.{table} the clusters"
        )
        if settings["pages"]:
            say(f"{out}/index.html shows them in a browser")
    if left:
        say(f"{left:,} of {len(files):,} files gave no protein; {out}/manifest.json says why")
    return 0 if not left else SOME if done else NONE


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Makes SIGTERM, as a job queue sends it, raise KeyboardInterrupt, so that all files are closed; only the
    main thread hears signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would come while files are closed
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGTERM, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


def _files(sources: tuple[str, ...], out: Path) -> list[Path]:
    """The files that the sources name, each once; those of annotations, old ones in `out` and any in a folder
    within a source, are left out."""
    from partoken_jax.interpret.write import earlier_annotations, has_annotations
    from partoken_jax.proteins.structure_paths import each_once, structure_files

    ours = functools.cache(has_annotations)
    found: list[Path] = []
    for source, is_listed in _listed(sources):
        # What a list names may be missing; the others are annotated.
        for file in [source] if is_listed and not source.is_dir() else structure_files(source):
            if not any(ours(folder) for folder in file.parents if source in folder.parents):
                found.append(file)
    old = {file.resolve() for file in earlier_annotations(out)}
    files = [file for file in each_once(found) if file.resolve() not in old]
    if not files:
        raise ConfigError(f"{out}: the sources hold nothing but annotations of before; name other ones")
    return files


def _tell(skipped: list["Skipped"]) -> None:
    """The first reasons why something was left out, but for waters and the like."""
    from partoken_jax.interpret.annotate import CROPPED, called

    entries = [e for e in skipped if e.what != "residues" or e.reason.startswith(CROPPED)]
    for entry in entries[:SHOWN]:
        say(f"left out: {called(entry)}: {entry.reason}")
    if len(entries) > SHOWN:
        say(f"left out: {len(entries) - SHOWN:,} more, which manifest.json lists")
    sys.stdout.flush()


def _listed(sources: tuple[str, ...]) -> Iterator[tuple[Path, bool]]:
    """The sources, and in place of a list what it names, seen from the folder of the list, but for lines that
    begin with #; with whether it is from a list."""
    for source in map(Path, sources):
        if source.suffix != ".txt" or not source.is_file():
            yield source, False
            continue
        text = source.read_text(encoding="utf-8-sig", errors="surrogateescape")
        lines = [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
        if not any(lines):
            raise ConfigError(f"{source}: names no files; write a path into every line")
        yield from ((source.parent / line, True) for line in lines if line)
