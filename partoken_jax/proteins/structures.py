"""Reads PDB and mmCIF files through gemmi: what a structure says, and what of it is left out."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import gemmi
import numpy as np

from partoken_jax.proteins.protein import RESIDUE_TYPES, UNKNOWN_RESIDUE, DataError, Protein

MAX_BYTES = 2**29
"""Of a structure file, unpacked: several times the largest of the PDB."""
BACKBONE = ("N", "CA", "C", "O")
_FORMATS = {
    ".pdb": gemmi.CoorFormat.Pdb,
    ".ent": gemmi.CoorFormat.Pdb,
    ".cif": gemmi.CoorFormat.Mmcif,
    ".mmcif": gemmi.CoorFormat.Mmcif,
}
SUFFIXES = (*_FORMATS, *(f"{suffix}.gz" for suffix in _FORMATS))
"""How names of structure files end, in small letters."""

_PEPTIDE = (gemmi.PolymerType.PeptideL, gemmi.PolymerType.PeptideD)
_NUCLEIC = (gemmi.PolymerType.Dna, gemmi.PolymerType.Rna, gemmi.PolymerType.DnaRnaHybrid)


@dataclass(frozen=True)
class Skipped:
    """Something of a source that is not in the data."""

    name: str
    """The file (without its suffixes), or the chain as it would be called."""
    what: str
    """ "file", "chain", "protein", "label" (of a table, for which there is no protein), or "residues" where a
    protein is there without some of its chain's residues."""
    reason: str


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a protein of L residues is in a structure file."""

    path: Path
    model: int
    """Number of the model in the file."""
    chain: str
    """Author's name of the chain (auth_asym_id)."""
    label_chain: str
    """Name of the chain in mmCIF (label_asym_id); that of the author in a PDB file."""
    label_numbers: np.ndarray
    """int32 [L]: numbers in the sequence of the chain (label_seq_id), 0 where the file has none."""
    plddt: np.ndarray
    """float32 [L]: confidence of a predicted structure, 0 to 100; NaN where the file is no prediction."""

    def cropped(self, max_length: int) -> "Origin":
        """Of the first `max_length` residues."""
        return replace(self, label_numbers=self.label_numbers[:max_length], plddt=self.plddt[:max_length])


@dataclass(frozen=True)
class StructureContents:
    """What `read_structure` found in a file."""

    proteins: list[Protein] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    """Of the proteins, in their order."""
    skipped: list[Skipped] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """How often something was chosen, replaced or left out, by what it is."""


