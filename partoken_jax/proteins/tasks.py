"""Classification tasks: which chains take part and what their classes are called.

A task's classes depend on the file alone, never on the split, so that label 3 means the same
thing in training and in test.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from partoken_jax.proteins.protein import RESIDUE_TYPES, DataError

EC_CLASSES = (
    "oxidoreductase",
    "transferase",
    "hydrolase",
    "lyase",
    "isomerase",
    "ligase",
    "translocase",
)
"""Top-level EC classes 1 to 7."""

CATH_CLASSES = ("mainly alpha", "mainly beta", "alpha beta", "few secondary structures")
"""CATH classes 1 to 4."""

ARCHITECTURES = {
    "1.10": "orthogonal bundle",
    "1.20": "up-down bundle",
    "1.25": "alpha horseshoe",
    "1.40": "alpha solenoid",
    "1.50": "alpha/alpha barrel",
    "2.10": "ribbon",
    "2.20": "single sheet",
    "2.30": "roll",
    "2.40": "beta barrel",
    "2.50": "clam",
    "2.60": "sandwich",
    "2.70": "distorted sandwich",
    "2.80": "trefoil",
    "2.90": "orthogonal prism",
    "2.100": "aligned prism",
    "2.102": "3-layer sandwich",
    "2.110": "4-propeller",
    "2.115": "5-propeller",
    "2.120": "6-propeller",
    "2.130": "7-propeller",
    "2.140": "8-propeller",
    "2.150": "2 solenoid",
    "2.160": "3 solenoid",
    "2.170": "beta complex",
    "2.180": "shell",
    "3.10": "roll",
    "3.15": "super roll",
    "3.20": "alpha-beta barrel",
    "3.30": "2-layer sandwich",
    "3.40": "3-layer (aba) sandwich",
    "3.50": "3-layer (bba) sandwich",
    "3.55": "3-layer (bab) sandwich",
    "3.60": "4-layer sandwich",
    "3.65": "alpha-beta prism",
    "3.70": "box",
    "3.75": "5-stranded propeller",
    "3.80": "alpha-beta horseshoe",
    "3.90": "alpha-beta complex",
    "3.100": "ribosomal protein L15; chain K; domain 2",
    "4.10": "irregular",
}
"""What CATH 4.3 calls its architectures."""

MIN_CHAINS = {"cath-architecture": 50, "cath-superfamily": 10}
"""An architecture or superfamily is a class of its task if the file holds so many chains of it, all splits
together: 17 architectures and 197 superfamilies of pdb_chains.npz, 11 and 32 of the embedded file."""

CATH_LEVELS = {"cath-class": 1, "cath-architecture": 2, "cath-superfamily": 4}
"""How many numbers of a CATH code a task tells."""

TASK_ARRAYS = {"ec-class": "ec_class"} | dict.fromkeys(CATH_LEVELS, "cath")
"""The array of a file from which a task takes its labels."""


def class_title(name: str) -> str:
    """A class as a reader knows it: an architecture with what CATH calls it, "3.30 (2-layer sandwich)"."""
    return f"{name} ({ARCHITECTURES[name]})" if name in ARCHITECTURES else name


RESIDUE_CLASSES = tuple(RESIDUE_TYPES)
"""What the task of pretraining (`config.RESIDUE_TASK`) tells apart; its proteins have no labels."""


def task_labels(task: str, annotation: np.ndarray, names: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of all P chains of a file.

    Args:
      task: a key of `TASK_ARRAYS`.
      annotation: that array: EC classes (0 = none) or CATH codes ('' = none), [P].
      names: the chains' names, for error messages.

    Returns:
      Labels int32 [P], -1 where the chain is not in the task (such as a CATH code without a superfamily), -2
      where it is but its class is too small to count; and the class names.

    Raises DataError for an EC class or CATH code that does not exist.
    """
    if task == "ec-class":
        bad = (annotation < 0) | (annotation > len(EC_CLASSES))
        if bad.any():
            i = int(bad.argmax())
            raise DataError(f"{names[i]}: ec_class is {annotation[i]}, but must be 1 to 7, or 0 for none")
        return annotation.astype(np.int32) - 1, EC_CLASSES
    level = CATH_LEVELS[task]
    codes = [
        _cath_numbers(code.decode("utf-8", "replace"), name)[:level]
        for code, name in zip(annotation, names, strict=True)
    ]
    if task == "cath-class":
        return np.array([code[0] - 1 if code else -1 for code in codes], np.int32), CATH_CLASSES
    counts = Counter(code for code in codes if len(code) == level)
    kept = sorted(code for code, count in counts.items() if count >= MIN_CHAINS[task])
    number = {code: i for i, code in enumerate(kept)}
    labels = [number.get(code, -2) if len(code) == level else -1 for code in codes]
    return np.array(labels, np.int32), tuple(".".join(map(str, code)) for code in kept)


def pretraining_places(schemes: Mapping[str, np.ndarray], chosen: str) -> np.ndarray:
    """int8 [P]: where a protein is in pretraining (0 train, 1 validation, 2 test, -1 nowhere).

    As in the chosen one of the split schemes (int [P] each), but no protein is pretrained on that another
    scheme keeps for validation or test: whichever scheme the model is fine-tuned by, it has not seen them.
    """
    place = schemes[chosen].astype(np.int8)
    kept = np.any([(other == 1) | (other == 2) for name, other in schemes.items() if name != chosen], axis=0)
    place[(place == 0) & kept] = -1
    return place


def _cath_numbers(code: str, name: str) -> tuple[int, ...]:
    """The numbers of a CATH code, two or more; none of an empty one."""
    if not code:
        return ()
    fields = code.split(".")
    if (
        len(fields) < 2
        or not all(f.isdecimal() and len(f) < 10 for f in fields)
        or not 1 <= int(fields[0]) <= len(CATH_CLASSES)
    ):
        raise DataError(
            f"{name}: {code!r} is not a CATH code (class 1 to 4, architecture, topology, superfamily, "
            "as in 3.40.50.720); correct it or leave it empty"
        )
    return tuple(map(int, fields))
