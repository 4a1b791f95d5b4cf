"""What a prepared set holds, in numbers and in lines."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from partoken_jax.config import DataConfig
from partoken_jax.graphs import plan_batches
from partoken_jax.prepare.gather import Gathered
from partoken_jax.proteins.prepared import SPLITS, LabelColumn

SHOWN_CLASSES = 12
"""A column of more classes is told by how many of them occur and how large they are."""
SHOWN_SCHEMES = 3
"""Classes and padding of further schemes are in dataset.json alone."""
FORECAST_EPOCHS = 3
LEFT_OUT = ("file", "chain", "protein", "label")


def summarise(
    found: Gathered, columns: Mapping[str, LabelColumn], schemes: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Counts by split and class, and the padding to expect, as JSON."""
    lengths = np.array(found.lengths, np.int64)
    return {
        "left_out": {what: sum(entry.what == what for entry in found.skipped) for what in LEFT_OUT},
        "counts": dict(sorted(found.counts.items())),
        "classes": {
            name: {scheme: _classes(column, split) for scheme, split in schemes.items()}
            for name, column in columns.items()
        },
        "padding": {
            scheme: _padding(lengths, split) for scheme, split in schemes.items() if (split == 0).any()
        },
        "notes": [*found.notes, *_without_labels(found, columns, schemes)],
    }


def _without_labels(
    found: Gathered, columns: Mapping[str, LabelColumn], schemes: Mapping[str, np.ndarray]
) -> list[str]:
    """A warning for every column of one class for each protein that a split of a scheme has no label of."""
    other = "other splits" if any(found.splits) else "another --split"
    said = []
    for name, column in columns.items():
        if column.starts is not None:  # which training cannot use
            continue
        for scheme, split in schemes.items():
            of = {shown: column.values[split == code] for shown, code in SPLITS.items()}
            missing = [shown for shown, values in of.items() if len(values) and (values < 0).all()]
            if missing:
                said.append(
                    f"warning: no protein of {' and '.join(missing)} in split {scheme} has a label {name!r}, "
                    f"so that no model can be trained on these labels; label more proteins or give {other}"
                )
    return said


def _classes(column: LabelColumn, split: np.ndarray) -> dict[str, dict[str, int]]:
    """By split, proteins of every class; of many classes, how many occur and how large they are."""
    if column.starts is None:
        protein = np.flatnonzero(column.values >= 0)
        values = column.values[protein]
    else:
        protein = np.repeat(np.arange(len(split)), np.diff(column.starts))
        values = column.values
    table = {}
    for name, code in SPLITS.items():
        counts = np.bincount(values[split[protein] == code], minlength=len(column.classes))
        if len(counts) <= SHOWN_CLASSES:
            table[name] = dict(zip(column.classes, counts.tolist(), strict=True))
        elif (there := counts[counts > 0]).size:
            table[name] = {"classes": len(there), "smallest": int(there.min()), "largest": int(there.max())}
    return table


def _padding(lengths: np.ndarray, split: np.ndarray) -> dict[str, Any]:
    """What `plan_batches` says for the published batch size."""
    data = DataConfig()
    train, val, test = (lengths[split == code] for code in SPLITS.values())
    plan = plan_batches(
        train=train,
        validation=val,
        test=test,
        epochs=FORECAST_EPOCHS,
        batch_size=data.batch_size,
        max_shapes=data.max_shapes,
        seed=0,
    )
    return {
        "batch_size": data.batch_size,
        "node_counts": list(plan.node_counts),
        "padding_share": round(plan.padding_share, 4),
    }


def lines(
    found: Gathered,
    columns: Mapping[str, LabelColumn],
    schemes: Mapping[str, np.ndarray],
    summary: Mapping[str, Any],
) -> list[str]:
    """The summary for a reader."""
    low, middle, high = np.quantile(found.lengths, (0, 0.5, 1)).round().astype(int)
    said = [
        f"{len(found.ids):,} proteins of {sum(found.lengths):,} residues; "
        f"lengths {low:,} to {high:,}, median {middle:,}"
    ]
    for scheme, split in schemes.items():
        sizes = {name: int((split == code).sum()) for name, code in {**SPLITS, "in none": -1}.items()}
        said.append(f"split {scheme}: {_listed(sizes)}")
    for name, column in columns.items():
        several = ", several to a protein" if column.several else ""
        said.append(f"labels {name}: {len(column.classes):,} classes{several}")
        for scheme, table in list(summary["classes"][name].items())[:SHOWN_SCHEMES]:
            said += [f"  {scheme}, {split}: {_listed(counts)}" for split, counts in table.items()]
    if not columns:
        said.append("there are no labels, so nothing can be trained on these proteins")
    for scheme, padding in list(summary["padding"].items())[:SHOWN_SCHEMES]:
        said.append(
            f"padding forecast for split {scheme}: {padding['padding_share']:.1%} in batches of "
            f"{padding['batch_size']} proteins, padded to {', '.join(map(str, padding['node_counts']))}"
        )
    if counts := {what: count for what, count in summary["counts"].items() if count}:
        said.append(f"counted: {_listed(counts)}")
    left = {f"{what}s": count for what, count in summary["left_out"].items()}
    said.append(f"left out: {_listed(left)}; skipped.csv says which and why")
    return [*said, *summary["notes"]]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())