def is_structure_file(path: Path) -> bool:
    """Whether the name of a file is that of a structure."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """The name of a structure file without .gz and without what tells its format."""
    return re.sub(r"\.(pdb|ent|cif|mmcif)(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def read_structure(path: Path, chains: Collection[str] | None = None) -> StructureContents:
    """The protein chains of the first model of a PDB or mmCIF file, plain or compressed (.gz).

    A chain is called by the file and its author's name ("1abc_A"), and keeps the author's residue numbers and
    insertion codes. Its residues are those of its polymer that are in the file: a gap stays a gap in the
    numbers, and an atom that is missing is NaN. Of alternate locations, and of residues that share a number,
    the one with the highest occupancy is taken, and the first of equal ones. Modified residues become their
    parent (MSE becomes M) by gemmi's table of residues, and `UNKNOWN_RESIDUE` where they have none.

    Args:
      path: the file; its name ends in one of `SUFFIXES`.
      chains: names of the chains to read; None for all.

    Returns:
      The proteins, in the order of the file, and what was left out: waters, ligands, chains of nucleic acids
      or of CA atoms alone, and a file that cannot be read. Nothing is raised for what a file holds.
    """
    name = stem(path)
    if (problem := _no_structure(path)) is not None:
        return StructureContents(skipped=[Skipped(name, "file", problem)])
    try:
        structure = gemmi.read_structure(str(path), format=_FORMATS[_suffix(path)])
        structure.setup_entities()
        return _contents(structure, name, chains)
    except (RuntimeError, ValueError, IndexError, OSError) as error:  # names in no text are found late
        reason = " ".join(str(error).replace(f"{path}", "").split()).strip(" :")
        return StructureContents(skipped=[Skipped(name, "file", f"it cannot be read ({reason})")])


def _contents(structure: gemmi.Structure, name: str, chains: Collection[str] | None) -> StructureContents:
    found = StructureContents()
    if not len(structure) or not len(structure[0]):
        found.skipped.append(Skipped(name, "file", "it holds no atoms"))
        return found
    if len(structure) > 1:
        found.counts["models after the first"] += len(structure) - 1
    chosen = [chain for chain in structure[0] if chains is None or chain.name in chains]
    if not chosen:
        there = ", ".join(chain.name or "(no name)" for chain in structure[0])
        found.skipped.append(Skipped(name, "file", f"it has none of the chosen chains, only {there}"))
    for chain in chosen:
        _add_chain(found, chain, f"{name}_{chain.name}" if chain.name else name)
    return found


def _no_structure(path: Path) -> str | None:
    """What is wrong with a file before it is read."""
    if not path.is_file():
        return "it is not a file"
    size = path.stat().st_size
    if path.name.lower().endswith(".gz") and size >= 4:
        with path.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":  # gzip, which ends with the length of what it holds
                file.seek(-4, os.SEEK_END)
                size = int.from_bytes(file.read(), "little")
    return f"it is larger than {MAX_BYTES >> 20} MiB" if size > MAX_BYTES else None


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _add_chain(found: StructureContents, chain: gemmi.Chain, name: str) -> None:
    """Adds the protein that a chain is, or why it is none, and what was left out of it."""
    polymer = chain.get_polymer()
    kind = polymer.check_polymer_type() if len(polymer) else None
    if kind not in _PEPTIDE:
        found.skipped.append(Skipped(name, "chain", _no_protein(chain, kind)))
        return
    if any(residue.seqid.num is None for residue in polymer):
        found.skipped.append(Skipped(name, "chain", "one of its residues has no number"))
        return
    letters, atoms, numbers, codes = [], [], [], []
    counts: Counter[str] = Counter()
    others = [residue for residue in chain if residue.entity_type != gemmi.EntityType.Polymer]
    for residue in _one_per_number(polymer, counts):
        letter = _letter(residue, counts)
        if letter is None:
            others.append(residue)
            continue
        letters.append(letter)
        atoms.append(_backbone(residue, counts))
        numbers.append(residue.seqid.num)
        codes.append(residue.seqid.icode)
    with np.errstate(over="ignore"):  # `Protein` refuses what is infinite
        backbone = np.array(atoms, np.float32).reshape(-1, 4, 3)
    present = np.isfinite(backbone).all(axis=2).any(axis=0).tolist()
    if present == [False, True, False, False]:
        found.skipped.append(
            Skipped(name, "chain", "it has CA atoms alone, but the model needs N, CA, C and O")
        )
        return
    try:
        protein = Protein(
            name=name,
            sequence="".join(letters),
            backbone=backbone,
            residue_numbers=np.array(numbers, np.int32),
            insertion_codes="".join(codes),
            chain=chain.name,
        )
    except DataError as error:
        found.skipped.append(Skipped(name, "chain", str(error).removeprefix(f"{name}: ")))
        return
    found.proteins.append(protein)
    counts["residues without all four backbone atoms"] += int((~protein.complete).sum())
    if others:
        found.skipped.append(Skipped(name, "residues", _listed(others)))
        counts["waters and ligands"] += len(others)
    found.counts.update(counts)


def _no_protein(chain: gemmi.Chain, kind: gemmi.PolymerType | None) -> str:
    if kind in _NUCLEIC:
        return "it is a nucleic acid"
    if kind is None:
        return f"it is no chain of amino acids: {_listed(chain)}"
    return "it is a polymer, but not of amino acids"


def _one_per_number(polymer: gemmi.ResidueSpan, counts: Counter[str]) -> Iterator[gemmi.Residue]:
    """Of the residues that share a number and insertion code, the one with the highest occupancy."""
    for _, same in groupby(polymer, key=lambda residue: (residue.seqid.num, residue.seqid.icode)):
        residues = list(same)
        if len(residues) == 1:
            yield residues[0]
            continue
        counts["residues that share a number with another"] += len(residues) - 1
        yield max(residues, key=lambda residue: max((atom.occ for atom in residue), default=0.0))


def _letter(residue: gemmi.Residue, counts: Counter[str]) -> str | None:
    """One of `RESIDUE_TYPES`, or X; None for what is no amino acid, such as the cap of an end."""
    info = gemmi.find_tabulated_residue(residue.name)
    if not info.is_amino_acid() and (info.found() or residue.find_atom("CA", "*") is None):
        return None
    letter = info.one_letter_code.upper()
    if letter not in RESIDUE_TYPES or not letter.strip():
        counts["residues without a standard parent (X)"] += 1
        return UNKNOWN_RESIDUE
    if info.one_letter_code.islower():
        counts["modified residues read as their parent"] += 1
    return letter


def _backbone(residue: gemmi.Residue, counts: Counter[str]) -> list[list[float]]:
    """N, CA, C and O in Å."""
    atoms, alternate = [], False
    for name in BACKBONE:
        atom = residue.find_atom(name, "*")
        if atom is None:
            atoms.append([np.nan] * 3)
            continue
        if atom.has_altloc():
            alternate = True
            atom = max(residue[name], key=lambda location: location.occ)  # the first of equal ones
        atoms.append(atom.pos.tolist())
    counts["residues with alternate locations"] += alternate
    return atoms


def _listed(residues: Any) -> str:
    """What the residues are: "2 waters, 1 GOL"."""
    names = Counter("water" if residue.is_water() else residue.name for residue in residues)
    return ", ".join(
        f"{number} {'waters' if name == 'water' and number > 1 else name}" for name, number in names.items()
    )
