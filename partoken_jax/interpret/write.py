"""Writes annotations into a folder, one protein after another, so that any number of them fits in memory.

What the files hold is in docs/guide/annotate.md.
"""

import csv
import json
import re
import signal
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from partoken_jax.config import ConfigError
from partoken_jax.files import write_whole
from partoken_jax.interpret import tables
from partoken_jax.interpret.annotation import Annotation
from partoken_jax.proteins.structures import Skipped

Format = Literal["csv", "parquet"]
SCHEMA = "partoken.annotate/1"
MANIFEST = "manifest.json"
NAME_BYTES = 200
"""Of the name of a file, at most; file systems take 255, with the suffix."""
OURS = (".json", ".html", ".cif", ".pdb", ".pml", ".cxc", ".mvsj", ".mvsx")
"""Suffixes of the files in proteins/."""
ROWS = 10_000
"""Rows that a Parquet file keeps before it writes them."""


class AnnotationFolder:
    """A folder of annotations that is being written; a context manager.

        with AnnotationFolder(Path("annotation"), class_names) as folder:
            for annotation in annotations:
                folder.add(annotation)
            folder.finish(settings, skipped)

    Raises ConfigError for a folder that holds something else, or annotations without `overwrite`, and for
    Parquet without pyarrow.
    """

    def __init__(
        self, path: Path, class_names: Sequence[str], *, table: Format = "csv", overwrite: bool = False
    ):
        self.path = path
        self.names: set[str] = set()
        self.files: list[str] = []
        self._stems: set[str] = set()
        self._finished = False
        check_folder(path, overwrite)
        pyarrow = _pyarrow() if table == "parquet" else None
        _clear(path)
        (path / "proteins").mkdir(parents=True, exist_ok=True)
        self._manifest({"state": "running"})
        self._open = ExitStack()
        self._tables = {
            name: self._open.enter_context(_Table(self._file(f"{name}.{table}"), columns, pyarrow))
            for name, columns in (
                ("predictions", tables.prediction_columns(class_names)),
                ("clusters", tables.CLUSTERS),
                ("residues", tables.RESIDUES),
            )
        }
        self._arrays = self._open.enter_context(zipfile.ZipFile(self._file("embeddings.npz"), "w"))

    def __enter__(self) -> "AnnotationFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        if not self._finished:
            self._manifest({"state": "stopped", "proteins": len(self.names)})

    def add(self, annotation: Annotation) -> str | None:
        """Writes an annotation; returns the name of its files without their suffix, or None, and writes
        nothing, where a protein of that name was there before."""
        name = annotation.protein.name
        if name in self.names:
            return None
        with uninterrupted():  # so that all files hold it, or none
            return self._add(name, annotation)

    def _add(self, name: str, annotation: Annotation) -> str:
        self.names.add(name)
        stem = self._stem(name)
        text = json.dumps(tables.as_json(annotation), indent=1, allow_nan=False)
        write_whole(self._file(f"proteins/{stem}.json"), text + "\n")
        self._tables["predictions"].add([tables.prediction_row(annotation)])
        self._tables["clusters"].add(tables.cluster_rows(annotation))
        self._tables["residues"].add(tables.residue_rows(annotation))
        for what, array in tables.features(annotation).items():
            entry = zipfile.ZipInfo(f"{what}/{name}.npy")  # with a fixed date: equal annotations, equal files
            with self._arrays.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array)
        return stem

    def finish(self, details: Mapping[str, Any], skipped: Iterable[Skipped]) -> None:
        """Closes the tables and writes the manifest, which says what was done and what was left out."""
        self._open.close()
        self._finished = True
        left_out = [asdict(entry) for entry in skipped]
        self._manifest({"state": "done", **details, "proteins": len(self.names), "skipped": left_out})

    def _manifest(self, content: Mapping[str, Any]) -> None:
        text = json.dumps({"schema": SCHEMA, **content, "files": self.files}, indent=1)
        write_whole(self.path / MANIFEST, text + "\n")

    def _file(self, name: str) -> Path:
        self.files.append(name)
        return self.path / name

    def _stem(self, name: str) -> str:
        """A name that any file system takes, and that no other protein has."""
        plain = plain_name(name)
        stem, number = plain, 1
        while stem.lower() in self._stems:
            number += 1
            stem = f"{plain}~{number}"
        self._stems.add(stem.lower())
        return stem


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM within the block are answered after it. Only the main thread hears them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    asked = (signal.SIGINT, signal.SIGTERM)
    earlier = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in asked}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if came:
        signal.raise_signal(came[0])


