"""Opens structure files: which formats there are, and how a file becomes a gemmi.Structure."""

import gzip
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gemmi

from partoken_jax.proteins.binary_cif import read_binary_cif

MAX_BYTES = 2**29
"""Of a structure file, unpacked: several times the largest of the PDB."""
SUFFIXES = tuple(
    f"{suffix}{packed}"
    for packed in ("", ".gz")
    for suffix in (".pdb", ".ent", ".cif", ".mmcif", ".bcif", ".mmjson")
)
"""How names of structure files end, in small letters."""
SUFFIXES_NAMED = (*SUFFIXES, ".json", ".json.gz")
"""The same for a file that is named by itself: mmJSON of PDBj is called .json, as many other things in a
folder are."""
_NOT_READ = {
    ".mmtf": "it is MMTF, which is not read; get it as mmCIF (.cif or .cif.gz)",
    ".bz2": "it is compressed with bzip2, which is not read; unpack it, or compress it with gzip",
    ".xz": "it is compressed with xz, which is not read; unpack it, or compress it with gzip",
    ".zst": "it is compressed with Zstandard, which is not read; unpack it, or compress it with gzip",
    ".zip": "it is a zip archive; unpack it and give the folder",
    ".tar": "it is an archive; unpack it and give the folder",
    ".tgz": "it is an archive; unpack it and give the folder",
}
_CIF_READERS: dict[str, Callable[[bytes], gemmi.cif.Document]] = {
    ".bcif": read_binary_cif,
    ".mmjson": gemmi.cif.read_mmjson_string,
    ".json": gemmi.cif.read_mmjson_string,
}
_PREDICTION = re.compile(r"\s*(ALPHAFOLD|ESMFOLD|COLABFOLD)\b.*\bPREDICTION\b", re.IGNORECASE | re.DOTALL)
_ODD_CHAIN = re.compile(rb"^(ATOM..|HETATM).{14,15}[\x80-\xff]", re.IGNORECASE | re.MULTILINE)
_ASCII = bytes([*range(128), *b"?" * 128])
_END = re.compile(rb"\n[Ee][Nn][Dd](?![Mm])[^\r\n]*")
_MODEL = re.compile(rb"^MODEL [^\r\n]*", re.IGNORECASE | re.MULTILINE)
_ALTLOC = "_atom_site.label_alt_id"
_NEEDED = ("id", "type_symbol", "label_asym_id", "Cartn_x", "Cartn_y", "Cartn_z")
"""Columns of _atom_site without any of which, or that of alternate locations, gemmi finds no atoms."""


class StructureError(ValueError):
    """A file that cannot be read; the message says why, without the name of the file."""


class Opened(NamedTuple):
    """A structure file that was read."""

    structure: gemmi.Structure
    is_predicted: bool
    """Whether its B factors are confidences (pLDDT)."""


def is_structure_file(path: Path) -> bool:
    """Whether the name of a file, as it is found in a folder, is that of a structure."""
    return path.name.lower().endswith(SUFFIXES)


