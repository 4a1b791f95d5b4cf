"""Catalytic residues of the Mechanism and Catalytic Site Atlas (M-CSA), found again in proteins.

M-CSA (Ribeiro et al. 2018, Nucleic Acids Research 46, D618; CC BY 4.0) lists them for reference structures
and their homologues; the package `enzymm` (MIT) carries the list. Of that package only this file is read:
nothing of it is imported.
"""

import json
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

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


class Matched(NamedTuple):
    """Which residues of some proteins are catalytic."""

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


def read_mcsa(path: Path) -> dict[str, set[Residue]]:
    """Catalytic residues of every chain that M-CSA lists, under the chain's name as in "1abc_A".

    Numbers are those of the sequence (`resid`), which the packaged chains are numbered by, too; records
    without one, of homologues that lack the residue, are left out. A chain can be in several entries.

    Raises DataError for a file that cannot be read or is not M-CSA's.
    """
    if (why := unreadable(path)) is not None:
        raise DataError(f"{path}: {why}; install enzymm again")
    found: dict[str, set[Residue]] = {}
    try:
        entries: dict[str, dict[str, Any]] = json.loads(path.read_bytes())
        for chains in entries.values():
            for chain in chains.values():
                residues = found.setdefault(_key(f"{chain['pdb_id']}_{chain['chain_name']}"), set())
                for residue in chain["residues"].values():
                    if residue["resid"] is not None:
                        residues.add((int(residue["resid"]), str(residue["code"]).upper()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: is not the list of catalytic residues that enzymm 0.5 carries "
            f"({type(error).__name__}); install that version"
        ) from None
    return found


def match_sites(listed: Mapping[str, set[Residue]], proteins: Iterable[Protein]) -> Matched:
    """Finds the listed residues in proteins called as in "1abc_A" by number and type.

    A residue that has the number and another type is not the one that is meant, and is not matched.
    """
    sites, asked, unmatched = {}, 0, []
    for protein in proteins:
        residues = sorted(listed.get(_key(protein.name), ()))
        place = {number: i for i, number in enumerate(protein.residue_numbers.tolist())}
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
    return Matched(sites, asked, unmatched)


def _key(name: str) -> str:
    """A chain's name with the PDB id in small letters; chains differ by their case."""
    entry, _, chain = name.partition("_")
    return f"{entry.lower()}_{chain}"
