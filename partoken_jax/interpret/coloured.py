"""Structure files with the clusters in them, and scripts that colour them in PyMOL, ChimeraX and Mol*."""

import json
import re
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from gemmi import cif

from partoken_jax.files import write_whole
from partoken_jax.interpret import colours
from partoken_jax.interpret.annotation import Annotation, Cluster
from partoken_jax.interpret.tables import residue_numbers
from partoken_jax.proteins import Protein
from partoken_jax.proteins.polymers import (
    BACKBONE,
    LONGEST_BOND,
    polymers_of,
    residue_number,
    set_entity_types,
)
from partoken_jax.proteins.structure_formats import StructureError, open_structure
from partoken_jax.proteins.structures import Origin

B_FACTOR = "rank of the cluster that the residue is in: 1 for the most important one, 0 for none"
"""What the column of B factors holds."""


def write_coloured(annotation: Annotation, folder: Path, stem: str) -> list[Path]:
    """Writes a protein and its clusters for the programs that show structures.

    The files are `stem` with .cif (mmCIF), .pdb where the format has room for it (`fits_pdb`), .pml
    (PyMOL), .cxc (ChimeraX), .mvsj (MolViewSpec, refers to the .cif) and .mvsx (the same and the .cif in one
    archive, for Mol*). The structure is the chain in the file that the protein is from, with all its atoms
    and numbers, or the backbone alone where there is no file. B factors are the ranks of clusters.

    Returns:
      The files, in the order above.

    Raises OSError where a file cannot be written, and StructureError where the file that the protein is from
    cannot be read any more.
    """
    structure = coloured_structure(annotation, stem)
    text = coloured_mmcif(annotation, structure)
    view = json.dumps(molviewspec(annotation, f"{stem}.cif"), indent=1) + "\n"
    contents: dict[str, str] = {".cif": text}
    if fits_pdb(structure):
        contents[".pdb"] = structure.make_pdb_string(gemmi.PdbWriteOptions(minimal=False))
    contents[".pml"] = pymol_script(annotation, stem)
    contents[".cxc"] = chimerax_script(annotation, stem)
    contents[".mvsj"] = view
    paths = []
    for suffix, content in contents.items():
        paths.append(folder / f"{stem}{suffix}")
        write_whole(paths[-1], content)
    paths.append(folder / f"{stem}.mvsx")
    with zipfile.ZipFile(paths[-1], "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (("index.mvsj", view), (f"{stem}.cif", text)):
            # A date of its own would make every file another one.
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return paths


def coloured_structure(annotation: Annotation, name: str) -> gemmi.Structure:
    """The chain of an annotated protein, alone, with ranks of clusters as B factors."""
    origin, protein = annotation.origin, annotation.protein
    structure = _of_backbone(protein) if origin is None else _of_file(origin)
    structure.name = name
    structure.raw_remarks = ["REMARK 999 B FACTORS ARE RANKS OF CLUSTERS, 1 THE MOST IMPORTANT, 0 IN NONE"]
    places = zip(protein.residue_numbers.tolist(), protein.insertion_codes, strict=True)
    rank_at = dict(zip(places, annotation.rank_of_residue.tolist(), strict=True))
    for residue in structure[0][0]:
        for atom in residue:
            atom.b_iso, atom.aniso = 0, gemmi.SMat33f(0, 0, 0, 0, 0, 0)
    own = structure[0][0] if origin is None else _own_residues(structure[0][0])
    for residue in own:  # a ligand may have the number of one of them
        for atom in residue:
            atom.b_iso = rank_at.get(residue_number(residue), 0)
    structure.assign_subchains()
    structure.ensure_entities()
    structure.assign_label_seq_id()  # by the sequence of a PDB file, if it has one
    _number(structure[0][0])
    return structure


def _own_residues(chain: gemmi.Chain) -> list[gemmi.Residue]:
    """The residues that a chain is read as; removes those of a second chain of its name."""
    for residue in polymers_of(chain).repeated:
        residue.flag = "x"
    for place in reversed(range(len(chain))):
        if chain[place].flag == "x":
            del chain[place]
    return polymers_of(chain).peptide


def _number(chain: gemmi.Chain) -> None:
    """Gives the residues of a polymer numbers in the sequence where the file has none.

    Without them Mol* takes residues that differ in their insertion codes alone for one.
    """
    polymer = [residue for residue in chain if residue.entity_type == gemmi.EntityType.Polymer]
    if all(residue.label_seq for residue in polymer):
        return
    number, before = 0, None
    for residue in polymer:
        if before is None or residue.seqid != before.seqid:
            end = None if before is None else before.find_atom("C", "*")
            start = residue.find_atom("N", "*")
            joined = end is None or start is None or end.pos.dist(start.pos) < LONGEST_BOND
            missing = 0 if before is None or joined else residue.seqid.num - before.seqid.num - 1
            number += 1 + max(missing, 0 if joined else 1)
        residue.label_seq, before = number, residue


def fits_pdb(structure: gemmi.Structure) -> bool:
    """Whether the names, numbers and coordinates of a structure have room in a PDB file."""
    chain = structure[0][0]
    numbers = [residue.seqid.num or 0 for residue in chain]
    return (
        len(chain.name) <= 1
        and all(len(residue.name) <= 3 for residue in chain)
        and structure[0].count_atom_sites() < 99_999
        and all(-999 <= number <= 9999 for number in numbers)
        and all(-999 < x < 9999 for residue in chain for atom in residue for x in atom.pos.tolist())
    )


def coloured_mmcif(annotation: Annotation, structure: gemmi.Structure) -> str:
    """The mmCIF file of a `coloured_structure`, with tables of clusters and of residues of our own."""
    document = structure.make_mmcif_document()
    block = document.sole_block()
    block.set_pair("_partoken.prediction", cif.quote(annotation.title))
    block.set_pair("_partoken.confidence", f"{annotation.confidence:.6g}")
    block.set_pair("_partoken.b_iso_or_equiv", cif.quote(B_FACTOR))
    if annotation.clusters:
        numbers = residue_numbers(annotation)
        table = block.init_loop(
            "_partoken_cluster.", ["rank", "importance", "token", "distance", "size", "seed"]
        )
        for cluster in annotation.clusters:
            table.add_row(
                [
                    str(cluster.rank),
                    f"{cluster.importance:.6g}",
                    "." if cluster.token is None else str(cluster.token),
                    "." if cluster.distance is None else f"{cluster.distance:.6g}",
                    str(cluster.size),
                    numbers[cluster.seed],
                ]
            )
    columns = [
        "auth_asym_id",
        "auth_seq_id",
        "pdbx_PDB_ins_code",
        "label_seq_id",
        "rank",
        "token",
        "importance",
    ]
    table = block.init_loop("_partoken_residue.", columns)
    for row in _residue_rows(annotation, structure[0][0]):
        table.add_row(row)
    return document.as_string()


def _residue_rows(annotation: Annotation, chain: gemmi.Chain) -> list[list[str]]:
    protein = annotation.protein
    polymer = [residue for residue in chain if residue.entity_type == gemmi.EntityType.Polymer]
    labels = {residue_number(residue): residue.label_seq for residue in reversed(polymer)}
    name = cif.quote(chain.name) if chain.name else "."
    cluster_of = {cluster.rank: cluster for cluster in annotation.clusters}
    rows = []
    for i, rank in enumerate(annotation.rank_of_residue.tolist()):
        cluster = cluster_of.get(rank)
        token = None if cluster is None else cluster.token
        label = labels.get((protein.residue_numbers[i], protein.insertion_codes[i]))
        rows.append(
            [
                name,
                str(protein.residue_numbers[i]),
                "?" if protein.insertion_codes[i] == " " else protein.insertion_codes[i],
                str(label) if label else ".",
                str(rank),
                "." if token is None else str(token),
                "." if cluster is None else f"{cluster.importance:.6g}",
            ]
        )
    return rows


def pymol_script(annotation: Annotation, stem: str) -> str:
    """Opens `stem`.cif in PyMOL and colours its clusters, each a selection of its own."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", stem)  # other characters are operators of PyMOL
    lines = [
        f"# PyMOL: open from the folder of the structure file, as with: pymol {stem}.pml",
        f"load {stem}.cif, {name}",
        f"dss {name}",
        "hide everything",
        "show cartoon",
        "show sticks, organic",
        f"set_color partoken_none, {_parts(colours.NONE['light'])}",
        f"color partoken_none, {name}",
    ]
    for cluster in annotation.clusters:
        residues = "+".join(_ranges(annotation, cluster, escape="\\"))
        lines += [
            f"# {_described(cluster)}",
            f"set_color partoken_{cluster.rank}, {_parts(colours.of_rank(cluster.rank))}",
            f"select cluster_{cluster.rank}, {name} and polymer and resi {residues}",
            f"color partoken_{cluster.rank}, cluster_{cluster.rank}",
        ]
    return "\n".join([*lines, "deselect", f"orient {name}", ""])


def chimerax_script(annotation: Annotation, stem: str) -> str:
    """Opens `stem`.cif in a new session of ChimeraX and colours its clusters, each by a name of its own."""
    lines = [
        "# ChimeraX: open this file in a new session; it finds the structure file beside it",
        f'open "{stem}.cif" id 1',
        "dssp #1",
        "hide #1 atoms",
        "show #1 & ligand atoms",
        "show #1 cartoons",
        f"color #1 {colours.NONE['light']}",
    ]
    for cluster in annotation.clusters:
        residues = ",".join(_ranges(annotation, cluster))
        lines += [
            f"# {_described(cluster)}",
            f"name cluster_{cluster.rank} #1:{residues} & protein",
            f"color cluster_{cluster.rank} {colours.of_rank(cluster.rank)}",
        ]
    return "\n".join([*lines, "view #1", ""])


def molviewspec(annotation: Annotation, url: str) -> dict[str, Any]:
    """A state of MolViewSpec 1 that shows the structure of a URL with its clusters, and says what each is.

    Args:
      annotation: the protein and its clusters.
      url: of the mmCIF file, relative to where the state is.
    """
    paint = [_node("color", color=colours.NONE["light"])]
    said = []
    for cluster in annotation.clusters:
        residues = _selector(annotation.protein, cluster)
        paint.append(_node("color", color=colours.of_rank(cluster.rank), selector=residues))
        said.append(_node("component", [_node("tooltip", text=_described(cluster))], selector=residues))
    polymer = _node("component", [_node("representation", paint, type="cartoon")], selector="polymer")
    sticks = _node("representation", [_node("color", color="#8a8f96")], type="ball_and_stick")
    ligand = _node("component", [sticks], selector="ligand")
    structure = _node("structure", [polymer, ligand, *said], type="model")
    read = _node("download", [_node("parse", [structure], format="mmcif")], url=url)
    # The format wants a time; one of now would make every file another one.
    about = {"version": "1", "timestamp": "1970-01-01T00:00:00+00:00", "title": annotation.protein.name}
    return {"root": {"kind": "root", "children": [read]}, "metadata": about, "kind": "single"}


def _node(kind: str, children: Sequence[Any] = (), **params: Any) -> dict[str, Any]:
    node: dict[str, Any] = {"kind": kind, "params": params}
    return node | ({"children": list(children)} if children else {})


def _selector(protein: Protein, cluster: Cluster) -> list[dict[str, Any]]:
    # Without an insertion code a number would stand for the residues of all codes.
    return [
        {
            "auth_seq_id": int(protein.residue_numbers[i]),
            "pdbx_PDB_ins_code": protein.insertion_codes[i].strip(),
        }
        for i in cluster.residues.tolist()
    ]


def _described(cluster: Cluster) -> str:
    token = "" if cluster.token is None else f", token {cluster.token}"
    return f"Cluster {cluster.rank}{token}, importance {cluster.importance:.3f}, {cluster.size} residues"


def _ranges(annotation: Annotation, cluster: Cluster, escape: str = "") -> list[str]:
    """Residues by author number: "12-20", "52A"; `escape` stands before the sign of a negative number.

    Ranges are of numbers that the protein has one residue of: programs differ in whether 12-20 has 15A.
    """
    protein = annotation.protein
    numbers, codes = protein.residue_numbers.tolist(), protein.insertion_codes
    single = {number for number, code in zip(numbers, codes, strict=True) if code == " " and number >= 0}
    single -= {number for number, code in zip(numbers, codes, strict=True) if code != " "}
    runs: list[list[int]] = []
    for i in cluster.residues.tolist():
        last = runs[-1][-1] if runs else -1
        if (
            runs
            and last + 1 == i
            and numbers[last] + 1 == numbers[i]
            and {numbers[last], numbers[i]} <= single
        ):
            runs[-1].append(i)
        else:
            runs.append([i])
    names, written = residue_numbers(annotation), []
    for run in runs:
        first = names[run[0]].replace("-", f"{escape}-")
        written.append(first if len(run) == 1 else f"{first}-{numbers[run[-1]]}")
    return written


def _parts(colour: str) -> str:
    return "[" + ", ".join(f"{part:.4f}" for part in colours.rgb(colour)) + "]"


def _of_file(origin: Origin) -> gemmi.Structure:
    """The chain and model of the file, with all atoms; what is said of others is left out."""
    try:
        changed = origin.path.stat().st_mtime_ns
    except OSError:
        raise StructureError("it is not there any more") from None
    structure = _opened(origin.path, changed).clone()
    for place in reversed(range(len(structure))):
        if structure[place].num != origin.model:
            del structure[place]
    if not len(structure) or origin.chain not in (chain.name for chain in structure[0]):
        raise StructureError(f"it has changed, and has no chain {origin.chain} any more")
    model = structure[0]
    for name in {chain.name for chain in model} - {origin.chain}:
        model.remove_chain(name)
    # Sheets go over several chains. Without helices as well, programs find both by themselves.
    for parts in (structure.assemblies, structure.cispeps, structure.helices, structure.sheets):
        parts.clear()
    for place in reversed(range(len(structure.connections))):
        ends = structure.connections[place].partner1, structure.connections[place].partner2
        if any(end.chain_name != origin.chain for end in ends):
            del structure.connections[place]
    return structure


@lru_cache(maxsize=1)
def _opened(path: Path, changed: int) -> gemmi.Structure:
    """A file as it was last changed; its chains are asked for one after another."""
    structure = open_structure(path).structure
    set_entity_types(structure)
    return structure


def _of_backbone(protein: Protein) -> gemmi.Structure:
    chain = gemmi.Chain(protein.chain)
    names = gemmi.expand_one_letter_sequence(protein.sequence, gemmi.ResidueKind.AA)
    for i, name in enumerate(names):
        residue = gemmi.Residue()
        residue.name = name
        residue.seqid = gemmi.SeqId(int(protein.residue_numbers[i]), protein.insertion_codes[i])
        for atom_name, place in zip(BACKBONE, protein.backbone[i], strict=True):
            if np.isfinite(place).all():
                atom = gemmi.Atom()
                atom.name, atom.element = atom_name, gemmi.Element(atom_name[0])
                atom.pos = gemmi.Position(*map(float, place))
                residue.add_atom(atom)
        if len(residue):
            residue.entity_type = gemmi.EntityType.Polymer
            chain.add_residue(residue)
    structure, model = gemmi.Structure(), gemmi.Model(1)
    model.add_chain(chain)
    structure.add_model(model)
    return structure
