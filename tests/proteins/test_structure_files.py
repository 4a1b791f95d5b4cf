"""Real structure files of every kind: what is read of them, found again in the file without our reader."""

import gzip
import os
import shutil
from pathlib import Path

import gemmi
import numpy as np
import pytest

from experiments import corpus, fuzz_structures
from experiments.result_files import read
from partoken_jax.proteins.binary_cif import decode
from partoken_jax.proteins.structure_formats import reason_not_read, stem
from partoken_jax.proteins.structures import read_structure

FOLDER = Path(__file__).parent / "structures"
FILES = {path.name: path for path in fuzz_structures.fixtures()}
READ = sorted(FILES.keys() - {"1lzh.pdb.gz"})


def said(contents) -> str:
    return "\n".join(f"{entry.name} {entry.what}: {entry.reason}" for entry in contents.skipped)


@pytest.mark.parametrize("name", READ)
def test_every_residue_is_found_again_in_its_file(name):
    contents, atoms = read_structure(FILES[name], models="all"), corpus.atoms_by_residue(FILES[name])
    assert contents.proteins and len(contents.origins) == len(contents.proteins)
    assert corpus.not_found(atoms, contents) == [] and corpus.left_out(atoms, contents) == []
    for protein, origin in zip(contents.proteins, contents.origins, strict=True):
        assert origin.path == FILES[name] and origin.chain == protein.chain
        assert (origin.label_numbers > 0).all() == (".pdb" not in name)


def test_a_wrong_number_would_be_noticed():
    contents = read_structure(FILES["1bd2.pdb"])
    contents.proteins[0].residue_numbers[3] += 1
    assert len(corpus.not_found(corpus.atoms_by_residue(FILES["1bd2.pdb"]), contents)) == 1


def test_the_models_of_an_ensemble():
    first, every = read_structure(FILES["1as5.cif.gz"]), read_structure(FILES["1as5.cif.gz"], models="all")
    assert [protein.name for protein in every.proteins] == ["1as5_A", "1as5_model2_A", "1as5_model3_A"]
    assert [origin.model for origin in every.origins] == [1, 2, 3]
    assert len({protein.sequence for protein in every.proteins}) == 1
    assert [protein.name for protein in first.proteins] == ["1as5_A"]
    np.testing.assert_array_equal(first.proteins[0].backbone, every.proteins[0].backbone)
    assert np.abs(every.proteins[1].backbone - every.proteins[0].backbone).max() > 0.1
    assert first.counts["models after the first"] == 2 and not every.counts["models after the first"]


def test_author_and_label_numbers_with_insertion_codes():
    contents = read_structure(FILES["1gbt.cif"])
    (protein,), (origin,) = contents.proteins, contents.origins
    numbers = [f"{n}{code}".strip() for n, code in corpus.numbers(protein)]
    assert numbers[:6] == ["180", "181", "182", "183", "184", "184A"]
    assert {"188A", "221A"} <= set(numbers)
    assert origin.label_numbers[:6].tolist() == [160, 161, 162, 163, 164, 165]
    assert "residues are missing after 192" in said(contents)


def test_two_types_of_residue_at_one_place_and_alternate_locations():
    contents = read_structure(FILES["3jqh.cif"])
    (protein,), atoms = contents.proteins, corpus.atoms_by_residue(FILES["3jqh.cif"])
    assert contents.counts["residues that share a number with another"] == 3
    assert contents.counts["residues with alternate locations"] == 3
    types = [len({atom.residue for atom in there}) for there in atoms.values()]
    assert sorted(types)[-3:] == [1, 2, 3] and len(protein) == 23


def test_atoms_of_a_residue_are_of_one_conformer(tmp_path):
    text = FILES["4hhh.pdb"].read_text().splitlines(keepends=True)
    alternate = [i for i, line in enumerate(text) if line.startswith("ATOM") and line[16] in "AB"]
    for i in alternate:  # A by little, but B for the atom C
        text[i] = (
            text[i][:54]
            + ("  0.55" if (text[i][16] == "A") != (text[i][12:16] == " C  ") else "  0.45")
            + text[i][60:]
        )
    path = tmp_path / "4hhh.pdb"
    path.write_text("".join(text))
    (protein, *_) = read_structure(path).proteins
    places = {tuple(float(text[i][k : k + 8]) for k in (30, 38, 46)) for i in alternate if text[i][16] == "B"}
    assert places and not places & {
        tuple(np.round(atom, 3).tolist()) for atom in protein.backbone.reshape(-1, 3).astype(float)
    }


