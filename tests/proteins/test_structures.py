"""What is read of a structure file, and what is left out."""

import os
from pathlib import Path

import gemmi
import numpy as np
import pytest

from partoken_jax.proteins import structure_formats
from partoken_jax.proteins.structure_formats import stem
from partoken_jax.proteins.structures import read_structure
from tests.structure_files import add_atom, chain_of, residue, structure_of, write_structure

FORMATS = ("1abc.pdb", "1abc.ent.gz", "1abc.cif", "1abc.cif.gz")


@pytest.fixture
def rich(chains):
    """(the protein, chains as a file has them): MSE, insertion codes, a gap, atoms missing, two places,
    waters, a ligand, a nucleic acid and a chain of CA atoms."""
    protein = chains[1]
    chain = chain_of(protein, "A")
    chain[3].name = "MSE"
    chain[4].seqid = gemmi.SeqId(chain[3].seqid.num, "A")
    for i in range(10, len(chain)):
        chain[i].seqid = gemmi.SeqId(chain[i].seqid.num + 7, " ")
    chain[6].remove_atom("O", "\0")
    for name, shift in (("N", 0.5), ("CA", 0.5), ("C", 0.5), ("O", 0.5)):
        atom = chain[8].find_atom(name, "\0")
        place = np.array(atom.pos.tolist())
        atom.altloc, atom.occ = "A", 0.4
        add_atom(chain[8], name, place + shift, "B", 0.6)
        atom = chain[9].find_atom(name, "\0")
        atom.altloc, atom.occ = "A", 0.5
        add_atom(chain[9], name, place + shift, "B", 0.5)
    for i in range(3):
        chain.add_residue(residue("HOH", 900 + i, {"O": (50.0 + i, 0, 0)}, polymer=False))
    chain.add_residue(residue("GOL", 950, {"C1": (40.0, 0, 0), "O1": (41.0, 0, 0)}, polymer=False))
    nucleic = gemmi.Chain("B")
    for i in range(4):
        nucleic.add_residue(residue("DA", i + 1, {"P": (6.0 * i, 30, 0), "C1'": (6.0 * i, 33, 0)}))
    trace = gemmi.Chain("C")
    for i in range(5):
        trace.add_residue(residue("GLY", i + 1, {"CA": (3.8 * i, 60, 0)}))
    return protein, [chain, nucleic, trace]


@pytest.mark.parametrize("name", FORMATS)
def test_numbers_and_coordinates_survive_the_formats(name, tmp_path, chains):
    pair = [chain_of(chains[0], "A"), chain_of(chains[2], "Bb" if "cif" in name else "B")]
    found = read_structure(write_structure(tmp_path / name, structure_of(pair)))
    assert [protein.name for protein in found.proteins] == ["1abc_A", f"1abc_{pair[1].name}"]
    assert found.skipped == [] and found.proteins[1].chain == pair[1].name
    for got, want in zip(found.proteins, (chains[0], chains[2]), strict=True):
        assert got.sequence == want.sequence
        np.testing.assert_array_equal(got.residue_numbers, want.residue_numbers)
        assert set(got.insertion_codes) == {" "}
        assert np.abs(got.backbone - want.backbone).max() <= 6e-4, "files have three decimals"


@pytest.mark.parametrize("name", FORMATS)
def test_what_real_files_have(name, tmp_path, rich):
    protein, parts = rich
    found = read_structure(write_structure(tmp_path / name, structure_of(parts, parts[:1])))
    (got,) = found.proteins
    assert len(got) == len(protein)
    assert got.sequence == protein.sequence[:3] + "M" + protein.sequence[4:]
    numbers = protein.residue_numbers.copy()
    numbers[4] = numbers[3]
    numbers[10:] += 7
    np.testing.assert_array_equal(got.residue_numbers, numbers)
    assert got.insertion_codes == "    A" + " " * (len(protein) - 5)
    assert np.flatnonzero(~got.complete).tolist() == [6]
    assert np.isnan(got.backbone[6, 3]).all() and np.isfinite(got.backbone[6, :3]).all()
    expected = protein.backbone.copy()
    expected[8] += 0.5  # the second place has the higher occupancy; of residue 9 both have the same
    np.testing.assert_allclose(np.delete(got.backbone, 6, 0), np.delete(expected, 6, 0), atol=6e-4)
    assert {(skipped.name, skipped.what) for skipped in found.skipped} == {
        ("1abc_A", "residues"), ("1abc_B", "chain"), ("1abc_C", "chain"),
    }  # fmt: skip
    whole, masked, *reasons = (skipped.reason for skipped in found.skipped)
    assert whole == "3 waters, 1 GOL" and masked == "masked, as they lack an atom of the backbone: 7"
    assert "nucleic" in reasons[0] and "CA atoms alone" in reasons[1]
    assert found.counts["modified residues read as their parent"] == 1
    assert found.counts["residues with alternate locations"] == 2
    assert found.counts["residues without all four backbone atoms"] == 1
    assert found.counts["waters and ligands"] == 4
    assert found.counts["models after the first"] == 1


