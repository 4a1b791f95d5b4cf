"""Tells polymers, waters and ligands of a chain of a gemmi.Structure apart, where the file does not."""

from itertools import groupby
from typing import NamedTuple

import gemmi

BACKBONE = ("N", "CA", "C", "O")
LONGEST_BOND = 2.5
"""Å between C and the N of the next residue, which are 1.33 Å apart; what is further apart is a gap."""
_SOLVENTS = ("SOL", "TIP", "TIP3", "TIP4", "TP3", "T3P", "T4P", "SPC")
"""Names of water in molecular dynamics, which gemmi does not know."""

_PEPTIDE = gemmi.PolymerType.PeptideL
_POLYMER, _WATER = gemmi.EntityType.Polymer, gemmi.EntityType.Water


def set_entity_types(structure: gemmi.Structure) -> None:
    """Sets the types of entities that are unknown, and of waters.

    gemmi alone ends a chain without a TER record at its first gap, and takes the waters of a simulation for
    residues of the protein that they share a chain with; naming each of them takes it seconds.
    """
    for model in structure:
        for chain in model:
            _set_chain_types(chain)
    structure.add_entity_types(overwrite=False)  # what is still unknown, such as nucleic acids


def _set_chain_types(chain: gemmi.Chain) -> None:
    for residue in chain:  # a TER record may stand after them, which makes them a part of the polymer
        if is_water(residue):
            residue.entity_type = _WATER
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
    """The first polymer of L-amino acids, as far as its numbers do not begin again; empty without one."""
    repeated: list[gemmi.Residue]
    """The rest of it, as where a PDB file has two chains of one name."""
    others: list[list[gemmi.Residue]]


def polymers_of(chain: gemmi.Chain) -> Polymers:
    """The polymers of a chain whose types are set (`set_entity_types`)."""
    parts = [part for part in chain.subchains() if any(residue.entity_type == _POLYMER for residue in part)]
    kinds = [part.check_polymer_type() for part in parts]
    residues = [[residue for residue in part if residue.entity_type == _POLYMER] for part in parts]
    if _PEPTIDE not in kinds:
        return Polymers(kinds, [], [], residues)
    first = residues.pop(kinds.index(_PEPTIDE))
    seen: set[tuple[int | None, str]] = set()
    end = 0
    for number, same in groupby(first, key=residue_number):
        if number in seen:
            break
        seen.add(number)
        end += len(list(same))
    return Polymers(kinds, first[:end], first[end:], residues)


def residue_number(residue: gemmi.Residue) -> tuple[int | None, str]:
    """Author's number and insertion code."""
    return residue.seqid.num, residue.seqid.icode
