"""Files of proteins that are no archive, or whose arrays lie about themselves."""

import os
import zipfile
from pathlib import Path

import numpy as np

from tests.bad_input.case import Case
from tests.bad_input.made_files import Make, bomb, claimed, claims, data, sparse, with_members, write

TRAIN = ("train", "--data.path", "data.npz", "--run-dir", "run")


def _case(name: str, make: Make, *words: str) -> Case:
    return Case(f"proteins: {name}", TRAIN, ("data.npz: ", *words), make)


def _cut(share: float) -> Make:
    """Writes the beginning of a good file."""

    def make(folder: Path) -> None:
        data()(folder)
        whole = (folder / "data.npz").read_bytes()
        (folder / "data.npz").write_bytes(whole[: int(len(whole) * share)])

    return make


def _flipped(folder: Path) -> None:
    """Writes a file of which one byte has changed."""
    data()(folder)
    content = bytearray((folder / "data.npz").read_bytes())
    content[content.index(b"ARNDCQEGHILKMF")] = ord("G")
    (folder / "data.npz").write_bytes(content)


def _encrypted(folder: Path) -> None:
    data()(folder)
    content = bytearray((folder / "data.npz").read_bytes())
    place = content.index(b"PK\x01\x02")
    while place >= 0:  # the flag of encryption, in the directory
        content[place + 8] |= 1
        place = content.find(b"PK\x01\x02", place + 4)
    (folder / "data.npz").write_bytes(content)


def _empty_archive(folder: Path) -> None:
    zipfile.ZipFile(folder / "data.npz", "w").close()


CASES = [
    _case("no file", lambda folder: None, "no such file", "give the path of a .npz file"),
    _case("an empty file", write("data.npz", b""), "not a readable .npz file", "np.savez"),
    _case("text", write("data.npz", "ATOM      1  N   MET A   1"), "not a readable .npz file", "np.savez"),
    _case(
        "one array",
        lambda d: np.save((d / "data.npz").open("wb"), np.zeros(3)),
        "not a readable .npz",
        "np.savez",
    ),
    _case("an archive without arrays", _empty_archive, "holds no arrays", "np.savez"),
    _case("cut in half", _cut(0.5), "not a readable .npz file", "np.savez"),
    _case("cut at the end", _cut(0.98), "not a readable .npz file", "np.savez"),
    _case("a byte that changed", _flipped, "array 'sequence' cannot be read", "write the file anew"),
    _case("encrypted", _encrypted, "cannot be read", "encrypted", "write the file anew"),
    _case("a directory", lambda d: (d / "data.npz" / "x").mkdir(parents=True)),
    _case(
        "a pipe", lambda d: os.mkfifo(d / "data.npz"), "is a pipe or a device", "give the path of a .npz file"
    ),
    Case(
        "proteins: a link to nothing",
        TRAIN,
        ("gone: no such file", "give the path of a .npz file"),
        lambda folder: (folder / "data.npz").symlink_to("gone"),
    ),
    Case(
        "proteins: endless",
        ("train", "--data.path", "/dev/zero"),
        ("/dev/zero: is a pipe or a device", ".npz"),
    ),
    Case("proteins: 5 GB of zeros", TRAIN, ("data.npz: not a readable .npz",), sparse("data.npz", 5 * 10**9)),
    _case(
        "a bomb of 3 GB", bomb("data.npz", "backbone.npy", (12, 2**28)), "would take 3,221,", "check where"
    ),
    _case(
        "an array twice",
        with_members("step", [("step.npy", claimed((), "<f4", b"\0" * 4))] * 2),
        "2 arrays called 'step'",
    ),
    _case("no array but text", with_members("step", [("step.npy", b"hello")]), "array 'step' cannot be read"),
    _case("an array of no bytes", with_members("step", [("step.npy", b"")]), "array 'step' cannot be read"),
    _case(
        "a header cut off",
        with_members("step", [("step.npy", claimed(())[:20])]),
        "array 'step' cannot be read",
    ),
    _case(
        "a header that is no Python",
        with_members("step", [("step.npy", b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16)]),
        "'step' cannot be read",
    ),
    _case(
        "Python objects",
        data(ec_class=np.array([1, None, 0, 0, 1, 2], object)),
        "'ec_class' holds Python objects",
        "write numbers",
    ),
    *(
        _case(
            f"{count:.0e} values claimed",
            claims("sequence", (int(count),), "|u1"),
            "array 'sequence' claims shape",
            "write the file anew",
        )
        for count in (1e9, 2**31, 2**63, 1e30)
    ),
    _case(
        "1e30 values of a matrix",
        claims("backbone", (12, 10**30)),
        "array 'backbone' claims shape",
        "write the file anew",
    ),
    _case(
        "a negative number of values",
        claims("sequence", (-5,), "|u1"),
        "array 'sequence'",
        "write the file anew",
    ),
    _case("texts of 1 GB", claims("id", (6,), "|S1000000000"), "array 'id' claims", "write the file anew"),
]
