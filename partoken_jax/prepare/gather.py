"""From the names of classes and splits that sources give to the numbers of a prepared set."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from partoken_jax.prepare.chunks import read_meta
from partoken_jax.prepare.records import Plan
from partoken_jax.proteins import DataError
from partoken_jax.proteins.prepared import SPLITS, LabelColumn
from partoken_jax.proteins.structures import Skipped

RANDOM = "random"
"""The scheme of the splits that are drawn here."""


@dataclass
class Gathered:
    """What is known of all P proteins before they are written."""

    ids: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    labels: list[Mapping[str, Sequence[str]]] = field(default_factory=list)
    splits: list[Mapping[str, str]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """Sentences that the user should read."""


def gather(folder: Path, plan: Plan) -> Gathered:
    """All that the chunks and the tables beside them say.

    Raises DataError for an id that stands twice, a table that fits no protein, or if there is no protein.
    """
    found = Gathered()
    chains: list[str] = []
    for meta in read_meta(folder, plan):
        found.ids += meta.ids
        found.lengths += meta.lengths
        found.labels += meta.labels
        found.splits += meta.splits
        found.skipped += meta.skipped
        found.counts += meta.counts
        chains += meta.chains
    if not found.ids:
        first = found.skipped[0] if found.skipped else None
        why = f"; {first.name}: {first.reason}" if first else ""
        raise DataError(f"{plan.paths[0]}: there is no protein that can be used{why}")
    if len(set(found.ids)) < len(found.ids):
        name = next(name for name, number in Counter(found.ids).items() if number > 1)
        raise DataError(f"{plan.paths[0]}: two proteins have the id {name!r}; rename one or leave it out")
    if plan.annotations is not None:
        _annotate(found, chains, plan)
    return found


def _annotate(found: Gathered, chains: list[str], plan: Plan) -> None:
    """Adds what the tables beside the structures say."""
    table = plan.annotations
    assert table is not None
    known = [table.find(name, chain) for name, chain in zip(found.ids, chains, strict=True)]
    used = set(known) - {None}
    if not used:
        raise DataError(
            f"{table.source}: none of its ids is that of a protein, such as {found.ids[0]!r}; an id is the "
            "name of a structure file without its suffix, or that, an underscore and the chain"
        )
    found.labels = [table.labels.get(name, {}) if name else {} for name in known]
    found.splits = [table.splits.get(name, {}) if name else {} for name in known]
    if missing := known.count(None):
        shown = ", ".join([name for name, entry in zip(found.ids, known, strict=True) if not entry][:5])
        found.notes.append(
            f"{table.source} does not name {_number(missing, 'protein')} "
            f"({shown}{' ...' if missing > 5 else ''}), which therefore have no label"
        )
    if unused := [name for name in {**table.labels, **table.splits} if name not in used]:
        found.skipped += [Skipped(name, "label", "no protein has this id") for name in unused]
        shown = ", ".join(unused[:5]) + (" ..." if len(unused) > 5 else "")
        found.notes.append(f"{table.source} names {_number(len(unused), 'id')} that no protein has ({shown})")


def label_columns(found: Gathered, plan: Plan) -> dict[str, LabelColumn]:
    """The label columns, in the order of their names.

    A column of which the proteins have fewer than two classes is left out, with a note.
    """
    columns = {}
    for name, rule in sorted(plan.columns.items()):
        used = {label for labels in found.labels for label in labels.get(name, ())}
        if len(used) < 2:
            what = f"only one class, {min(used)!r}" if used else "no class"
            found.notes.append(f"labels {name!r} are left out, because the proteins have {what} of them")
            continue
        classes = rule.names or tuple(sorted(used, key=_natural))
        number = {label: i for i, label in enumerate(classes)}
        values = [[number[label] for label in labels.get(name, ())] for labels in found.labels]
        if rule.several:
            starts = np.cumsum([0, *map(len, values)], dtype=np.int64)
            columns[name] = LabelColumn(classes, np.array(list(chain(*values)), np.int32), starts)
        else:
            columns[name] = LabelColumn(classes, np.array([(*of, -1)[0] for of in values], np.int32))
    return columns


def split_schemes(found: Gathered, shares: Sequence[float] | None, seed: int) -> dict[str, np.ndarray]:
    """The splits of the source, int8 [P] by scheme; where it has none, random ones (`random_split`).

    Args:
      shares: of train, val and test; None for 0.8, 0.1 and 0.1.
      seed: draws the random ones.

    Raises DataError for a split that there is not.
    """
    names = sorted({scheme for splits in found.splits for scheme in splits})
    code = {**SPLITS, "none": -1}
    schemes = {}
    for scheme in names:
        said = [splits.get(scheme, "none") for splits in found.splits]
        wrong = next((i for i, split in enumerate(said) if split not in code), None)
        if wrong is not None:
            raise DataError(
                f"{found.ids[wrong]}: its split of scheme {scheme!r} is {said[wrong]!r}, but must be train, "
                "val, test or none"
            )
        schemes[scheme] = np.array([code[split] for split in said], np.int8)
    if schemes:
        return schemes
    shares = (0.8, 0.1, 0.1) if shares is None else shares
    if max(shares) < 1:
        found.notes.append(
            f"the source has no splits, so proteins were split at random (seed {seed}): homologues are then "
            "in training and test alike, and scores are higher than on proteins of new families; give splits "
            "by sequence or structure in the column 'split' of the labels"
        )
    return {RANDOM: random_split(found, shares, seed)}


def random_split(found: Gathered, shares: Sequence[float], seed: int) -> np.ndarray:
    """A split by chance, int8 [P], in which labels are shared out as proteins are.

    Proteins are put in the order of their classes in the column with the fewest labels, among equals of those
    in the next column, and so on: larger classes first, those without a label last, and the rest by chance.
    One after the other then goes to a split that one of its columns is not in yet, the column with the fewest
    labels first, and training before validation and test; else to training if one of its classes is not there
    yet but has another protein as well, even beyond its share; else to the split that has least of its share.
    A split without a share gets nothing.

    So a column of three labels is in every split with a share. In the column with the fewest labels every
    class is shared out to within a protein or two, in others as chance has it.
    """
    rng = np.random.default_rng(seed)
    names = sorted({name for labels in found.labels for name in labels})
    # By column, the class of each protein, the first of several; "" without one.
    classes = {name: np.array([(*labels.get(name, ()), "")[0] for labels in found.labels]) for name in names}
    open_splits = [split for split, share in enumerate(shares) if share > 0]
    # By column, the splits that it is not in yet; "" stands for proteins, labelled or not.
    missing = {name: list(open_splits) for name in (*names, "")}
    untrained: set[tuple[str, str]] = set()
    keys = [rng.permutation(len(found.ids))]
    fewest = sorted(names, key=lambda name: (np.sum(classes[name] != ""), len(set(classes[name])), name))
    for name in reversed(fewest):  # lexsort goes by the last key first
        there, number, counts = np.unique(classes[name], return_inverse=True, return_counts=True)
        by_size = np.lexsort((rng.permutation(len(there)), -counts, there == ""))
        keys.append(np.argsort(by_size)[number])
        if shares[0] > 0:
            untrained |= {(name, of) for of, count in zip(there.tolist(), counts, strict=True) if count > 1}
    sizes = np.zeros(len(shares))
    chosen = np.zeros(len(found.ids), np.int8)
    for done, protein in enumerate(np.lexsort(keys), start=1):
        labels = {name: str(classes[name][protein]) for name in fewest if classes[name][protein]}
        columns = [missing[name] for name in (*labels, "")]
        if any(columns):
            split = next(splits[0] for splits in columns if splits)
        elif labels.items() & untrained:
            split = 0
        else:
            split = int(np.argmax(done * np.array(shares) - sizes))
        for splits in columns:
            if split in splits:
                splits.remove(split)
        if split == 0:
            untrained -= labels.items()
        sizes[split] += 1
        chosen[protein] = split
    return chosen


def _natural(label: str) -> list[tuple[int, int, str]]:
    """Orders "2" before "10"."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", label) if part
    ]


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
