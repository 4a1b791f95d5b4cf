"""Catalytic residues of the Mechanism and Catalytic Site Atlas (M-CSA), found again in proteins.

M-CSA (Ribeiro et al. 2018, Nucleic Acids Research 46, D618; CC BY 4.0) lists them for reference structures
and their homologues; the package `enzymm` (MIT) carries the list. Of that package only this file is read:
nothing of it is imported.
"""

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gemmi
import numpy as np

from partoken_jax.files import unreadable
from partoken_jax.proteins import DataError, Protein
from partoken_jax.proteins.protein import RESIDUE_TYPES

FILE = "catalytic_residue_homologs_information.json"
LETTERS = {gemmi.expand_one_letter(letter, gemmi.ResidueKind.AA): letter for letter in RESIDUE_TYPES}
"""One letter for the three of each standard residue."""

Residue = tuple[int, str]
"""Number and three-letter name of a residue."""


Numbering = Literal["sequence", "author"]
NUMBERS: dict[Numbering, str] = {"sequence": "resid", "author": "auth_resid"}
"""What M-CSA calls the numbers of each kind."""


class Matched(NamedTuple):
    """Which residues of some proteins are catalytic."""

    numbering: Numbering
    """By which of M-CSA's numbers they were found."""

    sites: dict[str, np.ndarray]
    """Protein → indices of its catalytic residues, int64, ascending; only of proteins with at least one."""
    asked: int
    """Catalytic residues that M-CSA lists for these proteins."""
    unmatched: list[str]
    """Those that are not found in them, each with the reason."""

    @property
    def matched(self) -> int:
        """Residues that were found."""
        return sum(map(len, self.sites.values()))


def mcsa_file() -> Path:
    """M-CSA's file in the package `enzymm`. Raises DataError where that is not installed."""
    spec = find_spec("enzymm")  # which finds a package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the catalytic residues of M-CSA come with the package enzymm, which is not installed; install "
            "it with `pip install 'partoken_jax[sites]'`"
        )
    return Path(spec.submodule_search_locations[0]) / "data" / FILE


def read_mcsa(path: Path) -> dict[Numbering, dict[str, set[Residue]]]:
    """Catalytic residues of every chain that M-CSA lists, in either numbering, under the chain's name as in
    "1abc_A".

    The packaged chains are numbered by the sequence, those that are read from structure files by its author.
    Records without a number, of homologues that lack the residue, are left out. A chain can be in several
    entries.

    Raises DataError for a file that cannot be read or is not M-CSA's.
    """
    if (why := unreadable(path)) is not None:
        raise DataError(f"{path}: {why}; install enzymm again")
    found: dict[Numbering, dict[str, set[Residue]]] = {numbering: {} for numbering in NUMBERS}
    try:
        entries: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
        for chains in entries.values():
            for chain in chains.values():
                name = _key(f"{chain['pdb_id']}_{chain['chain_name']}")
                for numbering, number in NUMBERS.items():
                    residues = found[numbering].setdefault(name, set())
                    for residue in chain["residues"].values():
                        if residue[number] is not None:
                            residues.add((int(residue[number]), str(residue["code"]).upper()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: is not the list of catalytic residues that enzymm 0.5 carries "
            f"({type(error).__name__}); install that version"
        ) from None
    return found


def match_sites(
    listed: Mapping[Numbering, Mapping[str, set[Residue]]], proteins: Iterable[Protein]
) -> Matched:
    """Finds the listed residues in proteins called as in "1abc_A" by number and type, in the numbering in
    which more are found; if as many are, in that of the sequence.

    A residue that has the number and another type is not the one that is meant, and is not matched; nor is
    one with an insertion code, which M-CSA has none of.
    """
    chains = [protein for protein in proteins if any(_key(protein.name) in of for of in listed.values())]
    found = [_matched(numbering, listed[numbering], chains) for numbering in NUMBERS]
    return max(found, key=lambda matched: matched.matched)  # the first of equal ones


def _matched(
    numbering: Numbering, listed: Mapping[str, set[Residue]], proteins: Iterable[Protein]
) -> Matched:
    sites, asked, unmatched = {}, 0, []
    for protein in proteins:
        residues = sorted(listed.get(_key(protein.name), ()))
        numbers = zip(protein.residue_numbers.tolist(), protein.insertion_codes, strict=True)
        place = {number: i for i, (number, code) in enumerate(numbers) if code == " "}
        asked += len(residues)
        found = set()
        for number, name in residues:
            at, letter = place.get(number), LETTERS.get(name)
            if at is None:
                why = "outside the chain"
            elif letter is None:
                why = "not a standard residue"
            elif protein.sequence[at] != letter:
                why = f"{protein.sequence[at]} in the chain"
            else:
                found.add(at)
                continue
            unmatched.append(f"{protein.name} {name} {number}: {why}")
        if found:
            sites[protein.name] = np.array(sorted(found), np.int64)
    return Matched(numbering, sites, asked, unmatched)


def _key(name: str) -> str:
    """A chain's name with the PDB id in small letters; chains differ by their case."""
    entry, _, chain = name.partition("_")
    return f"{entry.lower()}_{chain}"