def test_modified_residues_d_amino_acids_and_nucleic_acids():
    assert read_structure(FILES["1a8o.pdb"]).proteins[0].sequence[0] == "M", "selenomethionine"
    contents = read_structure(FILES["1as5.cif.gz"])
    assert contents.proteins[0].sequence[1:3] == "PP" and "1 NH2" in said(contents), "hydroxyproline, a cap"
    contents = read_structure(FILES["1pfe.cif.gz"])
    assert [protein.sequence for protein in contents.proteins] == ["XAXVXAXV"]
    assert "1pfe_A chain: it is a nucleic acid" in said(contents)
    assert "1pfe_B residues: read as X (unknown): 2 DSN, 1 N2C, 1 NCY" in said(contents)
    assert contents.counts["D-amino acids (X)"] == 2
    assert contents.counts["residues without a standard parent (X)"] == 2
    assert said(read_structure(FILES["1lcd.pdb"])).count("nucleic acid") == 1
    contents = read_structure(FILES["1lzh.pdb.gz"])
    assert not contents.proteins and said(contents).count("CA atoms alone") == 2


def test_a_chain_of_d_amino_acids_is_refused(tmp_path):
    text = "".join(
        f"{line[:17]}DAL{line[20:]}\n"
        for line in FILES["1a8o.pdb"].read_text().splitlines()
        if line.startswith("ATOM")
    )
    (tmp_path / "x.pdb").write_text(text)
    assert said(read_structure(tmp_path / "x.pdb")).startswith("x_A chain: it is a chain of D-amino acids")


def test_names_of_residues_in_force_fields_and_letters_of_their_own(tmp_path):
    text = FILES["1a8o.pdb"].read_text()
    for old, new in (("ARG", "HSD"), ("GLU", "CYX"), ("PHE", "SEC"), ("TYR", "DAL")):
        text = text.replace(f" {old} A", f" {new} A")
    path = tmp_path / "x.pdb"
    path.write_text(text)
    before = read_structure(FILES["1a8o.pdb"]).proteins[0].sequence
    (after,) = read_structure(path).proteins
    assert after.sequence == before.translate(str.maketrans("REFY", "HCCX"))


def test_a_chain_goes_on_after_a_gap_without_a_ter_record(tmp_path):
    whole = FILES["2xhe.pdb"].read_text()
    bare = "".join(line for line in whole.splitlines(True) if not line.startswith(("TER", "SEQRES")))
    (tmp_path / "2xhe.pdb").write_text(bare)
    (want,), (got,) = (
        read_structure(FILES["2xhe.pdb"]).proteins,
        read_structure(tmp_path / "2xhe.pdb").proteins,
    )
    assert got.sequence == want.sequence and len(got) == 45
    assert "residues are missing after 15" in said(read_structure(tmp_path / "2xhe.pdb"))


@pytest.mark.parametrize("water", ["HOH", "SOL"])
def test_the_waters_of_a_simulation_hide_no_protein(water, tmp_path):
    lines = [
        line for line in FILES["1a8o.pdb"].read_text().splitlines() if line.startswith(("ATOM", "HETATM"))
    ]
    protein = [line for line in lines if line[17:20] != "HOH"]
    box = [
        f"ATOM  {i:5d}  OW  {water:4s} {i:4d}    "
        f"{i % 30 * 3:8.3f}{i // 30 % 30 * 3:8.3f}{i // 900 * 3:8.3f}  1.00  0.00"
        for i in range(9_000)
    ]  # without a chain, as the protein
    (tmp_path / "x.pdb").write_text("\n".join([*(line[:21] + " " + line[22:] for line in protein), *box]))
    contents = read_structure(tmp_path / "x.pdb")
    assert [len(found) for found in contents.proteins] == [40]
    assert "x residues: 9000 waters" in said(contents)


def test_hybrid_36_and_chains_of_two_letters():
    (protein,) = read_structure(FILES["hybrid36.pdb"]).proteins
    assert protein.residue_numbers.tolist() == list(range(9991, 10_011))
    for name in ("two_letters.pdb", "two_letters.cif"):
        contents = read_structure(FILES[name])
        assert [protein.chain for protein in contents.proteins] == ["AA", "Ab"]
        assert [protein.name for protein in contents.proteins] == ["two_letters_AA", "two_letters_Ab"]


@pytest.mark.parametrize("name", ["alphafold_layout.pdb", "alphafold_layout.cif"])
def test_confidence_of_a_prediction(name, tmp_path):
    contents = read_structure(FILES[name])
    expected = 96.5 - 3.25 * np.abs(contents.proteins[0].residue_numbers - 11)
    np.testing.assert_allclose(contents.origins[0].plddt, expected, atol=0.006)
    text = FILES[name].read_text().replace("pLDDT", "other").replace("PREDICTION", "RELATIVE")
    (tmp_path / name).write_text(text)
    assert np.isnan(read_structure(tmp_path / name).origins[0].plddt).all(), "B factors of a crystal"


