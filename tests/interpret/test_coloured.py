"""Structure files and scripts: every residue is found again, with the rank of its cluster."""

import json
import os
import re
import zipfile
from dataclasses import replace

import gemmi
import numpy as np
import pytest

from partoken_jax.interpret import colours
from partoken_jax.interpret.coloured import (
    chimerax_script,
    coloured_structure,
    fits_pdb,
    molviewspec,
    pymol_script,
    write_coloured,
)
from partoken_jax.interpret.pictures import Pictures
from partoken_jax.proteins.structures import read_structure
from tests.helpers import without_atoms
from tests.interpret.made import annotated
from tests.structure_files import residue, write_structure

SUFFIXES = [".cif", ".pdb", ".pml", ".cxc", ".mvsj", ".mvsx"]


@pytest.fixture
def alone(cro):
    """A protein that is from no file, with a residue without O and one of unknown type."""
    protein = without_atoms(cro.protein, [7])
    return annotated(replace(protein, sequence="X" + protein.sequence[1:]))


@pytest.mark.parametrize("suffix", [".cif", ".pdb"])
@pytest.mark.parametrize("which", ["cro", "alone"])
def test_what_is_written_reads_as_the_same_protein(request, tmp_path, which, suffix):
    annotation = request.getfixturevalue(which)
    write_coloured(annotation, tmp_path, "it")
    (read,) = read_structure(tmp_path / f"it{suffix}").proteins
    protein = annotation.protein
    assert read.sequence == protein.sequence
    assert read.insertion_codes == protein.insertion_codes
    np.testing.assert_array_equal(read.residue_numbers, protein.residue_numbers)
    np.testing.assert_allclose(read.backbone, protein.backbone, atol=1e-3)


def test_residues_without_atoms_are_left_out_of_files_and_listed(cro, tmp_path):
    backbone = cro.protein.backbone.copy()
    backbone[10:13] = np.nan
    annotation = annotated(replace(cro.protein, backbone=backbone))
    write_coloured(annotation, tmp_path, "it")
    (read,) = read_structure(tmp_path / "it.cif").proteins
    assert read.sequence == cro.protein.sequence[:10] + cro.protein.sequence[13:]
    block = gemmi.cif.read(str(tmp_path / "it.cif")).sole_block()
    numbers = [row[0] for row in block.find("_partoken_residue.", ["label_seq_id"])]
    assert numbers == [*map(str, range(1, 11)), ".", ".", ".", *map(str, range(14, 65))]


def test_b_factors_are_ranks_and_no_atom_is_lost(cro, tmp_path):
    write_coloured(cro, tmp_path, "it")
    source = gemmi.read_structure(str(cro.origin.path))
    written = gemmi.read_structure(str(tmp_path / "it.cif"))
    assert written[0].count_atom_sites() == source[0].count_atom_sites()
    ranks = {(r.seqid.num, r.seqid.icode): {atom.b_iso for atom in r} for r in written[0][0]}
    places = zip(cro.protein.residue_numbers, cro.protein.insertion_codes, strict=True)
    for place, rank in zip(places, cro.rank_of_residue, strict=True):
        assert ranks.pop(place) == {rank}
    assert len(ranks) == 57 and set.union(*ranks.values()) == {0}  # waters


def test_residues_that_differ_in_insertion_codes_alone_have_numbers_in_the_sequence(cro, alone):
    for annotation in (cro, alone):
        chain = coloured_structure(annotation, "it")[0][0]
        numbers = [r.label_seq for r in chain if r.entity_type == gemmi.EntityType.Polymer]
        assert numbers == list(range(numbers[0], numbers[0] + 64))
    assert coloured_structure(cro, "it")[0][0][0].label_seq == 3  # its sequence begins two residues before


def test_a_file_that_has_changed_is_read_again(cro, tmp_path):
    path = tmp_path / "changed.pdb"
    origin = replace(cro.origin, path=path)
    path.write_bytes(cro.origin.path.read_bytes())
    annotation = replace(cro, origin=origin)
    whole = coloured_structure(annotation, "it")[0].count_atom_sites()
    source = gemmi.read_structure(str(path))
    source.remove_waters()
    source.write_pdb(str(path))
    os.utime(path, ns=(0, 0))
    assert coloured_structure(annotation, "it")[0].count_atom_sites() == source[0].count_atom_sites() < whole


def test_the_mmcif_lists_clusters_and_residues(cro, tmp_path):
    write_coloured(cro, tmp_path, "it")
    block = gemmi.cif.read(str(tmp_path / "it.cif")).sole_block()
    clusters = block.find("_partoken_cluster.", ["rank", "token", "importance", "size", "seed"])
    assert [list(row) for row in clusters][2:] == [
        ["3", "14", "0.15", "3", "56A"],
        ["4", ".", "0.05", "2", "58"],
    ]
    columns = ["auth_asym_id", "auth_seq_id", "pdbx_PDB_ins_code", "rank", "token", "importance"]
    residues = [list(row) for row in block.find("_partoken_residue.", columns)]
    assert len(residues) == len(cro.protein)
    assert residues[0] == ["A", "3", "?", "0", ".", "."]
    assert residues[54] == ["A", "56", "A", "3", "14", "0.15"]


