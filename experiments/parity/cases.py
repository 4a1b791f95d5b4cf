"""The eight cases: what checks each, and the kinds of comparison that each is about."""

from collections.abc import Callable
from typing import NamedTuple

from experiments.parity.blocks import check_attention, check_features, check_gvp
from experiments.parity.codebook import check_codebook
from experiments.parity.compare import Report
from experiments.parity.models import check_baseline, check_partoken, check_trajectory
from experiments.parity.partitioner import check_partitioner


class Case(NamedTuple):
    check: Callable[..., None]
    kinds: dict[str, tuple[str, ...]]
    """What has to be compared, and the groups of the report that count as it."""


FORWARD = {"forward outputs": ("forward", "encoder")}
GRADIENTS = {"gradients": ("gradients", "train.g.total, published", "train.g.step, published")}
DECISIONS = {"discrete decisions": ("decisions", "codes")}
BUFFERS = {"buffers": ("buffers",)}
PRESENCE = {"presence": ("presence",)}

CASES = {
    "1": Case(check_gvp, {**FORWARD, **GRADIENTS, "rotated outputs": ("rotated",)}),
    "2": Case(check_features, {"edges": ("edges",), "features": ("node_s", "features")}),
    "3": Case(check_baseline, {**FORWARD, **GRADIENTS}),
    "4": Case(check_partitioner, {**FORWARD, **DECISIONS, **GRADIENTS}),
    "5": Case(check_codebook, {**FORWARD, **DECISIONS, **BUFFERS, **PRESENCE, **GRADIENTS}),
    "6": Case(check_attention, {**FORWARD, **GRADIENTS}),
    "7": Case(check_partoken, {**FORWARD, **DECISIONS, **BUFFERS, **PRESENCE, **GRADIENTS}),
    "8": Case(
        check_trajectory,
        {"losses": ("losses",), "final weights": ("final weights",), **DECISIONS, **GRADIENTS},
    ),
}


def lacking(digit: str, files: list[str], report: Report) -> list[str]:
    """Sentences about the kinds that were compared in none of a case's files, and about files of which
    nothing was compared."""
    compared = {file: report.compared.get(file, set()) for file in files}
    everything = set().union(*compared.values())
    named = ", ".join(f"{file}.npz" for file in files)
    sentences = [f"{file}.npz: nothing in it was compared" for file, groups in compared.items() if not groups]
    for kind, groups in CASES[digit].kinds.items():
        if everything and not everything.intersection(groups):
            sentences.append(
                f"case {digit}: no {kind} were compared, because {named} hold{'s' * (len(files) == 1)} none"
            )
    return sentences
