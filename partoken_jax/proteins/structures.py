"""Reads structure files through gemmi: what a structure says, and what of it is left out."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import gemmi
import numpy as np

from partoken_jax.proteins.polymers import (
    BACKBONE,
    LONGEST_BOND,
    Polymers,
    is_water,
    polymers_of,
    residue_number,
    set_entity_types,
)
from partoken_jax.proteins.protein import RESIDUE_TYPES, UNKNOWN_RESIDUE, DataError, Protein
from partoken_jax.proteins.structure_formats import Opened, StructureError, open_structure, stem, text_of

Models = Literal["first", "all"]
SHOWN = 12
"""Residues that a line about a chain names one by one."""
_PARENTS = {"U": "C", "O": "K"}
"""Of selenocysteine and pyrrolysine, which have letters of their own."""
_FORCE_FIELDS = {
    **dict.fromkeys(("HSD", "HSE", "HSP", "HID", "HIE", "HIP"), "H"),
    **{"CYX": "C", "CYM": "C", "ASH": "D", "GLH": "E", "LYN": "K"},
}
"""Names by which CHARMM and Amber tell the protonation of a residue."""
_NUCLEIC = (gemmi.PolymerType.Dna, gemmi.PolymerType.Rna, gemmi.PolymerType.DnaRnaHybrid)


@dataclass(frozen=True)
class Skipped:
    """Something of a source that is not in the data, or not as it is in the source."""

    name: str
    """The file, or the chain, as it would be called."""
    what: str
    """ "file", "chain", "protein", "label" (of a table, for which there is no protein), "structure" (file
    of an annotated protein, with its clusters), or "residues" where a protein is there, but some of its
    chain's residues are missing, masked or of unknown type."""
    reason: str
    path: str = ""
    """The structure file that it is of, if it is of one, as text (`structure_formats.text_of`)."""


def path_of(origin: "Origin | None") -> str:
    """The file that a protein is from, or "", for `Skipped`."""
    return "" if origin is None else text_of(str(origin.path))


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


def read_structure(
    path: Path,
    chains: Collection[str] | None = None,
    models: Models = "first",
    *,
    name: str | None = None,
) -> StructureContents:
    """The protein chains of a PDB, mmCIF, BinaryCIF or mmJSON file, plain or compressed (.gz).

    A chain is called by the file and its author's name ("1abc_A"), and keeps the author's residue numbers and
    insertion codes. Those of later models have the number of their model as well ("1abc_model2_A"). A chain's
    residues are those of its polymer that are in the file: a gap stays a gap in the numbers, and an atom that
    is missing is NaN. Of alternate locations, the conformer with the highest occupancy is taken, of residues
    that share a number the one with the highest, and the first of equal ones. Modified residues become their
    parent (MSE becomes M) by gemmi's table of residues, and `UNKNOWN_RESIDUE` where they have none or are
    D-amino acids. Where a file is a prediction (`open_structure` says how that is told), B factors of CA are
    its pLDDT; those up to 1 are taken as shares of 100.

    Args:
      path: the file; its name ends in one of `structure_formats.SUFFIXES_NAMED`.
      chains: author's names of the chains to read; None for all.
      models: whether to read the first model, or "all", such as those of an NMR ensemble.
      name: what the file is called; None for its name without suffixes.

    Returns:
      The proteins, in the order of the file, and what was left out: waters, ligands, chains of nucleic acids,
      of D-amino acids or of CA atoms alone, and a file that cannot be read. Nothing is raised for what a file
      holds.
    """
    found = _contents(path, chains, models, stem(path) if name is None else name)
    return replace(found, skipped=[replace(entry, path=text_of(str(path))) for entry in found.skipped])


def _contents(path: Path, chains: Collection[str] | None, models: Models, name: str) -> StructureContents:
    found = StructureContents()
    try:
        opened = open_structure(path)
    except StructureError as error:
        return StructureContents(skipped=[Skipped(name, "file", str(error))])
    try:
        set_entity_types(opened.structure)
        there: dict[str, None] = {}
        for i, model in enumerate(opened.structure):
            if i and models == "first":
                found.counts["models after the first"] = len(opened.structure) - 1
                break
            there |= dict.fromkeys(chain.name for chain in model)
            _add_model(found, opened, i, name if i == 0 else f"{name}_model{model.num}", chains, path)
        found.skipped.extend(_not_there(name, there, chains))
    except (RuntimeError, ValueError, IndexError) as error:  # names in no text are found late
        reason = " ".join(str(error).split())
        return StructureContents(skipped=[Skipped(name, "file", f"it cannot be read ({reason})")])
    return found