def test_what_is_infinite_is_no_confidence(tmp_path):
    lines = FILES["alphafold_layout.pdb"].read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if line.startswith("ATOM") and line[12:16] == " CA ")
    lines[place] = lines[place][:60] + " 1e400" + lines[place][66:]
    (tmp_path / "x.pdb").write_text("".join(lines))
    assert np.isnan(read_structure(tmp_path / "x.pdb").origins[0].plddt).all()


@pytest.mark.parametrize(
    ("title", "is_predicted"),
    [
        ("CRYSTAL STRUCTURE PHASED WITH AN ALPHAFOLD PREDICTION", False),
        ("ALPHAFOLD MONOMER V2.0 PREDICTION FOR", True),
        ("ESMFOLD V1 PREDICTION FOR", True),
    ],
)
def test_titles_of_predictions_begin_with_the_program(title, is_predicted, tmp_path):
    text = FILES["alphafold_layout.pdb"].read_text()
    (tmp_path / "x.pdb").write_text(text.replace("ALPHAFOLD MONOMER V2.0 PREDICTION FOR", title))
    (origin,) = read_structure(tmp_path / "x.pdb").origins
    assert np.isfinite(origin.plddt).all() == is_predicted


def test_no_confidence_where_b_factors_are_none():
    for name in READ:
        if "alphafold" not in name:
            assert all(np.isnan(origin.plddt).all() for origin in read_structure(FILES[name]).origins)


def test_mmjson_is_read_like_the_cif_it_is(tmp_path):
    (protein,) = read_structure(FILES["3wup.json.gz"]).proteins
    document = gemmi.cif.read_mmjson(str(FILES["3wup.json.gz"]))
    (tmp_path / "3wup.cif").write_text(document.as_string())
    shutil.copy(FILES["3wup.json.gz"], tmp_path / "3wup.mmjson.gz")
    for name in ("3wup.cif", "3wup.mmjson.gz"):
        (other,) = read_structure(tmp_path / name).proteins
        assert other.name == protein.name == "3wup_A" and other.sequence == protein.sequence
        np.testing.assert_array_equal(other.backbone, protein.backbone)


def test_binary_cif_is_read_like_the_cif():
    (binary, text) = (read_structure(FILES[name]) for name in ("3jqh.bcif.gz", "3jqh.cif"))
    (got,), (want,) = binary.proteins, text.proteins
    assert (got.name, got.sequence, got.insertion_codes) == (want.name, want.sequence, want.insertion_codes)
    np.testing.assert_array_equal(got.backbone, want.backbone)
    np.testing.assert_array_equal(got.residue_numbers, want.residue_numbers)
    np.testing.assert_array_equal(binary.origins[0].label_numbers, text.origins[0].label_numbers)
    assert binary.counts == text.counts and said(binary) == said(text)


def packed(values: list[int], *encodings: dict) -> dict:
    data = np.array(values, encodings[-1].pop("dtype")).tobytes()
    return {"data": data, "encoding": list(encodings)}


def test_every_encoding_of_binary_cif():
    """Against the numbers in the description of the format."""
    byte = {"kind": "ByteArray", "type": 1, "dtype": "<i1"}
    run = {"kind": "RunLength", "srcType": 3, "srcSize": 6}
    assert decode(packed([1, 3, 2, 1, 3, 2], run, {**byte})).tolist() == [1, 1, 1, 2, 3, 3]
    delta = {"kind": "Delta", "origin": 1000, "srcType": 3}
    assert decode(packed([0, 3, 2, 1], delta, {**byte})).tolist() == [1000, 1003, 1005, 1006]
    integers = {"kind": "IntegerPacking", "byteCount": 1, "isUnsigned": False, "srcSize": 4}
    numbers = [1, 2, -3, 127, 1, -128, -2, 127, 0]
    assert decode(packed(numbers, integers, {**byte})).tolist() == [1, 2, -3, 128, -130, 127]
    fixed = {"kind": "FixedPoint", "factor": 100, "srcType": 33}
    whole = {"kind": "ByteArray", "type": 3, "dtype": "<i4"}
    assert decode(packed([120, 123, 12], fixed, {**whole})).tolist() == [1.2, 1.23, 0.12]
    steps = {"kind": "IntervalQuantization", "min": 1, "max": 2, "numSteps": 3, "srcType": 33}
    assert decode(packed([0, 0, 1, 2, 1], steps, {**byte})).tolist() == [1, 1, 1.5, 2, 1.5]
    texts = {
        "kind": "StringArray",
        "stringData": "aAB",
        "offsets": bytes([0, 1, 3]),
        "offsetEncoding": [{"kind": "ByteArray", "type": 4}],
        "dataEncoding": [{"kind": "ByteArray", "type": 1}],
    }
    assert decode({"data": bytes([0, 1, 0, 255]), "encoding": [texts]}) == ["a", "AB", "a", ""]
    with pytest.raises(ValueError, match="no length"):
        decode(packed([1, 2**30] * 8, run, {**whole}))


