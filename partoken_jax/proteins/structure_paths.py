"""Which structure files a path names."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from partoken_jax.proteins.protein import DataError
from partoken_jax.proteins.structure_formats import (
    SUFFIXES,
    is_structure_file,
    reason_not_read,
    stem,
    text_of,
)


def structure_files(path: Path) -> list[Path]:
    """The file itself, whatever it is, or all structure files of a folder and the folders in it, in the order
    of their names, with what cannot be read, files of other kinds and folders, which is answered when it is.
    Links to folders are followed, but no folder is read twice.

    Raises DataError for a path that does not exist, and for a folder that cannot be read or holds no
    structure files.
    """
    if path.is_dir():
        closed: list[OSError] = []
        files = [
            Path(folder, name)
            for folder, names in _folders(path, closed.append)
            for name in names
            if is_structure_file(Path(name)) or _is_of_kind_not_read(Path(name))
        ]
        if not any(map(is_structure_file, files)):
            if closed:
                place, reason = closed[0].filename, str(closed[0].strerror).lower()
                raise DataError(f"{place}: cannot be read ({reason}); change who may read it")
            raise DataError(f"{path}: holds no structure files; their names end in {', '.join(SUFFIXES)}")
        return sorted([*files, *(Path(error.filename) for error in closed)])
    if not path.exists() and not path.is_symlink():
        raise DataError(f"{path}: no such file or folder; correct the path")
    return [path]


def _folders(path: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Every folder in a folder once, with the names of its files. Links are followed after all else, so that
    a folder has the path without a link where there is one."""
    tops, seen = [str(path)], set()
    while tops:
        links: list[str] = []
        for top in tops:
            for folder, inner, names in os.walk(top, onerror=onerror):
                if (place := os.path.realpath(folder)) in seen:
                    inner.clear()
                    continue
                seen.add(place)
                links += filter(os.path.islink, (os.path.join(folder, name) for name in inner))
                yield folder, names
        tops = sorted(links)


def each_once(files: Iterable[Path]) -> list[Path]:
    """The files in their order, one that is named twice, by whatever paths, once."""
    found: dict[tuple[Path, str], Path] = {}
    for file in files:
        found.setdefault((file.resolve(), file.name), file)
    return list(found.values())


def file_names(files: Iterable[Path]) -> dict[Path, str]:
    """What each structure file is called: its name without suffixes, and where files in several folders share
    that, as many of their folders before it as tell them apart ("job1_ranked_0" and "job2_ranked_0")."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(stem(file), []).append(file)
    names: dict[Path, str] = {}
    for name, group in groups.items():
        folders, depth = list(dict.fromkeys(file.parent for file in group)), 0
        while True:
            called = {folder: "_".join((*_parts(folder, depth), name)) for folder in folders}
            if len(set(called.values())) == len(folders) or all(depth >= len(f.parts) for f in folders):
                break
            depth += 1
        names |= {file: called[file.parent] for file in group}
    return names


def _parts(folder: Path, depth: int) -> tuple[str, ...]:
    """The names of the innermost folders of a path, so many of them."""
    named = [
        text_of(part) for part in Path(os.path.normpath(folder)).parts if part not in (folder.anchor, "..")
    ]
    return tuple(named[len(named) - min(depth, len(named)) :])


def _is_of_kind_not_read(path: Path) -> bool:
    """Whether a file is a structure by its name in a form that is not read ("1abc.pdb.bz2", "1abc.mmtf"), and
    no other archive."""
    inside = path.name.lower().removesuffix(path.suffix.lower())
    return reason_not_read(path) is not None and (path.suffix.lower() == ".mmtf" or inside.endswith(SUFFIXES))