def _not_there(name: str, there: Collection[str], chains: Collection[str] | None) -> list[Skipped]:
    """The chosen chains that a file does not have; that it has none of them is said of the file."""
    missing = sorted(set(chains or ()) - set(there))
    reason = f"the file has no such chain, only {', '.join(one or '(no name)' for one in there)}"
    some = len(missing) < len(set(chains or ()))
    return [Skipped(f"{name}_{chain}", "chain", reason) for chain in missing if some]


def _add_model(
    found: StructureContents,
    opened: Opened,
    place: int,
    name: str,
    chains: Collection[str] | None,
    path: Path,
) -> None:
    model = opened.structure[place]
    chosen = [chain for chain in model if chains is None or chain.name in chains]
    if not chosen:
        there = ", ".join(chain.name or "(no name)" for chain in model)
        found.skipped.append(Skipped(name, "file", f"it has none of the chosen chains, only {there}"))
    for chain in chosen:
        _add_chain(found, opened, model.num, chain, f"{name}_{chain.name}" if chain.name else name, path)


def _add_chain(
    found: StructureContents, opened: Opened, model: int, chain: gemmi.Chain, name: str, path: Path
) -> None:
    """Adds the protein that a chain is, or why it is none, and what was left out of it."""
    polymers = polymers_of(chain)
    residues = polymers.peptide
    if not residues:
        found.skipped.append(Skipped(name, "chain", _no_protein(chain, polymers.kinds)))
        return
    label_chain = residues[0].subchain
    if any(residue.seqid.num is None for residue in residues):
        found.skipped.append(Skipped(name, "chain", "one of its residues has no number"))
        return
    counts: Counter[str] = Counter()
    letters = [(residue, _letter(residue, counts)) for residue in _one_per_number(residues, counts)]
    kept = [residue for residue, letter in letters if letter is not None]
    others = [residue for residue, letter in letters if letter is None]
    others += [other for other in chain if other.entity_type != gemmi.EntityType.Polymer]
    with np.errstate(over="ignore"):  # `Protein` refuses what is infinite
        atoms = [_backbone(residue, counts) for residue in kept]
        backbone = np.array(atoms, np.float32).reshape(-1, 4, 3)
    if np.isfinite(backbone).all(axis=2).any(axis=0).tolist() == [False, True, False, False]:
        reason = "it has CA atoms alone, but the model needs N, CA, C and O"
        found.skipped.append(Skipped(name, "chain", reason))
        return
    try:
        protein = Protein(
            name=name,
            sequence="".join(letter for _, letter in letters if letter is not None),
            backbone=backbone,
            residue_numbers=np.array([residue.seqid.num for residue in kept], np.int32),
            insertion_codes="".join(residue.seqid.icode for residue in kept),
            chain=chain.name,
        )
    except DataError as error:
        found.skipped.append(Skipped(name, "chain", str(error).removeprefix(f"{name}: ")))
        return
    found.proteins.append(protein)
    found.origins.append(
        Origin(
            path=path,
            model=model,
            chain=chain.name,
            label_chain=label_chain or chain.name,
            label_numbers=np.array([residue.label_seq or 0 for residue in kept], np.int32),
            plddt=_plddt(kept) if opened.is_predicted else np.full(len(kept), np.nan, np.float32),
        )
    )
    found.counts.update(counts)
    _add_notes(found, protein, kept, others)
    _add_polymers(found, name, polymers)


def _add_polymers(found: StructureContents, name: str, polymers: Polymers) -> None:
    """Lists what a chain has beside its first polymer of amino acids."""
    if polymers.repeated:
        reason = (
            "numbers of its residues come again, as in a second chain of this name, which is left out: "
            f"{_span(polymers.repeated)}; give it another name"
        )
        found.skipped.append(Skipped(name, "chain", reason))
    for other in polymers.others:
        reason = f"it has another polymer, which is left out: {_span(other)}"
        found.skipped.append(Skipped(name, "chain", reason))


def _span(residues: list[gemmi.Residue]) -> str:
    first, last = residues[0].seqid, residues[-1].seqid
    return f"1 residue ({first})" if len(residues) == 1 else f"{len(residues)} residues ({first} to {last})"


