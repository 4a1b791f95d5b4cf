"""The two layouts in which BioBlobs (the original) keeps its data, as sources.

The published one has all proteins of a split in a file, `ec/structure/ec_train.json`, with the classes in
`ec_token_map.json`. The later one has a PDB file per protein, `ec_proteinshake/pdb/`, and tables beside it.
"""

import csv
import json
import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.prepare.records import Annotations, Chunk, Column, Contents, Plan, Record
from partoken_jax.proteins import RESIDUE_TYPES, DataError, Protein
from partoken_jax.proteins.prepared import SPLITS
from partoken_jax.proteins.tasks import EC_CLASSES

CHUNK = 64
"""Proteins read at a time."""
_EC_NAMES = ("ec", "enzymecommission")
_WRONG = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError)
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}]')


def is_json_folder(path: Path) -> bool:
    """Whether a folder is of the published layout."""
    return any(path.glob("*_train.json"))


def plan_json(folder: Path) -> Plan:
    """How a folder of the published layout is read. Raises DataError for one that is not whole."""
    name = min(folder.glob("*_train.json")).name.removesuffix("_train.json")
    column, classes = _classes(folder / f"{name}_token_map.json", name)
    chunks: list[Chunk] = []
    several = False
    for split in SPLITS:
        path = folder / f"{name}_{split}.json"
        if not path.is_file():
            raise DataError(f"{path}: no such file, but {folder} has {name}_train.json; put it beside that")
        spans = _spans(path)
        several = several or _has_list(path, spans)
        for first in range(0, len(spans), CHUNK):
            part = spans[first : first + CHUNK]
            chunks.append(
                {"reader": "bioblobs", "size": len(part), "path": str(path), "spans": part}
                | {"name": name, "split": split, "beside": [str(folder / f"{name}_token_map.json")]}
            )
    return Plan(
        "BioBlobs", "proteins", chunks, {column: Column(several, tuple(classes))}, True, [str(folder)]
    )


def read(chunk: Chunk) -> Contents:
    """The proteins of a chunk. Raises DataError for a file that is damaged."""
    contents = Contents()
    path = Path(chunk["path"])
    column, classes = _classes(path.with_name(f"{chunk['name']}_token_map.json"), chunk["name"])
    with path.open("rb") as file:
        for start, stop in chunk["spans"]:
            file.seek(start)
            try:
                said = json.loads(file.read(stop - start))
                name, label = str(said["name"]), said["label"]
                sequence = "".join(letter if letter in RESIDUE_TYPES else "X" for letter in said["seq"])
                coordinates = np.array(said["coords"], np.float32)
            except _WRONG as error:
                raise DataError(
                    f"{path}: byte {start} does not begin a protein with name, seq, coords and label "
                    f"({type(error).__name__}: {error}); write the file anew"
                ) from None
            coordinates[~np.isfinite(coordinates)] = np.nan
            try:
                protein = Protein(name=name, sequence=sequence, backbone=coordinates)
            except DataError as error:
                contents.skip(name, str(error).removeprefix(f"{name}: "))
                continue
            labels = {column: _names(label, classes, f"{path}: {name}")}
            contents.add(Record(protein, labels, {path.parent.name: chunk["split"]}))
    return contents


def is_pdb_folder(path: Path) -> bool:
    """Whether a folder is of the later layout."""
    return (path / "pdb").is_dir() and any(path.glob("*/train_split.csv"))


