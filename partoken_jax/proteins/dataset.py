"""A set of labelled proteins, and where it comes from."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from partoken_jax.config import RESIDUE_TASK
from partoken_jax.proteins.archive import check_archive, open_archive
from partoken_jax.proteins.npz import decode_backbone, read_arrays
from partoken_jax.proteins.prepared import SPLITS, checksum
from partoken_jax.proteins.prepared_set import PreparedProteins, open_prepared
from partoken_jax.proteins.protein import DataError, Protein
from partoken_jax.proteins.tasks import (
    MIN_CHAINS,
    RESIDUE_CLASSES,
    TASK_ARRAYS,
    pretraining_places,
    task_labels,
)

EMBEDDED = Path(__file__).parent / "data" / "pdb_small.npz"
"""The 2,297 PDB chains that come with the package."""

SPLIT_ARRAYS = {"identity": "split", "superfamily": "split_superfamily"}
"""The array of a file that holds the splits of a scheme."""


class ProteinList(tuple[Protein, ...]):
    """Proteins in memory, with what `PreparedProteins` tells of those on the disk."""

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(protein) for protein in self], np.int64)

    @property
    def labels(self) -> np.ndarray:
        return np.array([protein.label for protein in self], np.int32)

    @property
    def names(self) -> list[str]:
        return [protein.name for protein in self]

    @property
    def num_incomplete(self) -> int:
        return sum(int((~protein.complete).sum()) for protein in self)

    def take(self, places: np.ndarray) -> "ProteinList":
        return ProteinList(self[i] for i in places.tolist())

    def cropped(self, max_length: int) -> "ProteinList":
        return ProteinList(protein.cropped(max_length) for protein in self)


@dataclass(frozen=True, eq=False)
class ProteinDataset:
    """P proteins of one split, labelled for one task.

    Raises DataError, naming the protein, for a label that is neither a class nor -1 (none).
    """

    proteins: ProteinList | PreparedProteins
    """In memory (any tuple of proteins becomes a `ProteinList`), or read when they are asked for."""
    class_names: tuple[str, ...]
    """Names of the C classes; the same for every split of a file."""
    task: str
    split: str
    source: str
    """The file or prepared set that the proteins come from."""
    left_out: tuple[str, ...] = ()
    """Chains of the file that carry the task's annotation but are in no split of the chosen
    scheme (superfamily unknown), or in an architecture or superfamily with too few chains to be a
    class. In pretraining also those that another scheme keeps for validation or test."""
    fingerprint: str = ""
    """Checksum of the source; empty for proteins made in Python."""

    def __post_init__(self):
        if not isinstance(self.proteins, ProteinList | PreparedProteins):
            object.__setattr__(self, "proteins", ProteinList(self.proteins))
        num_classes = len(self.class_names)
        labels = self.labels
        wrong = np.flatnonzero((labels < -1) | (labels >= num_classes))
        if wrong.size:
            i = wrong[0]
            raise DataError(
                f"{self.source}: {self.names[i]} has label {labels[i]}, but task {self.task!r} has "
                f"{num_classes} classes; give a label of 0 to {num_classes - 1}, or -1 for none"
            )

    def __len__(self) -> int:
        return len(self.proteins)

    def __getitem__(self, index: int) -> Protein:
        return self.proteins[index]

    @property
    def lengths(self) -> np.ndarray:
        """int64 [P]: residues per protein."""
        return self.proteins.lengths

    @property
    def labels(self) -> np.ndarray:
        """int32 [P]: class of each protein, -1 where unknown."""
        return self.proteins.labels

    @property
    def names(self) -> Sequence[str]:
        """Name of each protein."""
        return self.proteins.names

    @property
    def num_incomplete(self) -> int:
        """Residues that lack an atom, of all proteins."""
        return self.proteins.num_incomplete

    def take(self, places: np.ndarray) -> "ProteinDataset":
        """The proteins at these places (int [P'])."""
        return replace(self, proteins=self.proteins.take(places))

    def cropped(self, max_length: int) -> "ProteinDataset":
        """The first `max_length` residues of every protein."""
        return replace(self, proteins=self.proteins.cropped(max_length))

    def class_counts(self) -> np.ndarray:
        """int64 [C]: proteins per class, in the order of `class_names`."""
        labels = self.labels
        return np.bincount(labels[labels >= 0], minlength=len(self.class_names))


def load_dataset(
    path: str | Path | None = None,
    *,
    task: str = "ec-class",
    split: str = "train",
    split_scheme: str = "identity",
) -> ProteinDataset:
    """One split of a file: `load_splits` for a single `split`, with the same arguments and errors."""
    return load_splits(path, task=task, split_scheme=split_scheme, splits=(split,))[split]


def load_splits(
    path: str | Path | None = None,
    *,
    task: str = "ec-class",
    split_scheme: str = "identity",
    splits: Sequence[str] = tuple(SPLITS),
) -> dict[str, ProteinDataset]:
    """Reads a file in the format of data/README.md, or opens a prepared set, once for all splits asked for.

    Args:
      path: the .npz file or the folder of a prepared set; None for the embedded file.
      task: of a .npz file "ec-class" (7 classes), "cath-class" (4), "cath-architecture" or "cath-superfamily"
        (those with at least 50 or 10 chains in the file, all splits together: `MIN_CHAINS`); of a prepared
        set any label column with one label per protein. "residue-types" takes all proteins of either,
        without labels, for training only those that no scheme keeps for validation or test.
      split_scheme: of a .npz file "identity" (no two splits share more than 30% sequence identity) or
        "superfamily" (none shares a CATH superfamily; chains of unknown superfamily are in no split); of a
        prepared set any of its schemes.
      splits: any of "train", "val" and "test".

    Returns:
      The datasets by split. Those of a prepared set read a protein when it is asked for.

    Raises DataError for a malformed file, an unknown task, split or scheme, superfamilies split by
    superfamily, or an empty split.
    """
    for split in splits:
        if split not in SPLITS:
            raise DataError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if (task, split_scheme) == ("cath-superfamily", "superfamily"):
        raise DataError(
            "task 'cath-superfamily' does not go with split scheme 'superfamily', where no superfamily of "
            "the training proteins occurs in another split; choose the scheme 'identity'"
        )
    path = EMBEDDED if path is None else Path(path)
    if path.is_dir():
        return _prepared_splits(path, task, split_scheme, splits)
    check_archive(path)  # that there is no such file comes before what it does not hold
    return _npz_splits(path, task, split_scheme, splits)


def _prepared_splits(
    path: Path, task: str, split_scheme: str, splits: Sequence[str]
) -> dict[str, ProteinDataset]:
    prepared = open_prepared(path)
    if task == RESIDUE_TASK:
        _check_choice(path, "split_scheme", split_scheme, prepared.splits)
        place = pretraining_places(prepared.splits, split_scheme)
        unlabelled = PreparedProteins(
            prepared, np.arange(len(prepared)), np.full(len(prepared), -1, np.int32)
        )
        return _pretraining_splits(path, unlabelled, place, split_scheme, splits, prepared.fingerprint)
    single = {name: column for name, column in prepared.labels.items() if not column.several}
    if task in prepared.labels and task not in single:
        raise DataError(
            f"{path}: a protein may have several labels of task {task!r}, and neither training, evaluation "
            f"nor timing can use such a column yet; choose {_one_of(single)}"
        )
    _check_choice(path, "task", task, single)
    _check_choice(path, "split_scheme", split_scheme, prepared.splits)
    column, place = single[task], prepared.splits[split_scheme]
    labelled = PreparedProteins(prepared, np.arange(len(prepared)), column.values)
    left_out = tuple(labelled.take(np.flatnonzero((column.values >= 0) & (place == -1))).names)
    found = {}
    for split in splits:
        chosen = np.flatnonzero((column.values >= 0) & (place == SPLITS[split]))
        if not chosen.size:
            raise _empty(path, f"protein with a label of task {task!r}", split, split_scheme)
        found[split] = ProteinDataset(
            proteins=labelled.take(chosen),
            class_names=column.classes,
            task=task,
            split=split,
            source=str(path),
            left_out=left_out,
            fingerprint=prepared.fingerprint,
        )
    return found


def _npz_splits(path: Path, task: str, split_scheme: str, splits: Sequence[str]) -> dict[str, ProteinDataset]:
    _check_choice(path, "task", task, (*TASK_ARRAYS, RESIDUE_TASK))
    _check_choice(path, "split_scheme", split_scheme, SPLIT_ARRAYS)
    if task == RESIDUE_TASK:
        return _npz_pretraining_splits(path, split_scheme, splits)
    arrays = read_arrays(path, (TASK_ARRAYS[task], SPLIT_ARRAYS[split_scheme]))
    names = [name.decode("utf-8") for name in arrays["id"].tolist()]
    try:
        labels, class_names = task_labels(task, arrays[TASK_ARRAYS[task]], names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    place = arrays[SPLIT_ARRAYS[split_scheme]]
    _check_places(path, split_scheme, place, names)
    left_out = tuple(names[i] for i in np.flatnonzero((labels == -2) | ((labels >= 0) & (place == -1))))
    chosen = {split: (labels >= 0) & (place == SPLITS[split]) for split in splits}
    for split, chains in chosen.items():
        if not chains.any():
            rule = f" (classes need {MIN_CHAINS[task]} chains)" if task in MIN_CHAINS else ""
            raise _empty(path, f"chain of task {task!r}{rule}", split, split_scheme)
    fingerprint = checksum(path)
    return {
        split: ProteinDataset(
            proteins=_proteins(arrays, names, labels, chains, path),
            class_names=class_names,
            task=task,
            split=split,
            source=str(path),
            left_out=left_out,
            fingerprint=fingerprint,
        )
        for split, chains in chosen.items()
    }


def _npz_pretraining_splits(
    path: Path, split_scheme: str, splits: Sequence[str]
) -> dict[str, ProteinDataset]:
    """All chains of a file, without labels; of the schemes, those that the file has."""
    with open_archive(path) as archive:
        there = {s: array for s, array in SPLIT_ARRAYS.items() if s == split_scheme or array in archive.names}
    arrays = read_arrays(path, tuple(there.values()))
    names = [name.decode("utf-8") for name in arrays["id"].tolist()]
    for scheme, array in there.items():
        _check_places(path, scheme, arrays[array], names)
    place = pretraining_places({s: arrays[array] for s, array in there.items()}, split_scheme)
    everything, none = np.ones(len(names), bool), np.full(len(names), -1, np.int32)
    proteins = _proteins(arrays, names, none, everything, path)
    return _pretraining_splits(path, proteins, place, split_scheme, splits, checksum(path))


def _pretraining_splits(
    path: Path,
    proteins: ProteinList | PreparedProteins,
    place: np.ndarray,  # int8 [P]
    split_scheme: str,
    splits: Sequence[str],
    fingerprint: str,
) -> dict[str, ProteinDataset]:
    left_out = tuple(proteins.take(np.flatnonzero(place == -1)).names)
    found = {}
    for split in splits:
        chosen = np.flatnonzero(place == SPLITS[split])
        if not chosen.size:
            raise _empty(path, f"protein for task {RESIDUE_TASK!r}", split, split_scheme)
        found[split] = ProteinDataset(
            proteins=proteins.take(chosen),
            class_names=RESIDUE_CLASSES,
            task=RESIDUE_TASK,
            split=split,
            source=str(path),
            left_out=left_out,
            fingerprint=fingerprint,
        )
    return found


def _check_places(path: Path, scheme: str, place: np.ndarray, names: list[str]) -> None:
    strange = (place < -1) | (place > 2)
    if strange.any():
        i = int(strange.argmax())
        raise DataError(
            f"{path}: {SPLIT_ARRAYS[scheme]!r} of {names[i]} is {place[i]}, "
            "but must be 0 (train), 1 (val), 2 (test) or -1 (none)"
        )


def _check_choice(path: Path, what: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise DataError(f"{path}: unknown {what} {value!r}; choose {_one_of(known)}")


def _one_of(known: Collection[str]) -> str:
    return f"one of {', '.join(known)}" if known else "another set, for this one has none"


def _empty(path: Path, what: str, split: str, split_scheme: str) -> DataError:
    return DataError(
        f"{path}: no {what} is in split {split!r} of scheme {split_scheme!r}; "
        "choose another task, split or file"
    )


def _proteins(
    arrays: dict[str, np.ndarray], names: list[str], labels: np.ndarray, chosen: np.ndarray, path: Path
) -> ProteinList:
    backbone = decode_backbone(arrays, chosen)
    letters = arrays["sequence"][np.repeat(chosen, arrays["length"])].tobytes().decode("latin-1")
    first_numbers = arrays["first_residue_number"]
    proteins, start = [], 0
    try:
        for i in np.flatnonzero(chosen).tolist():
            stop = start + int(arrays["length"][i])
            first = int(first_numbers[i])
            proteins.append(
                Protein(
                    name=names[i],
                    sequence=letters[start:stop],
                    backbone=backbone[start:stop],
                    label=int(labels[i]),
                    residue_numbers=np.arange(first, first + stop - start, dtype=np.int32),
                    chain=names[i].rpartition("_")[2],
                )
            )
            start = stop
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    return ProteinList(proteins)
