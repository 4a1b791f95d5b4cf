"""Annotates proteins with a trained model: from structure files, or from proteins that are at hand."""

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from partoken_jax.config import DataConfig
from partoken_jax.interpret.annotation import Annotation, Cluster
from partoken_jax.pretrained import load_model
from partoken_jax.proteins import DataError, Protein, ProteinDataset
from partoken_jax.proteins.geometry import coordinate_fault
from partoken_jax.proteins.structure_paths import file_names, structure_files
from partoken_jax.proteins.structures import Models, Origin, Skipped, path_of, read_structure

if TYPE_CHECKING:
    from partoken_jax.training.trained import ProteinOutput, TrainedModel

CROPPED = "cropped by"
"""How the reason begins where a chain is annotated as far as its first residues."""
AT_A_TIME = 64
"""Proteins that are in memory together."""

TooLong = Literal["refuse", "crop"]
Source = str | Path | Protein | ProteinDataset


class Found(NamedTuple):
    """A protein to annotate."""

    protein: Protein
    origin: Origin | None
    true_class: str | None = None
    """Name of its class, where its source has one."""


def annotate(
    source: Source | Sequence[Source],
    model: "TrainedModel | str | Path | None" = None,
    *,
    chains: Collection[str] | None = None,
    models: Models = "first",
    max_length: int = DataConfig.max_length,
    too_long: TooLong = "refuse",
    skipped: list[Skipped] | None = None,
) -> Iterator[Annotation]:
    """What a model says about proteins, one after another, in the order of the source.

    >>> import partoken_jax as pt
    >>> protein = pt.load_dataset(task="cath-class", split="test").proteins[2]
    >>> for annotation in pt.annotate(protein):  # or pt.annotate("my.pdb")
    ...     print(annotation.protein.name, annotation.title, len(annotation.clusters))
    1ABA_A 3.40 (3-layer (aba) sandwich) 5
    >>> print(*[cluster.size for cluster in annotation.clusters])
    11 8 8 7 9

    An annotation does not depend on the other proteins, up to the rounding of float32, and few are in memory
    at a time. Files that share a name are called by their folders as well ("job1_ranked_0").

    Args:
      source: structure file, folder of structure files, protein, data set, or several of these. A folder is
        read with all folders in it, in the order of names. Only those of a data set have a true class.
      model: trained model, or what `load_model` reads; left out, the model that comes with the package.
      chains: names of the chains to take from structure files; None for all.
      models: "first" for the first model of a file, "all" for every model.
      max_length: residues of the longest chain that is annotated whole.
      too_long: what becomes of a longer chain: "refuse" leaves it out, "crop" annotates its first residues.
      skipped: gets what is left out, and why; without it, there is a warning for every file or chain that
        cannot be annotated.

    Raises DataError for a path that does not exist, for what is no such source, and for a model that was only
    pretrained; ModelError, CheckpointError and ConvertError as `load_model`.
    """
    trained = load_model(model) if model is None or isinstance(model, str | Path) else model
    trained.require_classifier()
    sources = [source] if isinstance(source, str | Path | Protein | ProteinDataset) else source
    # Before the first is read, so that a wrong path is answered at once.
    parts: list[Protein | ProteinDataset | Path] = []
    for one in sources:
        if not isinstance(one, str | Path | Protein | ProteinDataset):
            raise DataError(
                "annotate takes structure files, folders of them, proteins (partoken_jax.Protein), data "
                f"sets, or a list of these, not {type(one).__name__}"
            )
        parts += structure_files(Path(one)) if isinstance(one, str | Path) else [one]
    found = read_parts(
        parts,
        file_names(part for part in parts if isinstance(part, Path)),
        chains=chains,
        models=models,
        max_length=max_length,
        too_long=too_long,
        skipped=skipped,
    )
    return annotate_found(trained, found, skipped)


def annotate_found(
    model: "TrainedModel", found: Iterable[Found], skipped: list[Skipped] | None
) -> Iterator[Annotation]:
    """Annotations of proteins in their order, `AT_A_TIME` together. A protein of which the model makes no
    finite numbers is left out."""
    rest = iter(found)
    while group := list(islice(rest, AT_A_TIME)):
        try:
            outputs = dict(model.outputs([one.protein for one in group]))
        except DataError:
            outputs = dict(_one_by_one(model, group, skipped))
        for place, one in enumerate(group):
            if place in outputs:
                yield _annotation(model, one, outputs.pop(place))