def pdb_annotations(folder: Path) -> tuple[Annotations, dict[str, Column]]:
    """The tables of a folder of the later layout, and its label column."""
    splits: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*/*_split.csv")):
        split = path.name.removesuffix("_split.csv")
        if split not in SPLITS:
            raise DataError(f"{path}: {split!r} is no split; name the file train, val or test")
        for row in _rows(path, ("pdb_id",)):
            splits.setdefault(row["pdb_id"], {})[path.parent.name] = split
    name = folder.name.removesuffix("_proteinshake")
    if (path := folder / "labels.csv").is_file():
        said = {row["pdb_id"]: row["label"] for row in _rows(path, ("pdb_id", "label"))}
        if all(re.fullmatch(r"[1-7]\..*", label) for label in said.values()):  # numbers such as 2.7.7.4
            labels = {known: {"ec-class": (EC_CLASSES[int(ec[0]) - 1],)} for known, ec in said.items()}
            return Annotations(str(path), labels, splits), {"ec-class": Column(names=EC_CLASSES)}
        return Annotations(str(path), {known: {name: (s,)} for known, s in said.items()}, splits), {
            name: Column()
        }
    path = folder / "targets.jsonl"
    column, classes = _classes(folder / "token_map.json", name)
    labels, several = {}, False
    try:
        for line in _text(path).splitlines():
            row = json.loads(line)
            several = several or "label_ids" in row
            numbers = row["label_ids"] if "label_ids" in row else [row["label_id"]]
            labels[row["pdb_id"]] = {column: tuple(classes[number] for number in numbers)}
    except (OSError, *_WRONG) as error:
        raise DataError(f"{path}: does not hold a label for every protein ({error}); write it anew") from None
    return Annotations(str(path), labels, splits), {column: Column(several, tuple(classes))}


def _classes(path: Path, name: str) -> tuple[str, list[str]]:
    """The label column and the names of its classes, in their order."""
    try:
        number = {str(label): int(index) for label, index in json.loads(_text(path)).items()}
    except (OSError, *_WRONG) as error:
        raise DataError(
            f"{path}: does not name the classes ({error}); put the file there or write it anew"
        ) from None
    classes = sorted(number, key=number.__getitem__)
    if [number[label] for label in classes] != list(range(len(classes))):
        raise DataError(f"{path}: classes must be numbered from 0 without a gap; write it anew")
    if name in _EC_NAMES and all(re.fullmatch("[1-7]", label) for label in classes):
        return "ec-class", [EC_CLASSES[int(label) - 1] for label in classes]
    return name, classes


def _names(label: Any, classes: list[str], who: str) -> tuple[str, ...]:
    """Names of the classes that a label means: the number of one, or a 0 or 1 for each."""
    if isinstance(label, list) and len(label) == len(classes):
        return tuple(name for name, there in zip(classes, label, strict=True) if there)
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(classes):
        return (classes[label],)
    raise DataError(
        f"{who}: label must be the number of one of the {len(classes)} classes, or a list of 0 or 1 for "
        "each; write the file anew"
    )


def _spans(path: Path) -> list[tuple[int, int]]:
    """Where in a JSON list its objects begin and end, in bytes; found without holding the file in memory."""
    spans, depth, start = [], 0, 0
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty; write it anew")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for token in _TOKENS.finditer(data):
            if token.group() == b"{":
                start = token.start() if depth == 0 else start
                depth += 1
            elif token.group() == b"}":
                depth -= 1
                if depth == 0:
                    spans.append((start, token.end()))
        if depth or data[:1] != b"[" or not data[-16:].rstrip().endswith(b"]"):
            raise DataError(f"{path}: is not a whole JSON list of proteins; write it anew")
    return spans


def _has_list(path: Path, spans: list[tuple[int, int]]) -> bool:
    """Whether the first protein of a file is labelled with a list."""
    if not spans:
        return False
    with path.open("rb") as file:
        file.seek(spans[0][0])
        try:
            return isinstance(json.loads(file.read(spans[0][1] - spans[0][0])).get("label"), list)
        except _WRONG:
            return False  # `read` says what is wrong


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The lines of a table. Raises DataError where a column is missing."""
    try:
        rows = list(csv.DictReader(_text(path).splitlines(), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8 ({error}); write it anew") from None
    if any(not row.get(column) for row in rows for column in columns):
        raise DataError(f"{path}: must have a value in {' and '.join(columns)} on every line; write it anew")
    return rows


def _text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is not a file; write it anew")
    return path.read_text(encoding="utf-8")
