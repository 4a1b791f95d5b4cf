"""Reads every structure file inside the source distributions of biopython, gemmi and MDAnalysisTests.

    python -m experiments.corpus --json experiments/results/corpus.json

These are files that other readers are tested with: entries of the PDB, files of simulations, and broken ones.
For each the result says which proteins were read of how many models, or why it was refused. Every residue is
then looked up in the file again, without our reader: by model, author's chain, author's number and insertion
code in the columns of a PDB file or the table of an mmCIF file, where label numbers and the place of CA have
to agree. (Tables of BinaryCIF files are unpacked by our code; a test compares one with its mmCIF file.)
"""

import gzip
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gemmi
import numpy as np

from experiments.flags import Flags, output, run_script
from partoken_jax.proteins import Protein
from partoken_jax.proteins.binary_cif import read_binary_cif
from partoken_jax.proteins.structure_formats import SUFFIXES_NAMED
from partoken_jax.proteins.structures import BACKBONE, StructureContents, read_structure

PACKAGES = {"biopython": "1.88", "gemmi": "0.7.5", "MDAnalysisTests": "2.11.0"}
SUFFIXES = (*SUFFIXES_NAMED, ".mmtf", ".mmtf.gz", ".pdb.bz2")
STANDARD = {
    *("ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE"),
    *("LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL"),
}
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Key = tuple[int, str, int, str]
"""Model, author's chain, author's number and insertion code of a residue."""


class Atom(NamedTuple):
    """An atom as its file has it."""

    name: str
    residue: str
    place: tuple[float, ...]
    """x, y and z in Å."""
    label_chain: str
    label_number: int
    """0 where there is none."""


def download(folder: Path) -> None:
    """Gets the source distributions from the registry that pip is set up for."""
    for name, version in PACKAGES.items():
        source = ("download", "--quiet", "--no-deps", "--no-binary", ":all:", f"{name}=={version}")
        subprocess.run([sys.executable, "-m", "pip", *source, "--dest", str(folder)], check=True)


def unpack(archives: Path, folder: Path) -> list[Path]:
    """The structure files of all .tar.gz archives of a folder, written into another one, sorted."""
    for archive in sorted(archives.glob("*.tar.gz")):
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                if member.isfile() and member.name.lower().endswith(SUFFIXES):
                    tar.extract(member, folder, filter="data")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def atoms_of_pdb(text: str) -> Iterator[tuple[Key, Atom]]:
    """The columns of a PDB file."""
    model, models = None, 0
    for line in text.splitlines():
        if line.startswith("MODEL"):
            model, models = int(line[10:14].strip() or 0), models + 1
        elif line.startswith("ENDMDL"):
            model = None
        elif line.startswith(("ATOM", "HETATM")):
            if model is None:  # atoms beside the models, or a file without any
                models += 1
                model = models
            chain = line[20:22].strip()
            place = (float(line[30:38]), float(line[38:46]), float(line[46:54]))
            yield (
                (model, chain, hybrid36(line[22:26]), line[26:27] or " "),
                Atom(line[12:16].strip(), line[17:20].strip(), place, chain, 0),
            )


def hybrid36(field: str) -> int:
    """A number of four characters, which goes on with A000 after 9999."""
    if not field.strip()[:1].isalpha():
        return int(field)
    value = 0
    for digit in field.upper():
        value = 36 * value + DIGITS.index(digit)
    return value - 10 * 36**3 + 10**4 + (26 * 36**3 if field[0].islower() else 0)


def atoms_of_cif(document: gemmi.cif.Document) -> Iterator[tuple[Key, Atom]]:
    """The table `_atom_site` of an mmCIF file."""
    tags = (
        *(
            "label_atom_id",
            "label_comp_id",
            "?pdbx_PDB_model_num",
            "?auth_asym_id",
            "?label_asym_id",
            "?auth_seq_id",
        ),
        *("?label_seq_id", "?pdbx_PDB_ins_code", "Cartn_x", "Cartn_y", "Cartn_z"),
    )
    for block in document:
        for row in block.find("_atom_site.", list(tags)):
            model, chain, label_chain, number, label, code = (
                row.str(i) if row.has(i) and not gemmi.cif.is_null(row[i]) else "" for i in range(2, 8)
            )
            yield (
                (int(model or 1), chain or label_chain, int(number or label or 0), code or " "),
                Atom(
                    name=row.str(0),
                    residue=row.str(1),
                    place=tuple(float(row[i]) for i in (8, 9, 10)),
                    label_chain=label_chain or chain,
                    label_number=int(label or 0),
                ),
            )