def _one_by_one(
    model: "TrainedModel", group: Sequence[Found], skipped: list[Skipped] | None
) -> Iterator[tuple[int, "ProteinOutput"]]:
    for place, one in enumerate(group):
        name = one.protein.name
        try:
            yield from ((place, out) for _, out in model.outputs([one.protein]))
        except DataError as error:
            reason = str(error).removeprefix(f"{name}: ")
            _skip(Skipped(name, "protein", reason, path_of(one.origin)), skipped)


def read_parts(
    parts: Iterable[Protein | ProteinDataset | Path],
    names: Mapping[Path, str],
    *,
    chains: Collection[str] | None,
    models: Models,
    max_length: int,
    too_long: TooLong,
    skipped: list[Skipped] | None,
) -> Iterator[Found]:
    """The proteins of files, which are called as `names` has it, and proteins themselves, with the arguments
    of `annotate`. A file that cannot be read is left out."""
    for part in parts:
        for one in _of_part(part, names, chains, models, skipped):
            protein, origin, _ = one
            path = path_of(origin)
            if (reason := _fault(protein, max_length, too_long)) is not None:
                _skip(Skipped(protein.name, "chain", reason, path), skipped)
            elif len(protein) <= max_length:
                yield one
            else:
                lost = (
                    f"{CROPPED} {len(protein) - max_length} of {len(protein)} residues, beyond {max_length}"
                )
                _skip(Skipped(protein.name, "residues", lost, path), skipped)
                cropped = None if origin is None else origin.cropped(max_length)
                yield one._replace(protein=protein.cropped(max_length), origin=cropped)


def _fault(protein: Protein, max_length: int, too_long: TooLong) -> str | None:
    """Why a protein cannot be annotated, or None."""
    if len(protein) > max_length and too_long == "refuse":
        return f"it has {len(protein)} residues, and {max_length} is the limit; crop it or raise it"
    if not protein.complete[:max_length].any():
        return (
            f"none of its first {max_length} residues, which alone would be left, has all four atoms; raise "
            "the limit"
        )
    return coordinate_fault(protein)


def _of_part(
    part: Protein | ProteinDataset | Path,
    names: Mapping[Path, str],
    chains: Collection[str] | None,
    models: Models,
    skipped: list[Skipped] | None,
) -> Iterator[Found]:
    if isinstance(part, Protein):
        yield Found(part, None)
    elif isinstance(part, ProteinDataset):
        for protein in part.proteins:
            yield Found(protein, None, part.class_names[protein.label] if protein.label >= 0 else None)
    else:
        contents = read_structure(part, chains, models, name=names[part])
        for entry in contents.skipped:
            _skip(entry, skipped)
        for protein, origin in zip(contents.proteins, contents.origins, strict=True):
            yield Found(protein, origin)


def _skip(entry: Skipped, skipped: list[Skipped] | None) -> None:
    if skipped is not None:
        skipped.append(entry)
    elif entry.what != "residues":
        warnings.warn(f"{called(entry)} is left out: {entry.reason}", stacklevel=2)


def called(entry: Skipped) -> str:
    """What was left out, in words: a file by its path, anything else by its name and that of its file."""
    if entry.what == "file":
        return entry.path
    return f"{entry.what} {entry.name}" + (f" of {entry.path}" if entry.path else "")


def _annotation(model: "TrainedModel", one: Found, out: "ProteinOutput") -> Annotation:
    return Annotation(
        protein=one.protein,
        origin=one.origin,
        class_names=model.class_names,
        probabilities=out.probabilities,
        clusters=_clusters(out),
        residue_features=np.where(one.protein.complete[:, None], out.residue_features, 0),
        protein_features=out.protein_features.copy(),
        true_class=one.true_class,
    )


def _clusters(out: "ProteinOutput") -> tuple[Cluster, ...]:
    """The clusters that there are, from the most important one; of equal ones the earlier first."""
    members = [np.flatnonzero(out.clusters == index).astype(np.int32) for index in range(len(out.seeds))]
    there = [index for index in range(len(members)) if members[index].size]
    there.sort(key=lambda index: (-out.importances[index], index))
    return tuple(
        Cluster(
            rank=rank,
            index=index,
            importance=float(out.importances[index]),
            seed=int(out.seeds[index]),
            residues=members[index],
            token=int(out.codes[index]) if out.codes[index] >= 0 else None,
            distance=float(np.sqrt(out.squared_errors[index])) if out.codes[index] >= 0 else None,
            features=out.cluster_features[index].copy(),
        )
        for rank, index in enumerate(there, 1)
    )
