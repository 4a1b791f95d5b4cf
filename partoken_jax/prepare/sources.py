"""Which sources there are, how one is recognised, and who reads it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from partoken_jax.prepare import bioblobs, npz_files, proteinshake
from partoken_jax.prepare.annotations import read_labels
from partoken_jax.prepare.records import Annotations, Chunk, Column, Contents, Plan, Record, pieces
from partoken_jax.proteins import DataError
from partoken_jax.proteins.structure_formats import StructureError, check_structure_file
from partoken_jax.proteins.structure_paths import each_once, file_names, structure_files
from partoken_jax.proteins.structures import read_structure

FILES = 32
"""Structure files read at a time."""


def read_structures(chunk: Chunk) -> Contents:
    """The proteins of some structure files."""
    contents = Contents()
    for path, name in chunk["paths"].items():
        found = read_structure(Path(path), chunk["chains"], name=name)
        contents.skipped += found.skipped
        contents.counts += found.counts
        for protein in found.proteins:
            contents.add(Record(protein, {}, {}))
    return contents


READERS: dict[str, Callable[[Chunk], Contents]] = {
    "structures": read_structures,
    "npz": npz_files.read,
    "proteinshake": proteinshake.read,
    "bioblobs": bioblobs.read,
}


def plan_sources(
    sources: Sequence[str], *, labels: Path | None, chains: Collection[str] | None, root: Path | None
) -> Plan:
    """How the sources are read: any number of structure files and folders, or one source of another kind.

    Args:
      sources: paths, or names of `proteinshake.RELEASES`.
      labels: CSV file for structure files.
      chains: names of the chains to take from structure files; None for all.
      root: where ProteinShake keeps its files; None for the folder `data`.

    Raises DataError for a source that does not exist or cannot be told, and for labels or chains where the
    source has its own.
    """
    if not sources:
        raise DataError(
            "there is no source; name a structure file, a folder or a data set before the folder OUT"
        )
    if root is not None and not set(sources) & set(proteinshake.RELEASES):
        raise DataError(
            f"{root}: only {', '.join(proteinshake.RELEASES)} are read from there; leave out --root"
        )
    if len(sources) == 1 and (plan := _whole_data_set(sources[0], root or Path("data"))) is not None:
        if labels is not None:
            raise DataError(f"{labels}: {sources[0]} has labels of its own; leave out --labels")
        if chains is not None:
            raise DataError(f"{sources[0]}: has no chains to choose; leave out --chains")
        return plan
    files: list[Path] = []
    for source in sources:
        if source in proteinshake.RELEASES or _is_whole_data_set(Path(source)):
            raise DataError(f"{source}: is a data set of its own; prepare it without other sources")
        files += structure_files(Path(source))
        _check_named(Path(source))
    files = each_once(files)
    annotations, columns = (None, {}) if labels is None else read_labels(labels)
    return _structure_plan("structure files", files, list(sources), chains, annotations, columns)


def _check_named(path: Path) -> None:
    """Raises DataError for a file that is named by itself and is no structure."""
    if path.is_dir():
        return
    try:
        check_structure_file(path)
    except StructureError as error:
        raise DataError(f"{path}: {error}") from None


def _structure_plan(
    kind: str,
    files: Sequence[Path],
    paths: list[str],
    chains: Collection[str] | None,
    annotations: Annotations | None,
    columns: Mapping[str, Column],
) -> Plan:
    """Raises DataError for two files of one name, or a table that names none of the files."""
    called = file_names(files)
    names: dict[str, Path] = {}
    for path, name in called.items():
        if (first := names.setdefault(name, path)) is not path:
            raise DataError(
                f"{first} and {path} would give proteins of one name; rename a file or leave one out"
            )
    if annotations is not None and not any(
        name in names or name.rpartition("_")[0] in names for name in annotations.labels
    ):
        raise DataError(
            f"{annotations.source}: none of its ids is that of a file, such as {min(names)!r}, or that of a "
            f"chain, such as {min(names) + '_A'!r}; correct the ids"
        )
    chosen = None if chains is None else sorted(chains)
    chunks: list[Chunk] = [
        {
            "reader": "structures",
            "size": len(part),
            "paths": {str(path): called[path] for path in part},
            "chains": chosen,
        }
        for part in pieces(files, FILES)
    ]
    has_splits = annotations is not None and bool(annotations.splits)
    return Plan(kind, "files", chunks, columns, has_splits, paths, annotations)


def _is_whole_data_set(path: Path) -> bool:
    return (
        path.suffix in (".npz", ".avro", ".json", ".pt")
        or bioblobs.is_json_folder(path)
        or bioblobs.is_pdb_folder(path)
    )


def _whole_data_set(source: str, root: Path) -> Plan | None:
    """The plan of a source that brings labels; None for structure files."""
    path = Path(source)
    if source in proteinshake.RELEASES:
        return proteinshake.plan(proteinshake.release_file(source, root))
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder; give one, or {', '.join(proteinshake.RELEASES)} with --root"
        )
    if path.suffix in (".npz", ".avro") and not path.is_file():
        raise DataError(f"{path}: is not a file; give the file itself")
    if path.suffix == ".npz":
        return npz_files.plan(path)
    if path.suffix == ".avro":
        return proteinshake.plan(path)
    if path.suffix == ".json":
        raise DataError(
            f"{path}: is a part of a data set; give its folder, which has a <name>_token_map.json as well"
        )
    if path.suffix == ".pt":
        raise DataError(f"{path}: can run code when it is read; give the .json or PDB files it was made from")
    if bioblobs.is_json_folder(path):
        return bioblobs.plan_json(path)
    if bioblobs.is_pdb_folder(path):
        files = structure_files(path / "pdb")
        return _structure_plan("BioBlobs", files, [source], None, *bioblobs.pdb_annotations(path))
    return None