def stem(path: Path) -> str:
    """The name of a structure file, as `text_of` has it, without .gz and without what tells its format."""
    name = re.sub(r"\.(pdb|ent|cif|mmcif|bcif|mmjson|json)(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    return text_of(name)


def text_of(name: str) -> str:
    """A name as text: what is none, as bytes in the name of a file that are no UTF-8, becomes "\\udce9" and
    the like."""
    return name.encode(errors="backslashreplace").decode()


def open_structure(path: Path) -> Opened:
    """Reads a PDB, mmCIF, BinaryCIF or mmJSON file, plain or compressed (.gz).

    A file is a prediction where its mmCIF has a pLDDT among the quality metrics (`_ma_qa_metric`, as files of
    the AlphaFold database, of AlphaFold 3 and of ModelArchive have), or where its title begins with
    AlphaFold, ColabFold or ESMFold and says that it is a prediction.

    Raises StructureError for a file that does not exist, may not be read, is too large or of another format,
    for text that cannot be parsed, and for one without coordinates.
    """
    check_structure_file(path)
    try:
        structure, has_plddt = _parse(_suffix(path), _content(path))
    except StructureError:
        raise
    except (RuntimeError, ValueError, IndexError, OSError, EOFError, zlib.error, MemoryError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise StructureError(_unreadable(error)) from error
        reason = re.sub(r"^string:|: string$", "", " ".join(f"{error}".split())) or type(error).__name__
        raise StructureError(f"it cannot be read ({reason})") from error
    if not len(structure) or not len(structure[0]):
        raise StructureError("it holds no atoms")
    return Opened(structure, has_plddt or _PREDICTION.match(_title(structure)) is not None)


def check_structure_file(path: Path) -> None:
    """Raises StructureError for a file that need not be read."""
    name = path.name.lower()
    try:
        if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
            raise StructureError("it cannot be read (permission denied)")
        if not path.is_file():
            raise StructureError("it is not a file")
        size = path.stat().st_size
    except OSError as error:
        raise StructureError(_unreadable(error)) from error
    if (reason := reason_not_read(path)) is not None:
        raise StructureError(reason)
    if not name.endswith(SUFFIXES_NAMED):
        raise StructureError(
            f"it is no structure file by its name, which would end in {', '.join(SUFFIXES_NAMED)}"
        )
    if size > MAX_BYTES:
        raise StructureError(f"it is larger than {MAX_BYTES >> 20} MiB")


def reason_not_read(path: Path) -> str | None:
    """Why a file of this name is not read, where the name is that of a kind which could hold a structure."""
    return _NOT_READ.get(_suffix(path)) or _NOT_READ.get(Path(path.name.lower()).suffix)


def _unreadable(error: OSError) -> str:
    return f"it cannot be read ({(error.strerror or type(error).__name__).lower()})"


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _content(path: Path) -> bytes:
    """What a file holds, unpacked, and no more of it than `MAX_BYTES`."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(path) if is_packed else path.open("rb") as source:
        content = source.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise StructureError(f"it is larger than {MAX_BYTES >> 20} MiB")
    return content


def _text(suffix: str, content: bytes) -> bytes:
    """The content without a byte order mark, and with text in an older encoding, which would be no text to
    gemmi, rewritten.

    In a PDB file, whose columns must not move, letters beyond ASCII become "?". Other files are taken to be
    Latin-1 if they are no UTF-8. Raises StructureError where "?" would give several chains one name.
    """
    if suffix == ".bcif":
        return content
    content = content.removeprefix(b"\xef\xbb\xbf")
    if content.isascii():
        return content
    if suffix in (".pdb", ".ent"):
        if _ODD_CHAIN.search(content):
            raise StructureError("it cannot be read (the name of a chain is no letter of ASCII)")
        return content.translate(_ASCII)
    try:
        content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1").encode()
    return content


def _parse(suffix: str, content: bytes) -> tuple[gemmi.Structure, bool]:
    """The structure, and whether a pLDDT is among the metrics of an mmCIF file."""
    content = _text(suffix, content)
    if suffix in (".pdb", ".ent"):
        content = _with_models(content)
        try:
            structure = gemmi.read_pdb_string(content)
        except RuntimeError as error:
            if "charge" not in f"{error}":
                raise
            # Until 1996 the entry's name stood where charges are now.
            structure = gemmi.read_pdb_string(content, max_line_length=72)
        structure.merge_chain_parts()
        for residue in (residue for model in structure for chain in model for residue in chain):
            residue.subchain = ""  # a label, which gemmi makes up where there is a TER record
        return structure, False
    document = _CIF_READERS.get(suffix, gemmi.cif.read_string)(content)
    blocks = [block for block in document if "_atom_site." in block.get_mmcif_category_names()]
    if not blocks:
        raise StructureError(
            "it has no coordinates (no _atom_site), as a dictionary or a file of structure factors"
        )
    if len(blocks) > 1:
        raise StructureError("two of its blocks have coordinates; write each to a file of its own")
    _complete_columns(blocks[0])
    structure = gemmi.make_structure_from_block(blocks[0])
    structure.merge_chain_parts()
    metrics = [*blocks[0].find_values("_ma_qa_metric.type"), *blocks[0].find_values("_ma_qa_metric.name")]
    return structure, any("plddt" in metric.lower() for metric in metrics)


def _with_models(content: bytes) -> bytes:
    """A PDB file in which END, at which gemmi stops, ends a model where there are atoms after it, as where
    files were put one after another. Models are counted anew then, as each file had a first one."""
    last = max(content.rfind(b"\n" + record) for record in (b"ATOM", b"HETATM", b"atom", b"hetatm"))
    if last < 0 or _END.search(content, 0, last) is None:
        return content
    return _MODEL.sub(b"REMARK", _END.sub(b"\nENDMDL", content[:last])) + content[last:]


def _complete_columns(block: gemmi.cif.Block) -> None:
    """Adds the column of alternate locations, that there are none, where the atoms lack it. Raises
    StructureError for others that they lack."""
    there = {tag.lower() for tag in block.find_mmcif_category("_atom_site.").tags}
    needed = [f"_atom_site.{name}" for name in _NEEDED]
    if missing := [tag for tag in needed if tag.lower() not in there]:
        raise StructureError(f"its atoms lack {', '.join(missing)}")
    if _ALTLOC in there:
        return
    if (loop := block.find_loop("_atom_site.id").get_loop()) is not None:
        loop.add_columns([_ALTLOC], ".")
    else:  # the pairs of a single atom
        block.set_pair(_ALTLOC, ".")


def _title(structure: gemmi.Structure) -> str:
    try:
        return structure.info["_struct.title"]
    except KeyError:
        return ""
