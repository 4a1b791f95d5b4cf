"""`partoken evaluate` with what there is beside scores, on a small run."""

import csv
import json
import re
from pathlib import Path

import pytest

from partoken_jax.cli import main
from partoken_jax.interpret import mcsa
from partoken_jax.proteins import load_dataset
from tests.pretrained.conftest import DATA, make_run

THREE = {letter: name for name, letter in mcsa.LETTERS.items()}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("evaluated") / "run")


@pytest.fixture
def listed(tmp_path, monkeypatch) -> Path:
    """M-CSA as if it listed the fifth residue of every chain, and nothing was installed but that."""
    chains = load_dataset(task="cath-class", split="val").proteins
    entries = {
        protein.name: {
            "pdb_id": protein.name.split("_")[0],
            "chain_name": protein.name.split("_")[1],
            "residues": {
                "0": {
                    "resid": int(protein.residue_numbers[4]),
                    "auth_resid": None,
                    "code": THREE[protein.sequence[4]],
                },
            },
        }
        for protein in chains
    }
    path = tmp_path / mcsa.FILE
    path.write_text(json.dumps({"1": entries}))
    monkeypatch.setattr("partoken_jax.interpret.mcsa.mcsa_file", lambda: path)
    monkeypatch.setattr("partoken_jax.interpret.evaluated.mcsa_file", lambda: path)
    return path


def test_details_and_sites_of_a_run(run_dir, listed, capsys):
    assert main(["evaluate", str(run_dir), "--split", "val", "--details", "--sites"]) == 0
    said = capsys.readouterr().out
    assert "details_val: details.md" in said and "Catalytic residues are" in said
    sites = json.loads((run_dir / "sites_val.json").read_text())
    found = f"{sites['matched']} of the {sites['asked']} catalytic residues"
    assert found in said and f"by {sites['numbering']} number and type" in said
    rows = list(csv.reader((run_dir / "details_val" / "confusion.csv").open()))[1:]
    report = json.loads((run_dir / "evaluation_val.json").read_text())
    assert [list(map(int, row[1:])) for row in rows] == report["scores"]["classification"]["confusion"]
    codes = list(csv.DictReader((run_dir / "details_val" / "codes.csv").open()))
    sizes = report["scores"]["clustering"]["cluster_sizes"]
    assert sum(int(row["clusters"]) for row in codes) == sizes["count"]
    assert "The model has no tokens." not in said
    page = (run_dir / "details_val" / "codebook.html").read_text()
    tokens = {int(row["token"]) for row in codes}
    assert {int(token) for token in re.findall(r'<section id="token-(\d+)"', page)} == tokens
    told = list(csv.DictReader((run_dir / "details_val" / "enrichment.csv").open()))
    assert ("Tokens and classes" in page) == any(float(row["q"]) < 0.05 for row in told)
    links = set(re.findall(r'href="(proteins/[^"#]+)#', page))
    written = (run_dir / "details_val" / "proteins").iterdir()
    assert links == {f"proteins/{path.name}" for path in written} and 0 < len(links) <= 4 * len(tokens)
    found = json.loads((run_dir / "sites_val.json").read_text())
    assert found["proteins"] == found["sites"] == found["matched"] == DATA.max_eval
    assert found["numbering"] == "sequence"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--out", "there"], "--out is for --details and --sites"),
        (["--sites"], "enzymm, which is not installed; install it with"),
    ],
)
def test_mistakes(run_dir, monkeypatch, capsys, flags, said):
    monkeypatch.setattr(mcsa, "find_spec", lambda name: None)
    assert main(["evaluate", str(run_dir), *flags]) == 2
    assert said in capsys.readouterr().err


def test_a_model_needs_a_folder(capsys):
    assert main(["evaluate", "--model", "cath-architecture", "--details"]) == 2
    assert "name a folder for the files with --out" in capsys.readouterr().err
