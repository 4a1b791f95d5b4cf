"""Tells polymers, waters and ligands of a chain of a gemmi.Structure apart, where the file does not."""

from itertools import groupby
from typing import NamedTuple

import gemmi

BACKBONE = ("N", "CA", "C", "O")
LONGEST_BOND = 2.5
"""Å between C and the N of the next residue, which are 1.33 Å apart; what is further apart is a gap."""
FARTHEST_CA = 4.0
"""Å between the CA atoms of bonded residues, at most; they are 3.8 Å apart, or 2.9 where the bond is cis."""
_SOLVENTS = ("SOL", "TIP", "TIP3", "TIP4", "TP3", "T3P", "T4P", "SPC")
"""Names of water in molecular dynamics, which gemmi does not know."""

_PEPTIDE = gemmi.PolymerType.PeptideL
_POLYMER, _WATER = gemmi.EntityType.Polymer, gemmi.EntityType.Water


def set_entity_types(structure: gemmi.Structure) -> None:
    """Sets the types of entities that are unknown, and of waters.

    gemmi alone ends a chain without a TER record at its first gap, and takes the waters of a simulation for
    residues of the protein that they share a chain with; naming each of them takes it seconds. Of a PDB file
    it takes all that comes after a TER record for ligands, even where the chain goes on.
    """
    has_ters = structure.input_format == gemmi.CoorFormat.Pdb
    for model in structure:
        for chain in model:
            _set_chain_types(chain, has_ters)
    structure.add_entity_types(overwrite=False)  # what is still unknown, such as nucleic acids


def _set_chain_types(chain: gemmi.Chain, has_ters: bool) -> None:
    for residue in chain:  # a TER record may stand after them, which makes them a part of the polymer
        if is_water(residue):
            residue.entity_type = _WATER
    ligands = [residue for residue in chain if residue.entity_type == gemmi.EntityType.NonPolymer]
    more = [residue for residue in ligands if residue.het_flag == "A" and _is_amino_acid(residue)]
    if has_ters and more and _goes_on(chain, more[0]):
        for residue in ligands:  # the record did not end the chain
            residue.entity_type = gemmi.EntityType.Unknown
    unknown = [residue for residue in chain if residue.entity_type == gemmi.EntityType.Unknown]
    acids = [_is_amino_acid(residue) for residue in unknown]
    ends = [i for i, residue in enumerate(unknown) if acids[i] and residue.het_flag == "A"]
    if not ends:
        return
    last = None
    for i, residue in enumerate(unknown):
        # After the last ATOM record a modified end of the chain is bound to it, and a ligand is not.
        if acids[i] and (i <= ends[-1] or (last is not None and _are_bound(last, residue))):
            residue.entity_type, last = _POLYMER, residue
        else:
            residue.entity_type = gemmi.EntityType.NonPolymer


def _goes_on(chain: gemmi.Chain, residue: gemmi.Residue) -> bool:
    """Whether a residue can be of the polymer that a chain has: its number is higher than that of the last
    one, and it is near enough for what may be missing between them."""
    last = [other for other in chain if other.entity_type == _POLYMER][-1:]
    if not last or last[0].seqid.num is None or residue.seqid.num is None:
        return False
    bonds = residue.seqid.num - last[0].seqid.num
    end, start = last[0].find_atom("CA", "*"), residue.find_atom("CA", "*")
    if end is None or start is None:
        return False
    return bonds > 0 and end.pos.dist(start.pos) <= FARTHEST_CA * bonds


def is_water(residue: gemmi.Residue) -> bool:
    """Whether it is a water, also of a simulation."""
    return residue.is_water() or residue.name in _SOLVENTS


def _is_amino_acid(residue: gemmi.Residue) -> bool:
    info = gemmi.find_tabulated_residue(residue.name)
    return info.is_amino_acid() if info.found() else all(residue.find_atom(a, "*") for a in BACKBONE[:3])


def _are_bound(first: gemmi.Residue, second: gemmi.Residue) -> bool:
    end, start = first.find_atom("C", "*"), second.find_atom("N", "*")
    return end is not None and start is not None and end.pos.dist(start.pos) < LONGEST_BOND


class Polymers(NamedTuple):
    """What a chain has of polymers."""

    kinds: list[gemmi.PolymerType]
    peptide: list[gemmi.Residue]
    """The first polymer of L-amino acids; of residues that have a number twice, the first. Empty without."""
    repeated: list[gemmi.Residue]
    """Its residues that have the number of an earlier one, as where a PDB file has two chains of one name."""
    others: list[list[gemmi.Residue]]


def polymers_of(chain: gemmi.Chain) -> Polymers:
    """The polymers of a chain whose types are set (`set_entity_types`)."""
    kinds: dict[str, gemmi.PolymerType] = {}
    residues: dict[str, list[gemmi.Residue]] = {}
    for part in chain.subchains():  # a ligand in the midst of a polymer makes two parts of it
        name, own = part.subchain_id(), [residue for residue in part if residue.entity_type == _POLYMER]
        if own:
            residues.setdefault(name, []).extend(own)
            if kinds.get(name, gemmi.PolymerType.Unknown) == gemmi.PolymerType.Unknown:
                kinds[name] = part.check_polymer_type()
    first = next((name for name, kind in kinds.items() if kind == _PEPTIDE), None)
    peptide, repeated = ([], []) if first is None else _split(residues.pop(first))
    return Polymers(list(kinds.values()), peptide, repeated, list(residues.values()))


def _split(polymer: list[gemmi.Residue]) -> tuple[list[gemmi.Residue], list[gemmi.Residue]]:
    """The residues whose number is new, and those whose number was there before.

    Where a whole residue comes again, so does a chain, and all that follows is of it; where atoms do, such as
    hydrogens at the end of a file, it goes on.
    """
    kept: list[gemmi.Residue] = []
    repeated: list[gemmi.Residue] = []
    whole: dict[tuple[int | None, str], bool] = {}
    is_second = False
    for number, group in groupby(polymer, key=residue_number):
        same = list(group)
        has_ca = any(residue.find_atom("CA", "*") for residue in same)
        is_second |= has_ca and whole.get(number, False)
        (repeated if is_second or number in whole else kept).extend(same)
        whole.setdefault(number, has_ca)
    return kept, repeated


def residue_number(residue: gemmi.Residue) -> tuple[int | None, str]:
    """Author's number and insertion code."""
    return residue.seqid.num, residue.seqid.icode