def _add_notes(
    found: StructureContents, protein: Protein, kept: list[gemmi.Residue], others: list[gemmi.Residue]
) -> None:
    """Counts and lists what was left out of a protein, and which of its residues are not whole."""
    unknown = [
        residue for residue, letter in zip(kept, protein.sequence, strict=True) if letter == UNKNOWN_RESIDUE
    ]
    ends, starts = protein.backbone[:-1, 2], protein.backbone[1:, 0]  # [L - 1, 3]
    gaps = np.linalg.norm(ends.astype(np.float64) - starts, axis=1) > LONGEST_BOND  # NaN is no gap
    found.counts["waters and ligands"] += len(others)
    found.counts["residues without all four backbone atoms"] += int((~protein.complete).sum())
    found.counts["gaps in chains"] += int(gaps.sum())
    for reason, residues in (
        ("{}", _listed(others)),
        ("read as X (unknown): {}", _listed(unknown)),
        ("masked, as they lack an atom of the backbone: {}", _numbered(protein, ~protein.complete)),
        ("residues are missing after {}", _numbered(protein, gaps)),
        (
            "have atoms twice, as of a second chain of this name, and the first are taken: {}",
            _numbered(protein, np.array([_has_twins(residue) for residue in kept], bool)),
        ),
    ):
        if residues:
            found.skipped.append(Skipped(protein.name, "residues", reason.format(residues)))


def _has_twins(residue: gemmi.Residue) -> bool:
    atoms = [(atom.name, atom.altloc) for atom in residue]
    return len(set(atoms)) < len(atoms)


def _no_protein(chain: gemmi.Chain, kinds: list[gemmi.PolymerType]) -> str:
    if any(kind in _NUCLEIC for kind in kinds):
        return "it is a nucleic acid"
    if gemmi.PolymerType.PeptideD in kinds:
        return "it is a chain of D-amino acids, which the model does not know"
    if not kinds or kinds == [gemmi.PolymerType.Unknown]:
        return f"it is no chain of amino acids: {_listed(chain)}"
    return "it is a polymer, but not of amino acids"


def _one_per_number(polymer: Iterable[gemmi.Residue], counts: Counter[str]) -> Iterator[gemmi.Residue]:
    """Of the residues that share a number and insertion code, the one with the highest occupancy."""
    for _, same in groupby(polymer, key=residue_number):
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
    code = info.one_letter_code if info.found() else _FORCE_FIELDS.get(residue.name, "").lower()
    letter = _PARENTS.get(code, code.upper())
    if info.kind == gemmi.ResidueKind.AAD:
        counts["D-amino acids (X)"] += 1
        return UNKNOWN_RESIDUE
    if letter not in RESIDUE_TYPES or not letter.strip():
        counts["residues without a standard parent (X)"] += 1
        return UNKNOWN_RESIDUE
    counts["modified residues read as their parent"] += letter != code
    return letter


def _backbone(residue: gemmi.Residue, counts: Counter[str]) -> list[list[float]]:
    """N, CA, C and O in Å, of one conformer where it has them all."""
    places = [[atom for atom in residue if atom.name == name] for name in BACKBONE]
    occupancy: dict[str, float] = {}
    for atom in (atom for atoms in places for atom in atoms if atom.has_altloc()):
        occupancy[atom.altloc] = occupancy.get(atom.altloc, 0.0) + atom.occ
    counts["residues with alternate locations"] += bool(occupancy)
    best = max(occupancy, key=occupancy.__getitem__, default=None)  # the first of equal ones
    chosen = [
        next((atom for atom in atoms if atom.altloc == best), None)
        or max(atoms, key=lambda atom: atom.occ, default=None)
        for atoms in places
    ]
    return [[np.nan] * 3 if atom is None else atom.pos.tolist() for atom in chosen]


def _plddt(residues: list[gemmi.Residue]) -> np.ndarray:
    """float32 [L]: B factors of CA; NaN for all where one of them is no confidence."""
    atoms = [residue.find_atom("CA", "*") for residue in residues]
    values = np.array([np.nan if atom is None else atom.b_iso for atom in atoms], np.float32)
    there = values[~np.isnan(values)]  # of one that is infinite, none is a confidence
    if there.size and there.min() >= 0 and there.max() <= 100:
        return values * 100 if there.max() <= 1 else values
    return np.full_like(values, np.nan)


def _listed(residues: Iterable[gemmi.Residue]) -> str:
    """What the residues are: "2 waters, 1 GOL"."""
    names = Counter("water" if is_water(residue) else residue.name for residue in residues)
    return ", ".join(
        f"{number} {'waters' if name == 'water' and number > 1 else name}" for name, number in names.items()
    )


def _numbered(protein: Protein, chosen: np.ndarray) -> str:
    """Numbers of some residues: "17, 18A, and 3 more"."""
    places = np.flatnonzero(chosen).tolist()
    numbers = [f"{protein.residue_numbers[i]}{protein.insertion_codes[i]}".strip() for i in places[:SHOWN]]
    return ", ".join([*numbers, *([f"and {len(places) - SHOWN} more"] if len(places) > SHOWN else [])])
