"""What every source is turned into: proteins with the names of their classes and splits, chunk by chunk."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from partoken_jax.proteins import Protein
from partoken_jax.proteins.geometry import coordinate_fault
from partoken_jax.proteins.prepared import MAX_LENGTH, MAX_NAME
from partoken_jax.proteins.structure_formats import text_of
from partoken_jax.proteins.structures import Skipped


class Record(NamedTuple):
    """A protein and what its source says of it."""

    protein: Protein
    labels: Mapping[str, tuple[str, ...]]
    """Names of its classes by label column; a column may be missing."""
    splits: Mapping[str, str]
    """"train", "val", "test" or "none" by scheme; a scheme may be missing."""


@dataclass
class Contents:
    """What a chunk of a source holds."""

    records: list[Record] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Adds a protein, or the reason why it cannot be used."""
        if (reason := fault(record.protein)) is None:
            self.records.append(record)
        else:
            self.skip(record.protein.name, reason)

    def skip(self, name: str, reason: str) -> None:
        """Notes a protein that is left out."""
        self.skipped.append(Skipped(text_of(name) or "(no id)", "protein", reason))


class Column(NamedTuple):
    """What a source says of a label column beforehand."""

    several: bool = False
    """Whether a protein may have several classes."""
    names: tuple[str, ...] | None = None
    """Names of the classes in their order; None for those that occur, sorted."""


Chunk = dict[str, Any]
"""What one worker reads at a time, as JSON: "reader" (a key of `sources.READERS`), "size" (in files or
proteins), "path" or "paths" (with what each file is called), perhaps "beside" (files that it needs as well),
and what else the reader needs."""


@dataclass(frozen=True)
class Annotations:
    """Labels and splits that come from tables beside the structures."""

    source: str
    labels: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Names of classes by column, by id."""
    splits: Mapping[str, Mapping[str, str]]
    """Split by scheme, by id."""

    def find(self, name: str, chain: str) -> str | None:
        """The id under which a protein is in the table: its own, or that of its file."""
        file = name.removesuffix(f"_{chain}") if chain else name
        return next((known for known in (name, file) if known in self.labels or known in self.splits), None)


@dataclass(frozen=True)
class Plan:
    """A source, and how it is read."""

    kind: str
    unit: str
    """What is counted while it is read: "files" or "proteins"."""
    chunks: list[Chunk]
    columns: Mapping[str, Column]
    """All its label columns."""
    has_splits: bool
    paths: list[str]
    """The files and folders that the source is."""
    annotations: Annotations | None = None


def fault(protein: Protein) -> str | None:
    """Why a protein cannot be used, or None."""
    if not protein.name.strip():
        return "its id is empty"
    if not protein.name.isprintable() or len(protein.name.encode()) > MAX_NAME:
        return f"its id is not printable text of at most {MAX_NAME} bytes"
    if len(protein) > MAX_LENGTH:
        return f"it has {len(protein)} residues, but at most {MAX_LENGTH} are possible"
    if not protein.complete.any():
        return "none of its residues has all four backbone atoms"
    return coordinate_fault(protein)


def pieces(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """The items in order, `size` at a time."""
    return [items[first : first + size] for first in range(0, len(items), size)]
