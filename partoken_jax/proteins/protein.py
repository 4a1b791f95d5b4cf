"""The record of one protein chain: what every later step knows about it."""

from dataclasses import dataclass, field, replace

import numpy as np

RESIDUE_TYPES = "ARNDCQEGHILKMFPSTWYV"
"""One-letter code of each residue type, in the order of the published model."""

UNKNOWN_RESIDUE = "X"
"""Letter of a residue that is none of them; its type is `len(RESIDUE_TYPES)`."""

_LETTERS = RESIDUE_TYPES + UNKNOWN_RESIDUE
TYPE_OF_LETTER = np.full(256, -1, np.int32)
"""int32 [256]: type of the residue with an ASCII letter, -1 where the letter stands for none."""
TYPE_OF_LETTER[np.frombuffer(_LETTERS.encode(), np.uint8)] = np.arange(len(_LETTERS))


class DataError(ValueError):
    """Protein data that cannot be used; the message names the file or protein, and a remedy."""


def _no_numbers() -> np.ndarray:
    return np.empty(0, np.int32)


@dataclass(frozen=True, eq=False)
class Protein:
    """One chain of L residues.

    Raises DataError, naming the protein, for wrong shapes, letters other than `RESIDUE_TYPES` and
    `UNKNOWN_RESIDUE`, infinite coordinates, no residues at all or none that is complete.
    """

    name: str
    sequence: str
    """L one-letter residue types; X where the type is unknown."""
    backbone: np.ndarray
    """float32 [L, 4, 3]: N, CA, C, O in Å; NaN where an atom is missing."""
    label: int = -1
    """Class number, -1 where unknown."""
    residue_numbers: np.ndarray = field(default_factory=_no_numbers)
    """int32 [L]: the residues' numbers in their PDB entry; left out, 1 to L."""
    chain: str = "A"
    insertion_codes: str = ""
    """L insertion codes of the residue numbers, ASCII, a space where there is none; left out, all spaces."""

    def __post_init__(self):
        backbone = np.asarray(self.backbone, np.float32)
        if backbone.ndim != 3 or backbone.shape[1:] != (4, 3):
            raise DataError(
                f"{self.name}: backbone has shape {backbone.shape}, "
                "but must be [residues, 4, 3] (N, CA, C, O)"
            )
        num_residues = len(backbone)
        if num_residues == 0:
            raise DataError(f"{self.name}: has no residues; leave it out or give at least one")
        if len(self.sequence) != num_residues:
            raise DataError(
                f"{self.name}: sequence has {len(self.sequence)} letters "
                f"for {num_residues} residues of backbone"
            )
        numbers = np.asarray(self.residue_numbers, np.int32)
        if numbers.size == 0:
            numbers = np.arange(1, num_residues + 1, dtype=np.int32)
        if numbers.shape != (num_residues,):
            raise DataError(
                f"{self.name}: residue_numbers has shape {numbers.shape}, but must be ({num_residues},)"
            )
        unknown = [i for i, letter in enumerate(self.sequence) if letter not in _LETTERS]
        if unknown:
            raise DataError(
                f"{self.name}: residue {numbers[unknown[0]]} is {self.sequence[unknown[0]]!r}, "
                f"but must be one of the 20 standard residues {RESIDUE_TYPES}, or {UNKNOWN_RESIDUE} (unknown)"
            )
        infinite = np.isinf(backbone).any(axis=(1, 2))
        if infinite.any():
            raise DataError(
                f"{self.name}: residue {numbers[infinite.argmax()]} has non-finite (infinite) coordinates; "
                "write missing atoms as NaN"
            )
        if not np.isfinite(backbone).all(axis=(1, 2)).any():
            raise DataError(
                f"{self.name}: none of its residues has all four atoms (N, CA, C and O); leave it out"
            )
        codes = self.insertion_codes or " " * num_residues
        if len(codes) != num_residues or not codes.isascii():
            raise DataError(
                f"{self.name}: insertion_codes is {codes!r}, but must be {num_residues} ASCII characters, "
                "a space where a residue has none"
            )
        object.__setattr__(self, "backbone", backbone)
        object.__setattr__(self, "insertion_codes", codes)
        object.__setattr__(self, "residue_numbers", numbers)

    def __len__(self) -> int:
        return len(self.sequence)

    @property
    def complete(self) -> np.ndarray:
        """bool [L]: residues with all four atoms; the others are masked everywhere."""
        return np.asarray(np.isfinite(self.backbone).all(axis=(1, 2)))

    @property
    def residue_types(self) -> np.ndarray:
        """int32 [L]: index of each residue in `RESIDUE_TYPES`, and 20 where it is unknown."""
        return TYPE_OF_LETTER[np.frombuffer(self.sequence.encode("ascii"), np.uint8)]

    def cropped(self, max_length: int) -> "Protein":
        """The first `max_length` residues; the protein itself if it has no more."""
        if len(self) <= max_length:
            return self
        return replace(
            self,
            sequence=self.sequence[:max_length],
            backbone=self.backbone[:max_length],
            residue_numbers=self.residue_numbers[:max_length],
            insertion_codes=self.insertion_codes[:max_length],
        )
