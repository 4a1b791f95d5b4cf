"""Which proteins of a dataset a run uses, and how much of the long ones."""

import numpy as np

from partoken_jax.proteins.dataset import ProteinDataset
from partoken_jax.proteins.protein import DataError


def subset(dataset: ProteinDataset, count: int | None, seed: int) -> ProteinDataset:
    """At most `count` proteins, drawn by `seed` without replacement, in the order of the dataset.

    None keeps all. Raises DataError for a count below 1.
    """
    if count is not None and count < 1:
        raise DataError(
            f"{dataset.source}: cannot use {count} proteins of split {dataset.split!r}; use at least 1"
        )
    if count is None or count >= len(dataset):
        return dataset
    chosen = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:count])
    return dataset.take(chosen)


def require_classes(dataset: ProteinDataset) -> None:
    """Raises DataError where the labels are all of one class, so that there is nothing to learn."""
    counts = dataset.class_counts()
    if np.count_nonzero(counts) == 1:
        raise DataError(
            f"{dataset.source}: all proteins of split {dataset.split!r} are of class "
            f"{dataset.class_names[counts.argmax()]!r}, so there is nothing to tell apart; give data with "
            "two classes or more"
        )


def limit_lengths(
    dataset: ProteinDataset, max_length: int, too_long: str = "refuse"
) -> tuple[ProteinDataset, list[str]]:
    """Refuses proteins of more than `max_length` residues, or crops them to their first `max_length`.

    Args:
      too_long: "refuse" or "crop".

    Returns:
      The dataset and the names of the cropped proteins.

    Raises DataError that names the proteins too long, where they are refused, or one of which no residue that
    is left is whole.
    """
    if too_long not in ("refuse", "crop"):
        raise DataError(f"unknown too_long {too_long!r}; choose one of refuse, crop")
    if max_length < 1:
        raise DataError(f"max_length is {max_length}, but must be at least 1")
    lengths = dataset.lengths
    long = np.flatnonzero(lengths > max_length).tolist()
    if not long:
        return dataset, []
    names = dataset.names
    if too_long == "refuse":
        shown = ", ".join(f"{names[i]} ({lengths[i]})" for i in long[:10])
        more = f" and {len(long) - 10} more" if len(long) > 10 else ""
        what = "1 protein is" if len(long) == 1 else f"{len(long)} proteins are"
        raise DataError(
            f"{dataset.source}: {what} longer than max_length = {max_length} residues: {shown}{more}; "
            f"set too_long: crop, or max_length to at least {lengths.max()}"
        )
    for i in long:
        if not (complete := dataset[i].complete)[:max_length].any():
            raise DataError(
                f"{dataset.source}: none of the first {max_length} residues of {names[i]} has all four "
                f"atoms; set max_length to at least {complete.argmax() + 1}, or leave that protein out"
            )
    return dataset.cropped(max_length), [names[i] for i in long]
