"""Which structure files a path names."""

import os
from pathlib import Path

from partoken_jax.proteins.protein import DataError
from partoken_jax.proteins.structure_formats import SUFFIXES, is_structure_file, reason_not_read


def structure_files(path: Path) -> list[Path]:
    """The file itself, whatever it is, or all structure files of a folder and the folders in it, in the order
    of their names, with those of kinds that are not read, which are answered when they are.

    Raises DataError for a path that does not exist and a folder without structure files.
    """
    if path.is_dir():
        files = [
            Path(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if is_structure_file(Path(name)) or _is_of_kind_not_read(Path(name))
        ]
        if not any(map(is_structure_file, files)):
            raise DataError(f"{path}: holds no structure files; their names end in {', '.join(SUFFIXES)}")
        return sorted(files)
    if not path.exists() and not path.is_symlink():
        raise DataError(f"{path}: no such file or folder; correct the path")
    return [path]


def _is_of_kind_not_read(path: Path) -> bool:
    """Whether a file is a structure by its name in a form that is not read ("1abc.pdb.bz2", "1abc.mmtf"), and
    no other archive."""
    inside = path.name.lower().removesuffix(path.suffix.lower())
    return reason_not_read(path) is not None and (path.suffix.lower() == ".mmtf" or inside.endswith(SUFFIXES))
