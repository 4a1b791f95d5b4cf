"""A folder of structure files with labels."""

import json
from pathlib import Path

import numpy as np
import pytest

from partoken_jax.proteins.dataset import EMBEDDED
from tests.structure_files import chain_of, structure_of, write_structure

NAMES = ("1abc.pdb", "2xyz.cif.gz", "äöü.pdb.gz", "4four.cif", "5five.pdb", "6six.ent")
GOOD = """id,colour,parts,split
1abc,red,a;b,train
2xyz_A,blue,a,train
äöü,red,,val
4four,,b;c,test
5five,blue,c,train
none,red,a,train
"""


@pytest.fixture
def structures(tmp_path, chains) -> Path:
    """Six files of a chain A each, two of them in a folder of their own."""
    folder = tmp_path / "pdbs"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        place = folder / "more" if i > 3 else folder
        write_structure(place / name, structure_of([chain_of(chains[i], "A")]))
    return folder


@pytest.fixture
def table(tmp_path):
    """table(text) → a CSV file of labels; without text, a good one for `structures`."""

    def write(text: str = GOOD) -> Path:
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def some_npz(tmp_path_factory) -> Path:
    """A .npz file with every eighth protein of the embedded one."""
    with np.load(EMBEDDED) as file:
        arrays = {name: file[name] for name in file.files}
    chosen = np.zeros(len(arrays["id"]), bool)
    chosen[::8] = True
    residues = np.repeat(chosen, arrays["length"])
    num_proteins, num_residues = len(chosen), len(residues)
    for name, array in arrays.items():
        if array.shape[-1:] == (num_residues,):
            arrays[name] = array[..., residues]
        elif array.shape == (num_proteins,):
            arrays[name] = array[chosen]
    path = tmp_path_factory.mktemp("npz") / "some.npz"
    np.savez(path, **arrays)
    return path


@pytest.fixture
def load():
    """load(folder) → the arrays of a prepared set by name, and "json"."""

    def load(folder: Path) -> dict:
        found = {
            str(path.relative_to(folder)).removesuffix(".npy"): np.load(path)
            for path in folder.rglob("*.npy")
        }
        return found | {"json": json.loads((folder / "dataset.json").read_text())}

    return load
