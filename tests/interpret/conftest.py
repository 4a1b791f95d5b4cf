"""A model that decides something, and structure files of small proteins."""

import dataclasses

import gemmi
import numpy as np
import pytest

from partoken_jax.pretrained import load_model
from partoken_jax.training.objective import split_model
from tests.interpret.made import cro_annotation
from tests.pretrained.conftest import make_run


@pytest.fixture(scope="session")
def model(tmp_path_factory, chains):
    """With codes that its clusters are near to."""
    model = load_model(make_run(tmp_path_factory.mktemp("annotate") / "run"))
    network = model.model
    width, size = model.config.model.node_hidden[0], model.config.model.codebook.size
    features = [out.cluster_features for _, out in model.outputs(chains)]
    network.codebook.embeddings[...] = np.concatenate(features)[:size].reshape(size, width)
    return dataclasses.replace(model, codebook=split_model(network)[2])


@pytest.fixture(scope="session")
def cro(tmp_path_factory):
    """An annotation, made by hand, of a small protein in a file that stays."""
    return cro_annotation(tmp_path_factory.mktemp("structures"))


def write_pdb(path, proteins, codes=None):
    """The backbones of proteins as the chains A, B, ... of a PDB file."""
    structure = gemmi.Structure()
    structure.add_model(gemmi.Model(1))
    for name, protein in zip("ABCDEFGHIJ", proteins, strict=False):
        chain = gemmi.Chain(name)
        for i, letter in enumerate(protein.sequence):
            residue = gemmi.Residue()
            residue.name = gemmi.expand_one_letter(letter, gemmi.ResidueKind.AA)
            residue.seqid = gemmi.SeqId(f"{protein.residue_numbers[i]}{protein.insertion_codes[i].strip()}")
            residue.entity_type = gemmi.EntityType.Polymer
            for atom_name, element, place in zip(
                ("N", "CA", "C", "O"), "NCCO", protein.backbone[i], strict=True
            ):
                if np.isfinite(place).all():
                    atom = gemmi.Atom()
                    atom.name, atom.element, atom.occ = atom_name, gemmi.Element(element), 1.0
                    atom.pos = gemmi.Position(*map(float, place))
                    residue.add_atom(atom)
            chain.add_residue(residue)
        structure[0].add_chain(chain)
    structure.setup_entities()
    structure.write_pdb(str(path))
    return path
