"""Helices and strands of a real protein, and of what has none."""

from dataclasses import replace

import gemmi
import numpy as np

from partoken_jax.interpret.secondary_structure import hydrogen_bond_energy, secondary_structure
from tests.helpers import moved, random_rotation


def test_the_energy_is_that_of_kabsch_and_sander():
    # Their ideal bond: N, O 2.9 Å apart on a line with H and C, has -3 kcal/mol.
    on_line = [np.array([[x, 0.0, 0.0]]) for x in (0.0, 1.0, 4.13, 2.9)]  # N, H, C, O
    assert -3.2 < hydrogen_bond_energy(*on_line)[0] < -2.8
    far = [place + np.array([1000.0 * (k > 1), 0, 0]) for k, place in enumerate(on_line)]
    assert abs(hydrogen_bond_energy(*far)[0]) < 1e-3


def test_helices_and_strands_are_where_the_file_has_them(cro):
    source = gemmi.read_structure(str(cro.origin.path))
    found = dict(zip(cro.protein.residue_numbers.tolist(), secondary_structure(cro.protein), strict=True))
    helices = [range(h.start.res_id.seqid.num, h.end.res_id.seqid.num + 1) for h in source.helices]
    inside = [found[number] for helix in helices for number in helix]
    assert inside.count("H") / len(inside) > 0.85
    strands = [s for sheet in source.sheets for s in sheet.strands]
    first = strands[0]
    inside = [found[n] for n in range(first.start.res_id.seqid.num, first.end.res_id.seqid.num + 1)]
    assert inside.count("E") / len(inside) > 0.8
    assert "H" not in inside


def test_turning_the_protein_changes_nothing(cro):
    turned = moved(cro.protein, random_rotation(np.random.default_rng(0)), 40.0)
    assert secondary_structure(turned) == secondary_structure(cro.protein)


def test_residues_without_atoms_and_single_residues_have_none(cro):
    protein = cro.protein
    backbone = protein.backbone.copy()
    backbone[10:, 3] = np.nan
    assert "H" not in secondary_structure(replace(protein, backbone=backbone))[14:]
    one = replace(
        protein,
        sequence=protein.sequence[:1],
        backbone=protein.backbone[:1],
        residue_numbers=protein.residue_numbers[:1],
        insertion_codes="",
    )
    assert secondary_structure(one) == "-"
