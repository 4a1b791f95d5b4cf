"""Structure files written with gemmi from the backbones of real proteins, with what real files have."""

from pathlib import Path

import gemmi

from partoken_jax.proteins import RESIDUE_TYPES, Protein
from partoken_jax.proteins.structures import BACKBONE

_THREE_LETTERS = (
    *("ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE"),
    *("LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL"),
)


def residue(name: str, number: int, atoms, code: str = " ", polymer: bool = True) -> gemmi.Residue:
    """A residue of the atoms {name: (x, y, z)}; those that are NaN are left out."""
    made = gemmi.Residue()
    made.name, made.seqid = name, gemmi.SeqId(number, code)
    made.het_flag = "A" if polymer and name != "MSE" else "H"
    made.entity_type = gemmi.EntityType.Polymer if polymer else gemmi.EntityType.NonPolymer
    for atom_name, place in atoms.items():
        if place[0] == place[0]:
            add_atom(made, atom_name, place)
    return made


def add_atom(made: gemmi.Residue, name: str, place, altloc: str = "\0", occupancy: float = 1.0) -> None:
    """Adds an atom to a residue."""
    atom = gemmi.Atom()
    atom.name, atom.altloc, atom.occ = name, altloc, occupancy
    atom.element = gemmi.Element(name[0])
    atom.pos = gemmi.Position(*map(float, place))
    made.add_atom(atom)


def chain_of(protein: Protein, name: str) -> gemmi.Chain:
    """A protein as a chain."""
    chain = gemmi.Chain(name)
    for letter, atoms, number in zip(
        protein.sequence, protein.backbone, protein.residue_numbers.tolist(), strict=True
    ):
        three = _THREE_LETTERS[RESIDUE_TYPES.index(letter)]
        chain.add_residue(residue(three, number, dict(zip(BACKBONE, atoms, strict=True))))
    return chain


def structure_of(*models: list[gemmi.Chain]) -> gemmi.Structure:
    """A structure of models."""
    structure = gemmi.Structure()
    for number, chains in enumerate(models, 1):
        model = gemmi.Model(number)
        for chain in chains:
            model.add_chain(chain)
        structure.add_model(model)
    return structure


def write_structure(path: Path, structure: gemmi.Structure) -> Path:
    """Writes a PDB or mmCIF file, compressed if its name ends in .gz."""
    import gzip

    structure.setup_entities()
    plain = path.name.removesuffix(".gz")
    text = (
        structure.make_mmcif_document().as_string()
        if plain.endswith(".cif")
        else structure.make_pdb_string(gemmi.PdbWriteOptions(minimal=False))
    )
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path
