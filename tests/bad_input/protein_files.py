"""Files of proteins whose arrays are missing, of the wrong type or shape, or hold what no protein has."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.bad_input.case import Case
from tests.bad_input.made_files import LENGTHS, Make, changed, data, proteins

TRAIN = ("train", "--data.path", "data.npz", "--run-dir", "run")
CATH = (*TRAIN, "--data.task", "cath-class")
ARCHITECTURE = (*TRAIN, "--data.task", "cath-architecture")


def _case(name: str, make: Make, *words: str, args: tuple[str, ...] = TRAIN) -> Case:
    return Case(f"proteins: {name}", args, ("data.npz: ", *words), make)


def _ids(*names: bytes) -> Make:
    return data(id=np.array([*names, *proteins()["id"][len(names) :]]))


def _scaled(step: float) -> Make:
    return data(step=np.float32(step))


def _equal(rows: slice) -> Make:
    backbone = proteins()["backbone"].copy()
    backbone[rows] = 0
    return data(backbone=backbone)


def _far(folder: Path) -> None:
    """One chain of 15 whose steps are as long as a byte can say, and longer by the unit."""
    arrays = proteins()
    backbone = arrays["backbone"].copy()
    backbone[:3, sum(LENGTHS[:2]) : sum(LENGTHS[:3])] = 127
    np.savez(folder / "data.npz", **arrays | {"backbone": backbone, "step": np.float32(0.08)})


def _wide(dtype: Any, value: int) -> np.ndarray:
    return np.array([value, 12, 9, 15, 8, 10], dtype)


CASES = [
    *(
        _case(f"without {name}", data(**{name: None}), f"array '{name}' is missing", "need step, id")
        for name in proteins()
        if name not in ("cath", "split_superfamily")
    ),
    _case("without cath", data(cath=None), "array 'cath' is missing", args=CATH),
    _case(
        "without the other splits",
        data(split_superfamily=None),
        "'split_superfamily' is missing",
        args=(*TRAIN, "--data.split-scheme", "superfamily"),
    ),
    _case(
        "coordinates as numbers",
        data(backbone=np.zeros((12, 65))),
        "'backbone' has type float64",
        "must be int8",
    ),
    _case(
        "coordinates the other way round",
        data(backbone=proteins()["backbone"].T),
        "'backbone' has shape (65, 12)",
        "(12, R) = (12, 65)",
    ),
    _case(
        "three atoms", data(backbone=np.zeros((9, 65), np.int8)), "'backbone' has shape (9, 65)", "(12, 65)"
    ),
    _case(
        "a residue less",
        data(backbone=proteins()["backbone"][:, 1:]),
        "'backbone' has shape (12, 64)",
        "(12, 65)",
    ),
    _case(
        "letters as text",
        data(sequence=np.array(["A"] * 65)),
        "'sequence' has type <U1",
        "must be uint8",
        "convert it",
    ),
    _case(
        "lengths as floats",
        data(length=np.array(LENGTHS, float)),
        "'length' has type float64",
        "must be integer",
    ),
    _case("a length as one number", data(length=np.int32(65)), "'length' has shape ()", "(P,)"),
    _case(
        "ids as text",
        data(id=proteins()["id"].astype(str)),
        "'id' has type <U7",
        "must be bytes",
        "convert it",
    ),
    _case("two ids for six chains", data(id=proteins()["id"][:2]), "'id' has shape (2,)", "= (6,)"),
    _case(
        "complex labels",
        data(ec_class=np.ones(6, complex)),
        "'ec_class' has type complex128",
        "must be integer",
    ),
    _case(
        "splits as booleans", data(split=np.ones(6, bool)), "'split' has type bool", "must be signed integer"
    ),
    _case("records", data(length=np.zeros(6, [("a", int)])), "'length' has type", "must be integer"),
    _case(
        "dates", data(first_residue_number=np.zeros(6, "M8[s]")), "'first_residue_number' has type", "integer"
    ),
    _case(
        "lengths beyond int64",
        data(length=np.full(6, 2**62)),
        "chain '1ABC_A' has length 4611686018427387904",
        "correct it",
    ),
    _case(
        "lengths that come round to the sum",
        data(length=np.array([2**63 - 1, 2**63 - 1, 67, 0, 0, 0])),
        "has length 9223372036854775807",
    ),
    _case(
        "unsigned lengths beyond int64",
        data(length=_wide(np.uint64, 2**64 - 1)),
        "has length 18446744073709551615",
    ),
    _case(
        "a length of 2**40", data(length=_wide(np.int64, 2**40)), "has length 1099511627776", "1 to 100,000"
    ),
    _case("a length of 0", changed("length", 3, 0), "chain '4GHI_C' has length 0", "leave the chain out"),
    _case(
        "a negative length", changed("length", 3, -8), "chain '4GHI_C' has length -8", "leave the chain out"
    ),
    _case(
        "lengths that add up to more",
        changed("length", 3, 9),
        "'length' adds up to 66",
        "hold 65",
        "correct the lengths",
    ),
    _case(
        "lengths that add up to less",
        changed("length", 3, 7),
        "'length' adds up to 64",
        "hold 65",
        "correct the lengths",
    ),
    _case(
        "no chains at all",
        data(**{name: array[..., :0] if np.ndim(array) else array for name, array in proteins().items()}),
        "no chain",
    ),
    _case(
        "a residue number of 2**40",
        changed("first_residue_number", 2, 2**40, np.int64),
        "3DEF_AA' has number 1099511627776",
        "correct 'first",
    ),
    _case(
        "a residue number of -2**40",
        changed("first_residue_number", 2, -(2**40), np.int64),
        "has number -1099511627776",
    ),
    _case(
        "an unknown residue",
        changed("sequence", 12, ord("*")),
        "2XYZ_B: residue -2 is '*'",
        "correct 'sequence'",
    ),
    _case("a small letter", changed("sequence", 0, ord("a")), "1ABC_A: residue 1 is 'a'", "amino acids"),
    _case("a letter beyond ASCII", changed("sequence", 0, 200), "1ABC_A: residue 1 is 'È'", "amino acids"),
    _case(
        "an id twice",
        _ids(b"1ABC_A", b"1ABC_A"),
        "chains 1 and 2 are both called '1ABC_A'",
        "an id of its own",
    ),
    _case("an empty id", _ids(b"1ABC_A", b""), "the id of chain 2 is empty", "give every chain a name"),
    _case("an id of a space", _ids(b"1ABC_A", b" "), "the id of chain 2 is empty", "give every chain a name"),
    _case("an id in Latin-1", _ids("Stück".encode("latin-1")), "of chain 1 is not UTF-8", "encode it so"),
    _case("an id of two lines", _ids(b"a\nb"), "chain 1 'a\\nb' holds characters that cannot be shown"),
    _case(
        "an id that colours the terminal",
        _ids(b"\x1b[31mred"),
        "that cannot be shown",
        "give every chain a name",
    ),
    _case(
        "an id in UTF-8, shown right",
        lambda d: np.savez(
            d / "data.npz",
            **proteins()
            | {
                "id": np.array(["Stück_日本".encode()] + [b"%d" % i for i in range(5)]),
                "split": np.full(6, 3, np.int8),
            },
        ),
        "of Stück_日本 is 3",
    ),
    *(
        _case(f"a unit of {step}", _scaled(step), f"'step' is {step}", "positive number")
        for step in (0.0, -0.05, float("nan"), float("inf"))
    ),
    _case("a unit of two numbers", data(step=np.array([0.05, 0.05])), "'step' has shape (2,)", "()"),
    _case("a unit in nanometres", _scaled(0.005), "1ABC_A are 0.3", "1 to 10 Å", "correct 'step'"),
    _case("a unit a hundred times too large", _scaled(5), "1ABC_A are 37", "1 to 10 Å", "correct 'step'"),
    _case("a unit of 1e30", _scaled(1e30), "1ABC_A are ", "1 to 10 Å", "correct 'step'"),
    _case("a unit of 1e-30", _scaled(1e-30), "1ABC_A are ", "1 to 10 Å", "correct 'step'"),
    _case(
        "all coordinates equal", _equal(slice(None)), "1ABC_A are 0 Å apart", "correct 'step' or 'backbone'"
    ),
    _case("all CA in one place", _equal(slice(3)), "1ABC_A are 0 Å apart", "correct 'step' or 'backbone'"),
    _case("one chain blown up", _far, "3DEF_AA are 17.6 Å apart", "leave the chain out"),
    _case(
        "a class that does not exist",
        changed("ec_class", 1, 8),
        "2XYZ_B: ec_class is 8",
        "1 to 7, or 0 for none",
    ),
    _case("a negative class", changed("ec_class", 1, -1), "2XYZ_B: ec_class is -1", "1 to 7, or 0 for none"),
    _case("a class of 2**40", changed("ec_class", 1, 2**40, np.int64), "2XYZ_B: ec_class is 1099511627776"),
    *(
        _case(
            f"the CATH code {code!r}",
            data(cath=np.array([b"1.10.8.10", code, b"", b"2.60", b"1.10", b"3.40"])),
            "2XYZ_B: ",
            "is not a CATH code",
            "leave it empty",
            args=CATH,
        )
        for code in (b"3", b"5.10.8.10", b"a.b", b"3..50", b"3.\xff", b"1." + b"9" * 400)
    ),
    _case("a split that does not exist", changed("split", 2, 3), "'split' of 3DEF_AA is 3", "or -1 (none)"),
    _case("a split of 2**40", changed("split", 2, 2**40, np.int64), "'split' of 3DEF_AA is 1099511627776"),
    _case("a negative split", changed("split", 2, -2), "'split' of 3DEF_AA is -2", "or -1 (none)"),
    _case(
        "nothing to train on",
        data(split=np.array([1, 1, 1, 1, 1, 2], np.int8)),
        "in split 'train'",
        "choose another",
    ),
    _case(
        "nothing to validate on",
        data(split=np.array([0, 0, 0, 0, 0, 2], np.int8)),
        "in split 'val'",
        "choose another",
    ),
    _case(
        "nothing to test on",
        data(split=np.array([0, 0, 0, 0, 1, 1], np.int8)),
        "in split 'test'",
        "choose another",
    ),
    _case("no labels", data(ec_class=np.zeros(6, np.int8)), "no chain of task 'ec-class'", "choose another"),
    _case(
        "one class only",
        data(ec_class=np.full(6, 3, np.int8)),
        "all proteins of split 'train'",
        "'hydrolase'",
        "two classes",
    ),
    _case(
        "architectures with too few chains",
        data(),
        "classes need 50 chains",
        "choose another",
        args=ARCHITECTURE,
    ),
    Case(
        "proteins: to time",
        ("time", "--data", "data.npz"),
        ("data.npz: ", "adds up to 66"),
        changed("length", 3, 9),
    ),
    _case("ids of 2,000 characters", _ids(b"x" * 2000), "'id' holds texts of 2,000 bytes", "shorten them"),
]
