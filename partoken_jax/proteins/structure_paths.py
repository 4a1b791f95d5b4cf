"""Which structure files a path names."""

import os
from pathlib import Path

from partoken_jax.proteins.protein import DataError
from partoken_jax.proteins.structure_formats import SUFFIXES, is_structure_file


def structure_files(path: Path) -> list[Path]:
    """The file itself, whatever it is, or all structure files of a folder and the folders in it, in the order
    of their names.

    Raises DataError for a path that does not exist and a folder without structure files.
    """
    if path.is_dir():
        files = [
            Path(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if is_structure_file(Path(name))
        ]
        if not files:
            raise DataError(f"{path}: holds no structure files; their names end in {', '.join(SUFFIXES)}")
        return sorted(files)
    if not path.exists() and not path.is_symlink():
        raise DataError(f"{path}: no such file or folder; correct the path")
    return [path]