def test_equal_annotations_give_equal_files(cro, tmp_path):
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        written.append([path.read_bytes() for path in write_coloured(cro, tmp_path / name, "it")])
    assert written[0] == written[1]


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_a_ligand_with_the_number_of_a_residue_is_in_no_cluster(cro, tmp_path, suffix):
    structure = gemmi.read_structure(str(cro.origin.path))
    number = int(cro.protein.residue_numbers[5])  # of the first cluster
    structure[0][0].add_residue(residue("GOL", number, {"C1": (40.0, 0, 0)}, polymer=False))
    path = write_structure(tmp_path / f"x{suffix}", structure)
    (protein,), (origin,) = read_structure(path).proteins, read_structure(path).origins
    chain = coloured_structure(annotated(protein, origin), "it")[0][0]
    own, ligand = (one for one in chain if one.seqid.num == number)
    assert (own.name, ligand.name) == (chain[5].name, "GOL")
    assert {atom.b_iso for atom in own} == {1} and {atom.b_iso for atom in ligand} == {0}
    assert own.label_seq and not ligand.label_seq
    assert ligand.entity_type == gemmi.EntityType.NonPolymer


def test_a_second_chain_of_the_name_is_left_out(cro, tmp_path):
    structure = gemmi.read_structure(str(cro.origin.path))
    structure.remove_waters()
    once = structure[0].count_atom_sites()
    first = structure[0][0]
    other, again = first.clone(), first.clone()
    other.name = "B"
    for chain in (other, again):
        structure[0].add_chain(chain)
    path = write_structure(tmp_path / "x.pdb", structure)
    found = read_structure(path)
    assert [len(protein) for protein in found.proteins] == [64, 64]
    made = coloured_structure(annotated(found.proteins[0], found.origins[0]), "it")
    assert made[0].count_atom_sites() == once


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_letters_of_an_older_encoding_do_no_harm(cro, tmp_path, suffix):
    path = write_structure(tmp_path / f"x{suffix}", gemmi.read_structure(str(cro.origin.path)))
    lines = path.read_bytes()
    if suffix == ".pdb":
        lines = b"HEADER    PROT\xe9INE\nTITLE     PROT\xe9INE\nAUTHOR    M\xdcLLER\n" + lines
        lines = lines.replace(b" N   GLN A   3", b" N\xe9  GLN A   3").replace(b" O   HOH", b" O\xe9  HOH")
    else:
        lines = re.sub(rb"(?<=_struct\.title ).*", b" 'prot\xe9ine'", lines)
    path.write_bytes(lines)
    (protein,), (origin,) = read_structure(path).proteins, read_structure(path).origins
    write_coloured(annotated(protein, origin), tmp_path, "it")
    (again,) = read_structure(tmp_path / "it.cif").proteins
    assert again.sequence == protein.sequence == cro.protein.sequence
    if suffix == ".cif":
        assert "protéine" in (tmp_path / "it.cif").read_text(encoding="utf-8")


def test_a_file_that_is_gone_or_another_ends_no_run(cro, tmp_path):
    (tmp_path / "proteins").mkdir()
    (tmp_path / "other.pdb").write_text("ATOM      1  CA  GLY B   1       0.0     0.0     0.0   1.00  0.00\n")
    pictures = Pictures(tmp_path, structures=True, pages=True)
    for name, words in (("gone.pdb", "not there any more"), ("other.pdb", "has no chain A any more")):
        origin = replace(cro.origin, path=tmp_path / name)
        assert pictures.add(replace(cro, origin=origin), "x") == ["proteins/x.html"]
        entry = pictures.skipped[-1]
        assert (entry.name, entry.what) == ("1orc_A", "structure") and words in entry.reason


def test_other_chains_and_models_are_left_out(cro, tmp_path):
    structure = gemmi.read_structure(str(cro.origin.path))
    other = structure[0][0].clone()
    other.name = "B"
    structure[0].add_chain(other)
    later = structure[0].clone()
    later.num = 2
    structure.add_model(later)
    path = tmp_path / "more.pdb"
    structure.write_pdb(str(path))
    origin = replace(cro.origin, path=path, model=2, chain="B")
    made = coloured_structure(replace(cro, origin=origin), "it")
    assert [(model.num, [chain.name for chain in model]) for model in made] == [(2, ["B"])]
    # A program that finds helices without sheets takes it that there are no sheets.
    assert len(made.helices) == len(made.sheets) == 0 < len(structure.helices)