def atoms_of(tmp_path, protein, chain: str = "A") -> list[str]:
    """The ATOM records of a protein, one residue's after another's."""
    path = write_structure(tmp_path / "atoms.pdb", structure_of([chain_of(protein, chain)]))
    return [line for line in path.read_text().splitlines() if line.startswith("ATOM")]


def read_lines(tmp_path, lines: list[str], models="first", end: str = "\n"):
    (tmp_path / "x.pdb").write_text(end.join([*lines, ""]), newline="")
    return read_structure(tmp_path / "x.pdb", models=models)


@pytest.mark.parametrize("record", ["END", "END   ", "end", "END" + " " * 77])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_what_follows_an_end_record_is_another_model(record, line_end, tmp_path, chains):
    first, second = atoms_of(tmp_path, chains[0], "A"), atoms_of(tmp_path, chains[2], "B")
    lines = ["TITLE     TWO FILES", *first, record, "REMARK   1", *second, record]
    found = read_lines(tmp_path, lines, end=line_end)
    assert [protein.name for protein in found.proteins] == ["x_A"]
    assert found.counts["models after the first"] == 1
    both = read_lines(tmp_path, lines, "all", end=line_end)
    assert [protein.name for protein in both.proteins] == ["x_A", "x_model2_B"]
    assert [protein.sequence for protein in both.proteins] == [chains[0].sequence, chains[2].sequence]
    np.testing.assert_allclose(both.proteins[1].backbone, chains[2].backbone, atol=6e-4)


@pytest.mark.parametrize("model", [[], ["MODEL        {}"]])
@pytest.mark.parametrize("end", [["END"], ["ENDMDL", "END"], ["TER", "END", "END"]])
def test_frames_between_which_end_stands(model, end, tmp_path, chains):
    atoms, lines = atoms_of(tmp_path, chains[0]), []
    for number in (1, 2, 3):
        lines += [*(line.format(number) for line in model), *atoms, *end]
    for models, count in (("first", 1), ("all", 3)):
        found = read_lines(tmp_path, lines, models)
        assert [origin.model for origin in found.origins] == [1, 2, 3][:count]
        assert {protein.sequence for protein in found.proteins} == {chains[0].sequence}
        assert all(protein.complete.all() for protein in found.proteins)
        assert found.counts["models after the first"] == (2 if models == "first" else 0)


def test_models_of_files_that_were_put_together_are_counted_anew(tmp_path, chains):
    ensemble = ["MODEL        1", *atoms_of(tmp_path, chains[0]), "ENDMDL", "END"]
    found = read_lines(tmp_path, ensemble * 2, "all")
    assert [protein.name for protein in found.proteins] == ["x_A", "x_model2_A"]
    assert {protein.sequence for protein in found.proteins} == {chains[0].sequence}


def test_an_end_record_at_the_end_changes_nothing(tmp_path, chains):
    content = "\n".join([*atoms_of(tmp_path, chains[0]), "END", "anything", ""]).encode()
    assert structure_formats._with_models(content) is content
    found = read_lines(tmp_path, content.decode().splitlines())
    assert [protein.sequence for protein in found.proteins] == [chains[0].sequence]
    assert found.counts["models after the first"] == 0


