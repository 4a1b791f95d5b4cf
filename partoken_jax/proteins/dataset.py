"""A set of labelled proteins, and where it comes from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partoken_jax.proteins.npz import decode_backbone, read_arrays
from partoken_jax.proteins.protein import DataError, Protein
from partoken_jax.proteins.tasks import MIN_ARCHITECTURE_CHAINS, TASK_ARRAYS, task_labels

EMBEDDED = Path(__file__).parent / "data" / "pdb_small.npz"
"""The 2,297 PDB chains that come with the package."""

SPLITS = {"train": 0, "val": 1, "test": 2}
SPLIT_ARRAYS = {"identity": "split", "superfamily": "split_superfamily"}
"""The array of a file that holds the splits of a scheme."""


@dataclass(frozen=True, eq=False)
class ProteinDataset:
    """P proteins of one split, labelled for one task.

    Raises DataError, naming the protein, for a label that is neither a class nor -1 (none).
    """

    proteins: tuple[Protein, ...]
    class_names: tuple[str, ...]
    """Names of the C classes; the same for every split of a file."""
    task: str
    split: str
    source: str
    """The file that the proteins come from."""
    left_out: tuple[str, ...] = ()
    """Chains of the file that carry the task's annotation but are in no split of the chosen
    scheme (superfamily unknown), or in an architecture with too few chains to be a class."""

    def __post_init__(self):
        num_classes = len(self.class_names)
        for protein in self.proteins:
            if not -1 <= protein.label < num_classes:
                raise DataError(
                    f"{self.source}: {protein.name} has label {protein.label}, but task {self.task!r} has "
                    f"{num_classes} classes; give a label of 0 to {num_classes - 1}, or -1 for none"
                )

    def __len__(self) -> int:
        return len(self.proteins)

    def __getitem__(self, index: int) -> Protein:
        return self.proteins[index]

    @property
    def lengths(self) -> np.ndarray:
        """int64 [P]: residues per protein."""
        return np.array([len(protein) for protein in self.proteins], np.int64)

    @property
    def labels(self) -> np.ndarray:
        """int32 [P]: class of each protein, -1 where unknown."""
        return np.array([protein.label for protein in self.proteins], np.int32)

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
    """Reads a file in the format of data/README.md, once for all the splits asked for.

    Args:
      path: the .npz file; None for the embedded one.
      task: "ec-class" (7 classes), "cath-class" (4) or "cath-architecture" (the architectures with
        at least `MIN_ARCHITECTURE_CHAINS` chains in the file, all splits together).
      split_scheme: "identity" (no two splits share more than 30% sequence identity) or
        "superfamily" (none shares a CATH superfamily; chains of unknown superfamily are in no split).
      splits: any of "train", "val" and "test".

    Returns:
      The datasets by split.

    Raises DataError for a malformed file, an unknown task, split or scheme, or an empty split.
    """
    _check_choice("task", task, TASK_ARRAYS)
    _check_choice("split_scheme", split_scheme, SPLIT_ARRAYS)
    for split in splits:
        _check_choice("split", split, SPLITS)
    path = EMBEDDED if path is None else Path(path)
    arrays = read_arrays(path, (TASK_ARRAYS[task], SPLIT_ARRAYS[split_scheme]))
    names = [name.decode("utf-8") for name in arrays["id"].tolist()]
    try:
        labels, class_names = task_labels(task, arrays[TASK_ARRAYS[task]], names)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    place = arrays[SPLIT_ARRAYS[split_scheme]]
    strange = (place < -1) | (place > 2)
    if strange.any():
        i = int(strange.argmax())
        raise DataError(
            f"{path}: {SPLIT_ARRAYS[split_scheme]!r} of {names[i]} is {place[i]}, "
            "but must be 0 (train), 1 (val), 2 (test) or -1 (none)"
        )
    left_out = tuple(names[i] for i in np.flatnonzero((labels == -2) | ((labels >= 0) & (place == -1))))
    chosen = {split: (labels >= 0) & (place == SPLITS[split]) for split in splits}
    for split, chains in chosen.items():
        if not chains.any():
            rule = f" (classes need {MIN_ARCHITECTURE_CHAINS} chains)" if task == "cath-architecture" else ""
            raise DataError(
                f"{path}: no chain of task {task!r}{rule} is in split {split!r} of scheme {split_scheme!r}; "
                "choose another task, split or file"
            )
    return {
        split: ProteinDataset(
            proteins=_proteins(arrays, names, labels, chains, path),
            class_names=class_names,
            task=task,
            split=split,
            source=str(path),
            left_out=left_out,
        )
        for split, chains in chosen.items()
    }


def _check_choice(what: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise DataError(f"unknown {what} {value!r}; choose one of {', '.join(known)}")


def _proteins(
    arrays: dict[str, np.ndarray], names: list[str], labels: np.ndarray, chosen: np.ndarray, path: Path
) -> tuple[Protein, ...]:
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
    return tuple(proteins)