def atoms_by_residue(path: Path) -> dict[Key, list[Atom]]:
    """All atoms of a structure file."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".pdb", ".ent")):
        with opened(path) as file:
            atoms = list(atoms_of_pdb(file.read()))
    else:
        atoms = list(atoms_of_cif(tables(path)))
    found: dict[Key, list[Atom]] = {}
    for key, atom in atoms:
        found.setdefault(key, []).append(atom)
    return found


def tables(path: Path) -> gemmi.cif.Document:
    """What an mmCIF, mmJSON or BinaryCIF file holds."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".bcif"):
        content = path.read_bytes()
        return read_binary_cif(gzip.decompress(content) if path.suffix == ".gz" else content)
    return (gemmi.cif.read_mmjson if name.endswith("json") else gemmi.cif.read)(str(path))


def opened(path: Path):
    """A text file, plain or compressed."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding="latin-1")


def not_found(atoms: Mapping[Key, list[Atom]], contents: StructureContents) -> list[str]:
    """Residues of a file's proteins that are not in the file as their numbers say; none, if all is well."""
    wrong = []
    for protein, origin in zip(contents.proteins, contents.origins, strict=True):
        for i, (number, code) in enumerate(numbers(protein)):
            ca = protein.backbone[i, 1]
            labels = [
                (atom.label_chain, atom.label_number)
                for atom in atoms.get((origin.model, origin.chain, number, code), [])
                if np.isnan(ca).all()
                or (atom.name == "CA" and np.abs(np.array(atom.place, np.float32) - ca).max() < 1e-4)
            ]
            if (origin.label_chain, int(origin.label_numbers[i])) not in labels:
                wrong.append(f"{protein.name} {number}{code}".strip())
    return wrong


def left_out(atoms: Mapping[Key, list[Atom]], contents: StructureContents) -> list[str]:
    """Standard amino acids with a whole backbone that are in the file, and not in their chain's protein."""
    known = {
        (origin.model, origin.chain, *number)
        for protein, origin in zip(contents.proteins, contents.origins, strict=True)
        for number in numbers(protein)
    }
    chains = {key[:2] for key in known}
    return [
        f"{chain} {number}{code}".strip()
        for (model, chain, number, code), there in atoms.items()
        if (model, chain) in chains and (model, chain, number, code) not in known
        if there[0].residue in STANDARD and {atom.name for atom in there} >= set(BACKBONE)
    ]


def numbers(protein: Protein) -> Iterator[tuple[int, str]]:
    """Number and insertion code of each residue."""
    return zip(protein.residue_numbers.tolist(), protein.insertion_codes, strict=True)


def row_of(path: Path, name: str) -> dict[str, Any]:
    """What became of a file."""
    start = time.perf_counter()
    try:
        contents = read_structure(path, models="all")
    except Exception as error:  # what this script is there to find
        return {"file": name, "crash": f"{type(error).__name__}: {error}"}
    seconds = time.perf_counter() - start
    residues = sum(map(len, contents.proteins))
    row: dict[str, Any] = {"file": name, "proteins": len(contents.proteins), "residues": residues}
    if contents.proteins:
        row["models"] = len({origin.model for origin in contents.origins})
        atoms = atoms_by_residue(path)
        row |= {"not_found": not_found(atoms, contents), "left_out": left_out(atoms, contents)}
    refused = Counter(entry.reason for entry in contents.skipped if entry.what in ("file", "chain"))
    if refused:
        row["refused"] = dict(refused)
    return row | {"seconds": round(seconds, 3)}


def rows_of(archives: Path) -> list[dict[str, Any]]:
    """What became of every structure file in the archives of a folder."""
    with tempfile.TemporaryDirectory() as folder:
        return [row_of(path, f"{path.relative_to(folder)}") for path in unpack(archives, Path(folder))]


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument(
        "--archives", type=Path, help="Folder of the .tar.gz files; without it they are downloaded."
    )
    flags.add_argument("--json", type=output, help="The file for the result.")
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.archives is None:
            download(Path(folder))
        rows = rows_of(args.archives or Path(folder))
    read = [row for row in rows if row.get("proteins")]
    result = {
        "schema": "partoken.corpus/1",
        "command": " ".join(["python -m experiments.corpus", *sys.argv[1:]]),
        "packages": PACKAGES,
        "files": len(rows),
        "read": len(read),
        "refused": sum(row.get("proteins") == 0 for row in rows),
        "crashes": sum("crash" in row for row in rows),
        "proteins": sum(row["proteins"] for row in read),
        "residues": sum(row["residues"] for row in read),
        "residues_not_found": sum(len(row["not_found"]) for row in read),
        "residues_left_out": sum(len(row["left_out"]) for row in read),
        "seconds": round(sum(row.get("seconds", 0.0) for row in rows), 2),
        "rows": rows,
    }
    print(", ".join(f"{name} {value}" for name, value in result.items() if isinstance(value, (int, float))))
    if args.json is not None:
        rows_text = ",\n  ".join(json.dumps(row) for row in rows)
        head = json.dumps({**result, "rows": []}, indent=1)
        args.json.write_text(head.replace('"rows": []', f'"rows": [\n  {rows_text}\n ]') + "\n")


if __name__ == "__main__":
    run_script(main)