def test_a_chain_goes_on_after_a_ter_record_in_its_midst(tmp_path, chains):
    lines = atoms_of(tmp_path, chains[0])
    half = 4 * (len(chains[0]) // 2)
    modified = [line.replace("ATOM  ", "HETATM")[:17] + "MSE" + line[20:] for line in lines[-8:-4]]
    ligand = [
        f"HETATM{line[6:22]} 900{line[26:30]}{float(line[30:38]) + 40:8.3f}{line[38:]}" for line in lines[:4]
    ]
    glycerol = "HETATM 1000  C1  GOL A 950      40.000   0.000   0.000  1.00  0.00           C"
    water = "HETATM 1001  O   HOH A 951      50.000   0.000   0.000  1.00  0.00           O"
    rest = [*lines[half:-8], *modified, *lines[-4:], *ligand, glycerol, water]
    letters = chains[0].sequence[:-2] + "M" + chains[0].sequence[-1]
    for ters in (1, 2):
        both = [*lines[:half], "TER", *rest, *["TER"] * (ters - 1), "END"]
        found = read_lines(tmp_path, both)
        assert [protein.sequence for protein in found.proteins] == [letters]
        assert [s.reason for s in found.skipped] == [f"1 {lines[0][17:20]}, 1 GOL, 1 water"]


@pytest.mark.parametrize(("moved", "numbered"), [(300, 0), (0, -1)])
def test_a_chain_does_not_go_on_with_what_cannot_be_of_it(moved, numbered, tmp_path, chains):
    """Residues too far away for their numbers, or with lower ones."""
    lines = atoms_of(tmp_path, chains[0])
    first, rest = lines[40:80], lines[80:]
    far = [
        f"{line[:30]}{float(line[30:38]) + moved:8.3f}{line[38:]}"
        for line in (lines[:40] if numbered else rest)
    ]
    found = read_lines(tmp_path, [*first, "TER", *far, "END"])
    assert [protein.sequence for protein in found.proteins] == [chains[0].sequence[10:20]]
    assert found.counts["waters and ligands"] == len(far) // 4


def test_ligands_after_a_ter_record_stay_ligands(tmp_path, chains):
    """Even one that is a peptide, close enough to be bound."""
    lines = atoms_of(tmp_path, chains[0])
    ligand = [line.replace("ATOM  ", "HETATM") for line in lines[-8:]]
    found = read_lines(tmp_path, [*lines[:-8], "TER", *ligand, "END"])
    assert [protein.sequence for protein in found.proteins] == [chains[0].sequence[:-2]]
    assert found.counts["waters and ligands"] == 2


@pytest.mark.parametrize("name", FORMATS)
def test_a_byte_order_mark_is_no_part_of_the_text(name, tmp_path, chains):
    path = write_structure(tmp_path / name.removesuffix(".gz"), structure_of([chain_of(chains[0], "A")]))
    lines = path.read_bytes().split(b"\n")
    if path.suffix != ".cif":
        lines = [line for line in lines if line.startswith(b"ATOM")]  # so that the mark stands before an atom
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    (protein,) = read_structure(path).proteins
    assert protein.sequence == chains[0].sequence and protein.complete.all()


def without_columns(tmp_path, chains, *names) -> Path:
    """An mmCIF file whose atoms lack some columns."""
    path = write_structure(tmp_path / "x.cif", structure_of([chain_of(chains[0], "A")]))
    document = gemmi.cif.read(str(path))
    for name in names:
        document[0].find_loop("_atom_site.id").get_loop().remove_column(f"_atom_site.{name}")
    path.write_text(document.as_string())
    return path


@pytest.mark.parametrize("name", ["label_alt_id", "occupancy", "B_iso_or_equiv"])
def test_columns_that_an_mmcif_file_need_not_have(name, tmp_path, chains):
    (protein,) = read_structure(without_columns(tmp_path, chains, name)).proteins
    assert protein.sequence == chains[0].sequence
    np.testing.assert_allclose(protein.backbone, chains[0].backbone, atol=6e-4)


def test_columns_that_an_mmcif_file_lacks_are_named(tmp_path, chains):
    (skipped,) = read_structure(without_columns(tmp_path, chains, "type_symbol", "Cartn_y")).skipped
    assert skipped.reason == "its atoms lack _atom_site.type_symbol, _atom_site.Cartn_y"
    assert skipped.what == "file"


def test_a_single_atom_in_pairs_is_no_damage(tmp_path):
    said = {"id": 1, "type_symbol": "C", "label_atom_id": "CA", "label_comp_id": "ALA", "label_asym_id": "A"}
    said |= {"label_seq_id": 1, "Cartn_x": 0, "Cartn_y": 0, "Cartn_z": 0}
    (tmp_path / "x.cif").write_text("data_x\n" + "".join(f"_atom_site.{k} {v}\n" for k, v in said.items()))
    assert [skipped.name for skipped in read_structure(tmp_path / "x.cif").skipped] == ["x_A"]


def test_chains_can_be_chosen(tmp_path, chains):
    path = write_structure(
        tmp_path / "x.pdb", structure_of([chain_of(chains[0], "A"), chain_of(chains[2], "B")])
    )
    assert [protein.name for protein in read_structure(path, {"B"}).proteins] == ["x_B"]
    (skipped,) = read_structure(path, {"Q"}).skipped
    assert skipped.what == "file" and "none of the chosen chains, only A, B" in skipped.reason


def test_every_chosen_chain_that_is_not_there_is_listed(tmp_path, chains):
    both = [chain_of(chains[0], "A"), chain_of(chains[2], "B")]
    path = write_structure(tmp_path / "x.pdb", structure_of(both, both[:1]))
    found = read_structure(path, ["Z", "A", "Q"], models="all")
    assert [protein.name for protein in found.proteins] == ["x_A", "x_model2_A"]
    reason = "the file has no such chain, only A, B"
    assert [(s.name, s.what, s.reason) for s in found.skipped] == [
        ("x_Q", "chain", reason), ("x_Z", "chain", reason),
    ]  # fmt: skip
    assert read_structure(path, ["A", "B"]).skipped == []


def test_a_second_chain_of_one_name_is_left_out_and_listed(tmp_path, chains):
    first, other, second = (chain_of(protein, "A") for protein in (chains[0], chains[2], chains[0]))
    other.name = "B"
    water = residue("HOH", 900, {"O": (50.0, 0, 0)}, polymer=False)
    path = tmp_path / "x.pdb"
    second.add_residue(water)
    write_structure(path, structure_of([first, other, second]))
    found = read_structure(path)
    assert [(protein.name, len(protein)) for protein in found.proteins] == [
        ("x_A", len(chains[0])), ("x_B", len(chains[2])),
    ]  # fmt: skip
    said = {skipped.what: skipped.reason for skipped in found.skipped}
    numbers = f"{len(first)} residues ({first[0].seqid} to {first[-1].seqid})"
    assert f"as in a second chain of this name, which is left out: {numbers};" in said["chain"]
    assert said["residues"] == "1 water"
    # Side by side, gemmi makes them one chain, of residues with two atoms of every name.
    found = read_structure(write_structure(path, structure_of([first, second])))
    assert [len(protein) for protein in found.proteins] == [len(chains[0])]
    assert (
        f"have atoms twice, as of a second chain of this name, and the first are taken: {first[0].seqid}"
        in (" ".join(skipped.reason for skipped in found.skipped))
    )


def test_atoms_at_the_end_of_a_file_cut_no_chain(tmp_path, chains):
    path = write_structure(tmp_path / "x.pdb", structure_of([chain_of(chains[0], "A")]))
    atoms = [line for line in path.read_text().splitlines() if line.startswith("ATOM")]
    hydrogens = [f"{line[:12]} HA {line[16:76]} H" for line in atoms if line[12:16] == " CA "]
    other = f"{atoms[0][:21]}B{atoms[0][22:]}"  # after which gemmi begins a chain of the name again
    path.write_text("\n".join([*atoms[:40], other, *hydrogens[:3], *atoms[40:]]))
    (protein,) = read_structure(path).proteins
    assert protein.sequence == chains[0].sequence and protein.complete.all()


def test_a_ligand_in_the_midst_of_a_polymer_divides_it_not(tmp_path, chains):
    chain = chain_of(chains[0], "A")
    chain.add_residue(residue("GOL", 950, {"C1": (40.0, 0, 0)}, polymer=False), 5)
    structure = structure_of([chain])
    structure.assign_subchains()
    path = tmp_path / "x.cif"
    path.write_text(structure.make_mmcif_document().as_string())
    found = read_structure(path)
    assert [protein.sequence for protein in found.proteins] == [chains[0].sequence]
    assert [skipped.reason for skipped in found.skipped] == ["1 GOL"]


def test_a_second_polymer_of_a_chain_is_no_ligand(tmp_path, chains):
    chain = chain_of(chains[0], "A")
    for i, made in enumerate(chain_of(chains[2], "A")):
        made.seqid = gemmi.SeqId(500 + i, " ")
        chain.add_residue(made)
    for i, made in enumerate(chain):
        made.subchain = "A" if i < len(chains[0]) else "B"
    structure = structure_of([chain])
    for name in "AB":
        entity = gemmi.Entity(name)
        entity.entity_type, entity.polymer_type = gemmi.EntityType.Polymer, gemmi.PolymerType.PeptideL
        entity.subchains = [name]
        structure.entities.append(entity)
    path = tmp_path / "x.cif"
    path.write_text(structure.make_mmcif_document().as_string())
    found = read_structure(path)
    assert [len(protein) for protein in found.proteins] == [len(chains[0])]
    last = 500 + len(chains[2]) - 1
    reason = f"it has another polymer, which is left out: {len(chains[2])} residues (500 to {last})"
    assert [(s.name, s.what, s.reason) for s in found.skipped] == [("x_A", "chain", reason)]
    assert found.counts["waters and ligands"] == 0


def test_a_residue_without_a_parent_is_unknown_and_two_of_one_number_are_one(tmp_path, chains):
    chain = chain_of(chains[0], "A")
    chain[2].name = "UNK"
    chain[5].name = "ZZZ"
    twin = chain[7].clone()
    twin.name = "TRP" if chain[7].name != "TRP" else "TYR"
    for atom in chain[7]:
        atom.altloc, atom.occ = "A", 0.3
    for atom in twin:
        atom.altloc, atom.occ = "B", 0.7
    chain.add_residue(twin, 8)
    (got,) = read_structure(write_structure(tmp_path / "x.cif", structure_of([chain]))).proteins
    assert len(got) == len(chains[0])
    assert [i for i, letter in enumerate(got.sequence) if letter == "X"] == [2, 5]
    assert got.sequence[7] == ("W" if twin.name == "TRP" else "Y")


@pytest.mark.parametrize(
    "name, text",
    [("a.pdb", "nothing here"), ("a.pdb", ""), ("a.cif", "data_x\nloop_\n_a.b\n"), ("a.cif", "\0\1"),
     ("a.pdb.gz", "no gzip"), ("a.cif.gz", ""), ("a.pdb", "ATOM      1  N   ALA A   1      xx\n")],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_listed(name, text, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    found = read_structure(path)
    assert found.proteins == []
    (skipped,) = found.skipped
    assert skipped.what == "file" and skipped.name == "a" and "\n" not in skipped.reason


def test_a_download_that_was_cut_off_is_said_to_be_that(tmp_path, chains):
    path = write_structure(tmp_path / "a.pdb.gz", structure_of([chain_of(chains[0], "A")]))
    path.write_bytes(path.read_bytes()[:-300] + b"\xff" * 4)  # as the length of what it holds, 4 GiB
    (skipped,) = read_structure(path).skipped
    assert skipped.what == "file" and "ended before the end-of-stream" in skipped.reason


def test_what_is_no_file_or_may_not_be_read_is_listed(tmp_path, chains, monkeypatch):
    os.mkfifo(tmp_path / "pipe.pdb")
    (tmp_path / "link.pdb").symlink_to(tmp_path / "nowhere.pdb")
    for name in ("pipe.pdb", "link.pdb", "none.pdb"):
        (skipped,) = read_structure(tmp_path / name).skipped
        assert (skipped.what, skipped.reason) == ("file", "it is not a file")
    path = write_structure(tmp_path / "a.pdb", structure_of([chain_of(chains[0], "A")]))

    def forbid(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    for what in ("open", "stat"):  # of the file, and of the folder that it is in
        with monkeypatch.context() as patch:
            patch.setattr(Path, what, forbid)
            (skipped,) = read_structure(path).skipped
        assert (skipped.what, skipped.reason) == ("file", "it cannot be read (permission denied)")


def test_a_name_that_is_no_text_is_listed(tmp_path, chains):
    path = write_structure(tmp_path / "a.pdb", structure_of([chain_of(chains[0], "A")]))
    path.write_bytes(path.read_bytes().replace(b" A ", b" \xff "))
    (skipped,) = read_structure(path).skipped
    assert skipped.what == "file" and "cannot be read" in skipped.reason


def test_names_of_files_and_chains(tmp_path, chains):
    assert [stem(tmp_path / name) for name in ("a.b.PDB", "a.ent.gz", "é.cif", "x_A.mmcif.gz")] == [
        "a.b", "a", "é", "x_A",
    ]  # fmt: skip
    unnamed = write_structure(tmp_path / "é.pdb", structure_of([chain_of(chains[0], " ")]))
    assert [protein.name.rstrip() for protein in read_structure(unnamed).proteins] == ["é"]