class _Table:
    """A table that is written protein by protein as CSV, so that a run that is killed leaves what it has
    done, and many rows at a time as Parquet."""

    def __init__(self, path: Path, columns: tables.Columns, pyarrow: ModuleType | None):
        self.columns = columns
        self.rows: list[tables.Row] = []
        self.pyarrow = pyarrow
        if pyarrow is None:
            self.file: Any = path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
            self.writer: Any = csv.DictWriter(self.file, columns)
            self.writer.writeheader()
        else:
            types = {str: pyarrow.string(), int: pyarrow.int32(), float: pyarrow.float64()}
            self.schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
            self.file = self.writer = pyarrow.parquet.ParquetWriter(path, self.schema)

    def __enter__(self) -> "_Table":
        return self

    def __exit__(self, *_: object) -> None:
        if self.rows:
            self._write()
        self.file.close()

    def add(self, rows: Sequence[tables.Row]) -> None:
        self.rows += rows
        if self.pyarrow is None or len(self.rows) >= ROWS:
            self._write()

    def _write(self) -> None:
        if self.pyarrow is None:
            self.writer.writerows(self.rows)
            self.file.flush()
        else:
            self.writer.write_table(self.pyarrow.Table.from_pylist(self.rows, schema=self.schema))
        self.rows = []


def plain_name(name: str) -> str:
    """The name of a protein as one of a file, which any file system takes."""
    return re.sub(r"[^\w.+-]", "_", name).encode()[:NAME_BYTES].decode(errors="ignore")


def check_folder(path: Path, overwrite: bool) -> None:
    """Raises ConfigError for a folder that annotations cannot go to."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path}: is a file, but annotations go into a folder; name another with --out")
    if not path.is_dir() or not any(path.iterdir()):
        return
    if _old_files(path) is None:
        raise ConfigError(
            f"{path}: holds other files, so no annotations are written there; name a new folder with --out"
        )
    if not overwrite:
        raise ConfigError(
            f"{path}: has annotations already; name another folder with --out, or replace them with "
            "--overwrite"
        )


def has_annotations(path: Path) -> bool:
    """Whether a folder is one of annotations."""
    return _old_files(path) is not None


def _old_files(path: Path) -> list[str] | None:
    """What the annotations in a folder consist of; None where there are none."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    known = isinstance(manifest, dict) and manifest.get("schema") == SCHEMA
    return [str(name) for name in manifest.get("files", ())] if known else None


def _clear(path: Path) -> None:
    """Removes the annotations of before, and no other files."""
    for file in earlier_annotations(path):
        file.unlink(missing_ok=True)


def earlier_annotations(path: Path) -> set[Path]:
    """The files of the annotations in a folder; none where it has none. What a run that was killed left in
    proteins/ and assets/ it could not list."""
    names = _old_files(path)
    if names is None:
        return set()
    left = [file for file in (path / "proteins").glob("*") if file.suffix in OURS]
    left += (path / "assets").glob("*.*")
    files = {path / name for name in names} | set(left)
    inside = path.resolve()
    return {file for file in files if file.is_file() and file.resolve().is_relative_to(inside)}


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(
            "format is 'parquet', which needs pyarrow; install it with pip install 'partoken_jax[parquet]', "
            "or choose 'csv'"
        ) from None
    return pyarrow