@pytest.mark.parametrize(
    "change",
    [
        lambda chain: setattr(chain, "name", "AA"),
        lambda chain: setattr(chain[0], "name", "A1BCD"),
        lambda chain: setattr(chain[0], "seqid", gemmi.SeqId(12345, " ")),
        lambda chain: setattr(chain[0][0], "pos", gemmi.Position(1e5, 0, 0)),
    ],
)
def test_what_does_not_fit_into_a_pdb_file_is_known(cro, change):
    structure = coloured_structure(cro, "it")
    assert fits_pdb(structure)
    change(structure[0][0])
    assert not fits_pdb(structure)


def test_a_chain_that_does_not_fit_has_no_pdb_file(alone, tmp_path):
    annotation = replace(alone, protein=replace(alone.protein, chain="AA"))
    paths = write_coloured(annotation, tmp_path, "it")
    assert [path.suffix for path in paths] == [suffix for suffix in SUFFIXES if suffix != ".pdb"]
    assert all(path.is_file() for path in paths)


def selected(text: str, separator: str) -> set[str]:
    """Residues of a selection, with its ranges written out."""
    residues = set()
    for part in text.replace("\\", "").split(separator):
        bounds = re.fullmatch(r"(\d+)-(\d+)", part)
        residues |= {str(n) for n in range(int(bounds[1]), int(bounds[2]) + 1)} if bounds else {part}
    return residues


def expected(annotation) -> list[set[str]]:
    protein = annotation.protein
    names = [
        f"{number}{code}".strip()
        for number, code in zip(protein.residue_numbers, protein.insertion_codes, strict=True)
    ]
    return [{names[i] for i in cluster.residues} for cluster in annotation.clusters]


@pytest.mark.parametrize("first", [None, -3])
def test_scripts_select_the_residues_of_every_cluster(cro, first):
    if first is not None:
        numbers = np.arange(first, first + len(cro.protein), dtype=np.int32)
        cro = replace(cro, protein=replace(cro.protein, residue_numbers=numbers, insertion_codes=""))
    pymol = re.findall(r"select cluster_\d, it and polymer and resi (\S+)", pymol_script(cro, "it"))
    chimerax = re.findall(r"name cluster_\d #1:(\S+) & protein", chimerax_script(cro, "it"))
    assert [selected(text, "+") for text in pymol] == expected(cro)
    assert [selected(text, ",") for text in chimerax] == expected(cro)


def test_a_negative_number_is_no_range_for_pymol(cro):
    numbers = np.arange(-20, len(cro.protein) - 20, dtype=np.int32)
    annotation = replace(cro, protein=replace(cro.protein, residue_numbers=numbers, insertion_codes=""))
    line = next(line for line in pymol_script(annotation, "it").splitlines() if "cluster_1," in line)
    assert line.endswith(r"resi \-15+\-14+\-13+\-12+\-11+\-10+\-9+\-8+\-7+\-6+\-5+\-4")


def test_scripts_load_the_file_beside_them(cro):
    assert "load odd+name~2.cif, odd_name_2\n" in pymol_script(cro, "odd+name~2")
    assert 'open "odd+name~2.cif" id 1\n' in chimerax_script(cro, "odd+name~2")


def nodes_of(node: dict) -> list[dict]:
    return [node, *(found for child in node.get("children", []) for found in nodes_of(child))]


def test_the_state_for_molstar_keeps_to_its_schema(cro):
    schema = pytest.importorskip("molviewspec.nodes", reason="molviewspec is not installed")
    state = molviewspec(cro, "it.cif")
    schema.State.model_validate(state)
    kinds = {"color": "ColorInline", "component": "ComponentInline", "tooltip": "TooltipInline"}
    kinds |= {"download": "Download", "parse": "Parse", "structure": "Structure"}
    kinds |= {"representation": "Representation"}
    for node in nodes_of(state["root"])[1:]:
        model = getattr(schema, f"{kinds[node['kind']]}Params")
        model.model_validate(node["params"])
        assert set(node["params"]) <= set(model.model_fields), node["kind"]


def test_the_archive_for_molstar_holds_the_state_and_the_file_that_it_names(cro, tmp_path):
    write_coloured(cro, tmp_path, "it")
    archive = zipfile.ZipFile(tmp_path / "it.mvsx")
    state = json.loads(archive.read("index.mvsj"))
    assert state == json.loads((tmp_path / "it.mvsj").read_text())
    url = next(node["params"]["url"] for node in nodes_of(state["root"]) if node["kind"] == "download")
    assert archive.read(url) == (tmp_path / "it.cif").read_bytes()
    painted = [node["params"] for node in nodes_of(state["root"]) if "selector" in node.get("params", {})]
    colour_of = {
        (one["auth_seq_id"], one["pdbx_PDB_ins_code"]): params["color"]
        for params in painted
        if "color" in params
        for one in params["selector"]
    }
    assert colour_of[56, ""] == colours.of_rank(2) and colour_of[56, "A"] == colours.of_rank(3)
