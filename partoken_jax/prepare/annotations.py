"""A CSV file of labels: the classes and splits of a user's own proteins."""

import csv
from pathlib import Path

from partoken_jax.prepare.records import Annotations, Column
from partoken_jax.proteins import DataError
from partoken_jax.proteins.prepared import NAME, SPLITS

SCHEME = "given"
"""What the scheme of the column `split` is called."""


def read_labels(path: Path) -> tuple[Annotations, dict[str, Column]]:
    """The labels of a CSV file whose first line names its columns.

    `id` is the name of a structure file without its suffixes, or that and the chain ("1abc_A"). `split` is
    train, val or test, or empty for none. Every other column is of labels: the name of a class, several with
    ";" between them, or nothing.

    Raises DataError that names the line and the remedy.
    """
    labels: dict[str, dict[str, tuple[str, ...]]] = {}
    splits: dict[str, dict[str, str]] = {}
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is not a file; give a CSV file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, restkey="", strict=True)
            names = [name.strip() for name in rows.fieldnames or ()]
            _check_header(path, names)
            rows.fieldnames = names
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                if "" in row or None in row.values():
                    raise DataError(
                        f"{where}: has not one value for each of the {len(names)} columns; correct it"
                    )
                known = row.pop("id").strip()
                if not known or known in labels:
                    problem = f"the id {known!r} stands twice" if known else "the id is empty"
                    raise DataError(f"{where}: {problem}; give every protein one line")
                if (split := row.pop("split", "").strip()) not in (*SPLITS, ""):
                    raise DataError(f"{where}: split is {split!r}, but must be train, val, test or empty")
                if "split" in names:
                    splits[known] = {SCHEME: split or "none"}
                labels[known] = {column: _classes(cell) for column, cell in row.items()}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path of the labels") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8 ({error}); save it as such") from None
    columns = {}
    for column in (name for name in names if name not in ("id", "split")):
        used = {label for said in labels.values() for label in said[column]}
        if len(used) < 2:
            what = f"only one class, {min(used)!r}" if used else "no class"
            raise DataError(
                f"{path}: column {column!r} has {what}, but needs at least two; correct it or leave it out"
            )
        columns[column] = Column(several=any(len(said[column]) > 1 for said in labels.values()))
    if all(split[SCHEME] == "none" for split in splits.values()):
        splits = {}
    return Annotations(str(path), labels, splits), columns


def _check_header(path: Path, names: list[str]) -> None:
    if "id" not in names:
        raise DataError(f"{path}: has no column 'id' in its first line; name the column of the proteins so")
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: has two columns called {twice[0]!r}; rename one")
    for name in names:
        if not NAME.fullmatch(name):
            raise DataError(
                f"{path}: a column is called {name!r}, but as the name of a file it must have letters, "
                "digits, '-' and '_' alone; rename it"
            )


def _classes(cell: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in cell.split(";") if name.strip()))
