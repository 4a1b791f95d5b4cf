"""Annotates structure files into a folder: what `partoken annotate` does once it knows the files."""

import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from partoken_jax.config import DataConfig
from partoken_jax.interpret.annotate import TooLong, annotate_found, read_parts
from partoken_jax.interpret.annotation import Annotation
from partoken_jax.interpret.pictures import Pictures
from partoken_jax.interpret.tables import residue_numbers
from partoken_jax.interpret.write import AnnotationFolder, Format
from partoken_jax.pretrained import find_model, load_model
from partoken_jax.progress import progress, say
from partoken_jax.proteins.prepared import checksum
from partoken_jax.proteins.structure_paths import file_names
from partoken_jax.proteins.structures import Models, Skipped, path_of

if TYPE_CHECKING:
    from partoken_jax.training.trained import TrainedModel

SHOWN = 10
"""Proteins that are printed; files have all."""


class Annotated(NamedTuple):
    """What came of files."""

    proteins: int
    done: set[Path]
    """The files that gave a protein."""
    skipped: list[Skipped]
    seconds: float
    """With compilation, without loading the model."""


def annotate_files(
    files: Sequence[Path],
    out: Path,
    model: str | Path | None = None,
    *,
    chains: Collection[str] | None = None,
    models: Models = "first",
    max_length: int = DataConfig.max_length,
    too_long: TooLong = "refuse",
    format: Format = "csv",
    structures: bool = False,
    pages: bool = False,
    overwrite: bool = False,
) -> Annotated:
    """Annotates structure files, one protein after another, into a folder (docs/guide/annotate.md), and
    prints the first proteins. What cannot be annotated is left out, and listed.

    Args:
      files: structure files; one that is missing or cannot be read is left out.
      out: the folder, which is made.
      model: what `load_model` reads.
      chains, models, max_length, too_long: those of `annotate`.
      format: of the tables.
      structures, pages: whether to write coloured structures, and pages (`pictures.Pictures`).
      overwrite: whether to replace annotations that the folder has.

    Raises ConfigError for a folder that holds something else, DataError for a model that was only pretrained;
    ModelError, CheckpointError and ConvertError as `load_model`; OSError where files cannot be written.
    """
    trained = load_model(model)
    trained.require_classifier()
    settings = {"chains": chains, "models": models, "max_length": max_length, "too_long": too_long}
    drawn = {"structures": structures, "pages": pages}
    skipped: list[Skipped] = []
    start = time.perf_counter()
    with AnnotationFolder(out, trained.class_names, table=format, overwrite=overwrite) as folder:
        pictures = Pictures(out, **drawn)
        with progress(len(files), "annotated", unit="files") as update:
            parts = _counted(files, update)
            found = read_parts(parts, file_names(files), skipped=skipped, **settings)  # type: ignore[arg-type]
            done = _write(annotate_found(trained, found, skipped), folder, pictures, skipped)
        folder.files += pictures.finish()
        skipped += pictures.skipped
        seconds = time.perf_counter() - start
        folder.finish(_manifest(files, find_model(model), trained, settings | drawn, seconds), skipped)
    return Annotated(len(folder.names), done, skipped, seconds)


def _counted(files: Sequence[Path], update: Callable[..., None]) -> Iterator[Path]:
    for file in files:
        yield file
        update(1)


def _write(
    annotations: Iterator[Annotation], folder: AnnotationFolder, pictures: Pictures, skipped: list[Skipped]
) -> set[Path]:
    """Writes every annotation; returns the files that they are of."""
    done: set[Path] = set()
    for annotation in annotations:
        assert annotation.origin is not None
        name = annotation.protein.name
        stem = folder.add(annotation)
        if stem is None:
            reason = "another protein has the same name; rename a file"
            skipped.append(Skipped(name, "protein", reason, path_of(annotation.origin)))
            continue
        folder.files += pictures.add(annotation, stem)
        if len(folder.names) <= SHOWN:
            say(_line(annotation))
        done.add(annotation.origin.path)
    return done


def _line(annotation: Annotation) -> str:
    """A protein in a line: its class, and its most important cluster."""
    said = f"{annotation.protein.name}: {annotation.title}, {annotation.confidence:.0%}"
    if not annotation.clusters:
        return f"{said}; no clusters"
    first, numbers = annotation.clusters[0], residue_numbers(annotation)
    token = "" if first.token is None else f", token {first.token}"
    return (
        f"{said}; {counted_as(len(annotation.clusters), 'cluster')}, the most important around residue "
        f"{numbers[first.seed]} ({counted_as(first.size, 'residue')}{token}, {first.importance:.0%})"
    )


def counted_as(count: int, what: str) -> str:
    """ "1 file", "2 files"."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def _manifest(
    files: Sequence[Path], where: Path, model: "TrainedModel", settings: dict[str, Any], seconds: float
) -> dict[str, Any]:
    return {
        "command": shlex.join(["partoken", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        "seconds": round(seconds, 2),
        "model": {
            "source": model.source,
            "sha256": _checksum(where),
            "kind": model.config.model.kind,
            "task": model.task,
            "class_names": list(model.class_names),
            "epoch": model.epoch,
        },
        "settings": settings,
        "versions": {name: version(name) for name in ("partoken_jax", "jax", "gemmi", "numpy")},
        "inputs": [{"file": str(file), "sha256": _checksum(file)} for file in files],
    }


def _checksum(path: Path) -> str | None:
    """None where there is none: of a folder, or of what cannot be read."""
    try:
        return checksum(path) if path.is_file() else None
    except OSError:
        return None