@pytest.mark.parametrize(
    "name, words",
    [("a.bcif", "this is no BinaryCIF"), ("a.mmtf", "MMTF"), ("a.pdb.bz2", "bzip2"),
     ("a.txt", "is no structure file by its name"), ("a.cif", "no _atom_site"), ("a.json", "not mmJSON")],
)  # fmt: skip
def test_what_is_not_read_is_said(name, words, tmp_path):
    (tmp_path / name).write_text('{"a": 1}' if name.endswith("json") else "data_x\n_cell.length_a 1\n")
    (skipped,) = read_structure(tmp_path / name).skipped
    assert skipped.what == "file" and words in skipped.reason


def test_kinds_that_are_not_read_are_known_by_their_names():
    names = ("a.mmtf", "a.mmtf.gz", "A.PDB.BZ2", "a.cif.xz", "a.cif.zst", "a.zip", "a.tar.gz", "a.tgz")
    assert all(reason_not_read(Path(name)) for name in names)
    assert [reason_not_read(Path(name)) for name in ("a.pdb", "a.cif.gz", "a.bcif", "a.txt", "zip")] == [
        None
    ] * 5


def test_what_a_file_unpacks_to_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("partoken_jax.proteins.structure_formats.MAX_BYTES", 2**20)
    (tmp_path / "a.pdb.gz").write_bytes(
        gzip.compress(b" " * 2**21) + gzip.compress(b" ")
    )  # the last has 1 byte
    (skipped,) = read_structure(tmp_path / "a.pdb.gz").skipped
    assert skipped.reason == "it is larger than 1 MiB"


def test_a_file_of_before_1996(tmp_path):
    lines = FILES["1a8o.pdb"].read_text().splitlines()
    (tmp_path / "x.pdb").write_text("\n".join(f"{line[:72]:72}1A8O{i:4d}" for i, line in enumerate(lines)))
    (old,), (new,) = read_structure(tmp_path / "x.pdb").proteins, read_structure(FILES["1a8o.pdb"]).proteins
    np.testing.assert_array_equal(old.backbone, new.backbone)


def test_a_title_in_another_encoding(tmp_path):
    (tmp_path / "x.pdb").write_bytes(b"TITLE     PROT\xe9INE\n" + FILES["1a8o.pdb"].read_bytes())
    assert len(read_structure(tmp_path / "x.pdb").proteins) == 1


def test_broken_files_are_read_and_written_or_refused(tmp_path):
    """A few hundred of other seeds than the recorded 20,000."""
    found = {i: fuzz_structures.outcome(i, 17, tmp_path) for i in range(300)}
    assert {what for what, _ in found.values()} == {"read", "refused"}, found


def test_a_process_that_dies_or_hangs_is_counted(monkeypatch):
    monkeypatch.setattr(fuzz_structures, "PATIENCE", 0.5)
    monkeypatch.setattr(fuzz_structures, "work", die_or_hang)
    assert [what for what, _, _ in fuzz_structures.outcomes(4, 0)] == ["read", "died", "read", "hung"]


def die_or_hang(first, last, seed, sender):
    import time

    for index in range(first, last):
        if index == 1:
            os._exit(3)
        if index == 3:
            time.sleep(30)
        sender.send(("read", "", 0.0))


def test_the_corpus_gives_what_is_committed(tmp_path):
    """Files of other readers' tests, out of a folder of archives, or downloaded, which takes a minute."""
    archives = os.environ.get("PARTOKEN_CORPUS")
    if archives is None:
        pytest.skip(
            "PARTOKEN_CORPUS is neither a folder with the archives of experiments.corpus nor 'download'"
        )
    if archives == "download":
        corpus.download(tmp_path)
    rows = {
        row["file"]: row for row in corpus.rows_of(tmp_path if archives == "download" else Path(archives))
    }
    for want in read("corpus.json")["rows"]:
        assert {**rows[want["file"]], "seconds": 0} == {**want, "seconds": 0}


def test_stems():
    names = ["1abc.json.gz", "1abc.mmjson", "1abc.pdb.gz", "a.b.cif"]
    assert [stem(Path(name)) for name in names] == ["1abc", "1abc", "1abc", "a.b"]
