"""ProteinShake's releases as a source: its files of atoms, with the labels and splits that they carry.

`EnzymeCommissionDataset.atom.avro` and the like are what ProteinShake keeps under its `root`. Labels are
those of its tasks EnzymeClassTask, GeneOntologyTask and StructuralClassTask.
"""

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from partoken_jax.prepare.records import Chunk, Column, Contents, Plan, Record
from partoken_jax.proteins import RESIDUE_TYPES, DataError, Protein
from partoken_jax.proteins.structures import BACKBONE
from partoken_jax.proteins.tasks import EC_CLASSES

RELEASES = {
    "proteinshake-ec": "EnzymeCommissionDataset",
    "proteinshake-go": "GeneOntologyDataset",
    "proteinshake-scop": "SCOPDataset",
}
"""The name of a source, and of the data set in ProteinShake."""
BRANCHES = ("molecular_function", "biological_process", "cellular_component")
"""Of the Gene Ontology."""
CHUNK = 64
"""Proteins read at a time, at least; a chunk is whole blocks of the file."""


def release_file(name: str, root: Path) -> Path:
    """The file of atoms of a release. Raises DataError where it is not under `root`."""
    dataset = RELEASES[name]
    path = root / f"{dataset}.atom.avro"
    if path.is_file():
        return path
    if (packed := path.with_name(f"{path.name}.gz")).is_file():
        raise DataError(f"{packed}: is compressed, which ProteinShake itself unpacks; run gunzip on it first")
    if (root / f"{dataset}.residue.avro").is_file():
        raise DataError(
            f"{root}: holds {dataset}.residue.avro, which has CA atoms alone; "
            f"put {path.name} beside it, because the model needs N, CA, C and O"
        )
    raise DataError(
        f"{path}: no such file; put ProteinShake's file there, or say with --root where ProteinShake keeps "
        "its files"
    )


def plan(path: Path) -> Plan:
    """How a file of atoms is read. Raises DataError for one that cannot be."""
    chunks: list[Chunk] = []
    said: dict[str, Any] = {}
    fastavro = _fastavro()
    try:
        with path.open("rb") as file:
            for block in fastavro.block_reader(file):
                if not chunks:
                    said = next(iter(block))["protein"]
                if not chunks or chunks[-1]["size"] >= CHUNK:
                    chunks.append({"reader": "proteinshake", "size": 0, "path": str(path), "blocks": []})
                chunks[-1]["blocks"].append(block.offset)
                chunks[-1]["size"] += block.num_records
        rules = {branch: Column(several=True) for branch in BRANCHES} | {"ec-class": Column(names=EC_CLASSES)}
        columns = {name: rules.get(name, Column()) for name in _labels(said)}
    except _damages() as error:
        raise _damaged(path, error) from None
    return Plan("ProteinShake", "proteins", chunks, columns, bool(_splits(said)), [str(path)])


def read(chunk: Chunk) -> Contents:
    """The proteins of a chunk. Raises DataError for a file that is damaged."""
    contents = Contents()
    path = chunk["path"]
    fastavro = _fastavro()
    try:
        with open(path, "rb") as file:
            blocks = fastavro.block_reader(file)
            for offset in chunk["blocks"]:
                file.seek(offset)
                for record in next(blocks):
                    _add(contents, record)
    except _damages() as error:
        raise _damaged(path, error) from None
    return contents


def _add(contents: Contents, record: dict[str, Any]) -> None:
    said = record["protein"]
    name = said["ID"]
    if "atom" not in record:
        raise DataError(
            f"{name}: has CA atoms alone, but the model needs N, CA, C and O; give the file of atoms"
        )
    atoms = record["atom"]
    chains = list(dict.fromkeys(atoms.get("chain_id", ("A",))))
    if len(chains) != 1:
        contents.skip(name, f"it has {len(chains)} chains, whose residues cannot be told apart")
        return
    wanted = np.isin(np.array(atoms["atom_type"], "U8"), BACKBONE)
    if not wanted.any():
        contents.skip(name, "none of its residues has all four backbone atoms")
        return
    # The file has no insertion codes. As in the original, a residue is what has a number of its own, and of
    # atoms with one name (alternate locations) the first counts: written last to first.
    kind = np.array([BACKBONE.index(a) for a in np.array(atoms["atom_type"])[wanted]])[::-1]
    numbers, residue = np.unique(np.array(atoms["residue_number"])[wanted], return_inverse=True)
    residue = residue[::-1]
    backbone = np.full((len(numbers), 4, 3), np.nan, np.float32)
    letters = np.empty(len(numbers), "U1")
    backbone[residue, kind] = np.array([atoms["x"], atoms["y"], atoms["z"]], np.float32).T[wanted][::-1]
    letters[residue] = np.array(atoms["residue_type"], "U1")[wanted][::-1]
    letters[~np.isin(letters, list(RESIDUE_TYPES))] = "X"
    try:
        protein = Protein(
            name=name,
            sequence="".join(letters),
            backbone=backbone,
            residue_numbers=numbers.astype(np.int32),
            chain=chains[0],
        )
    except DataError as error:
        contents.skip(name, str(error).removeprefix(f"{name}: "))
        return
    contents.add(Record(protein, _labels(said), _splits(said)))


def _labels(said: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """As in ProteinShake's tasks: the first number of an EC, the terms of a branch, a level of SCOP."""
    labels: dict[str, tuple[str, ...]] = {
        key: (str(value),) for key, value in said.items() if key.startswith("SCOP-")
    }
    labels |= {branch: tuple(dict.fromkeys(said[branch])) for branch in BRANCHES if branch in said}
    if "EC" in said:
        number = said["EC"].partition(".")[0]
        if not number.isdecimal() or not 1 <= int(number) <= len(EC_CLASSES):
            raise DataError(f"{said['ID']}: EC is {said['EC']!r}, but must be a number such as 2.7.7.4")
        labels["ec-class"] = (EC_CLASSES[int(number) - 1],)
    return labels


def _splits(said: dict[str, Any]) -> dict[str, str]:
    """ "random", and "sequence-70" for the split in which nothing is more alike than 70%, say."""
    found = {}
    for key, value in said.items():
        if match := re.fullmatch(r"(random|sequence|structure)_split(?:_(0\.\d+))?", key):
            name, limit = match.groups()
            found[name if limit is None else f"{name}-{100 * float(limit):.0f}"] = value
    return found


def _fastavro() -> Any:
    try:
        import fastavro
    except ImportError:
        raise DataError(
            "ProteinShake's .avro files are read with fastavro; run pip install 'partoken_jax[proteinshake]'"
        ) from None
    return fastavro


def _damages() -> tuple[type[Exception], ...]:
    """What reading a file that is none of ProteinShake's, or not whole, may raise."""
    own = (ValueError, EOFError, LookupError, TypeError, AttributeError, StopIteration, ArithmeticError)
    return (*own, MemoryError, zlib.error, _fastavro().schema.SchemaParseException)


def _damaged(path: Any, error: Exception) -> DataError:
    if isinstance(error, DataError):
        return DataError(f"{path}: {error}")
    words = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path}: is not a whole file of ProteinShake's proteins ({words}); fetch it again")
