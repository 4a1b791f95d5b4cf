"""Breaks structure files at random, and counts what is not answered by a protein, written, or a sentence.

    python -m experiments.fuzz_structures --files 20000 --json experiments/results/fuzz_structures.json

The files are those of `tests/proteins/structures`. Each is changed in bytes (flipped, cut out, repeated, cut
off) or in lines and fields (left out, swapped, repeated, mixed with another file, values that no file should
have), and a compressed one as it is or inside. What is read of a file gets clusters, and is written as JSON,
as a page and as coloured structure files, which are read again. Everything is done in another process, so
that a file is counted as well if it ends that process or takes longer than 10 s.
"""

import gzip
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from experiments.flags import Flags, count, output, run_script
from partoken_jax.interpret.annotation import Annotation, Cluster
from partoken_jax.interpret.coloured import write_coloured
from partoken_jax.interpret.pages import page
from partoken_jax.interpret.tables import as_json
from partoken_jax.proteins import Protein
from partoken_jax.proteins.structures import Origin, read_structure

FOLDER = Path(__file__).parents[1] / "tests" / "proteins" / "structures"
PATIENCE = 10.0
"""Seconds after which a file is taken to hang."""
FAILURES = ("traceback", "died", "hung", "wrong")
VALUES = (
    *(b"", b"?", b".", b"nan", b"inf", b"1e400", b"-1e39", b"99999999999", b"-99999", b"2147483648", b"0"),
    *(
        b"'",
        b'"',
        b";",
        b"\n;\n",
        b"loop_",
        b"data_x",
        b"save_",
        b"\0",
        b"\xff\xfe",
        "é".encode(),
        b"#" * 5000,
    ),
    *(
        b"A000",
        b"zzzz",
        b"****",
        b"{",
        b"]",
        b"null",
        b'{"a":',
        b"[" * 200,
        b"ATOM",
        b"TER",
        b"MODEL",
        b"ENDMDL",
    ),
)


def flip(data: bytearray, chance: random.Random) -> None:
    """Other bytes in a few places."""
    for _ in range(chance.randint(1, 20)):
        data[chance.randrange(len(data))] = chance.randrange(256)


def cut_out(data: bytearray, chance: random.Random) -> None:
    """A piece is missing."""
    start = chance.randrange(len(data))
    del data[start : start + chance.randint(1, 400)]


def repeat(data: bytearray, chance: random.Random) -> None:
    """A piece is there twice, the second time somewhere else."""
    start, place = chance.randrange(len(data)), chance.randrange(len(data))
    data[place:place] = data[start : start + chance.randint(1, 400)]


def cut_off(data: bytearray, chance: random.Random) -> None:
    """The end is missing."""
    del data[chance.randrange(len(data)) :]


def change_lines(data: bytearray, chance: random.Random) -> None:
    """Lines are missing, swapped, or there several times."""
    lines = bytes(data).split(b"\n")
    for _ in range(chance.randint(1, 10)):
        i, j = chance.randrange(len(lines)), chance.randrange(len(lines))
        change = chance.randrange(3)
        if change == 0 and len(lines) > 1:
            del lines[i]
        elif change == 1:
            lines[i], lines[j] = lines[j], lines[i]
        else:
            lines[i:i] = [lines[j]] * chance.randint(1, 30)
    data[:] = b"\n".join(lines)


def change_fields(data: bytearray, chance: random.Random) -> None:
    """Words are replaced by others of the file, or by what no file should have."""
    lines = bytes(data).split(b"\n")
    words = bytes(data).split() or [b""]
    for _ in range(chance.randint(1, 8)):
        i = chance.randrange(len(lines))
        if line := lines[i].split(b" "):
            new = chance.choice(VALUES if chance.random() < 0.6 else words)
            line[chance.randrange(len(line))] = new
            lines[i] = b" ".join(line)
    data[:] = b"\n".join(lines)


def change_columns(data: bytearray, chance: random.Random) -> None:
    """Values in the columns of a line, whose length stays as it is."""
    lines = bytes(data).split(b"\n")
    for _ in range(chance.randint(1, 8)):
        i = chance.randrange(len(lines))
        if lines[i]:
            place = chance.randrange(len(lines[i]))
            new = chance.choice(VALUES)[: len(lines[i]) - place]
            lines[i] = lines[i][:place] + new + lines[i][place + len(new) :]
    data[:] = b"\n".join(lines)


def mix(data: bytearray, chance: random.Random) -> None:
    """The end of the file is that of another one."""
    other = unpacked(chance.choice(fixtures()).read_bytes())
    del data[chance.randrange(len(data)) :]
    data += other[chance.randrange(len(other)) :]


MUTATIONS = (flip, cut_out, repeat, cut_off, change_lines, change_fields, change_columns, mix)


def fixtures() -> list[Path]:
    """The whole files."""
    return sorted(path for path in FOLDER.iterdir() if path.suffix != ".md")


def unpacked(content: bytes) -> bytes:
    """Without gzip."""
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def broken(index: int, seed: int) -> tuple[str, str, bytes]:
    """The name of a file, what was done to it, and what is in it then."""
    chance = random.Random(f"{seed}/{index}")
    path, mutation = chance.choice(fixtures()), chance.choice(MUTATIONS)
    content = path.read_bytes()
    inside = path.suffix != ".gz" or chance.random() < 0.8
    data = bytearray(unpacked(content) if inside else content)
    mutation(data, chance)
    packed = gzip.compress(bytes(data), 1) if path.suffix == ".gz" and inside else bytes(data)
    return path.name, mutation.__name__, packed


def made_up(protein: Protein, origin: Origin) -> Annotation:
    """A protein with two clusters, one of which has a token."""
    middle = len(protein) // 2
    clusters = [
        Cluster(
            rank=rank,
            index=rank - 1,
            importance=1 / 2,
            seed=int(residues[0]),
            residues=residues.astype(np.int32),
            token=token,
            distance=None if token is None else 0.5,
            features=np.zeros(2, np.float32),
        )
        for rank, residues, token in (
            (1, np.arange(middle, len(protein)), 3),
            (2, np.arange(middle), None),
        )
        if len(residues)
    ]
    return Annotation(
        protein=protein,
        origin=origin,
        class_names=("1.10", "2.40"),
        probabilities=np.array([0.25, 0.75]),
        clusters=tuple(clusters),
        residue_features=np.zeros((len(protein), 2), np.float32),
        protein_features=np.zeros(2, np.float32),
    )


def write_all(annotation: Annotation, folder: Path) -> None:
    """Writes all files of an annotation, and reads the structures among them again."""
    json.dumps(as_json(annotation), allow_nan=False)
    page(annotation).encode()
    for path in write_coloured(annotation, folder, "written"):
        if path.suffix in (".cif", ".pdb"):
            read_structure(path)
        path.unlink()


def outcome(index: int, seed: int, folder: Path) -> tuple[str, str]:
    """What came of a broken file: "read", "refused", "traceback" or "wrong", and the details."""
    name, _, content = broken(index, seed)
    path = folder / name
    path.write_bytes(content)
    try:
        found = read_structure(path, models="all")
        for protein, origin in zip(found.proteins, found.origins, strict=True):
            write_all(made_up(protein, origin), folder)
    except Exception as error:  # what this script is there to find
        return "traceback", f"{type(error).__name__}: {error}"
    finally:
        path.unlink()
    for protein, origin in zip(found.proteins, found.origins, strict=True):
        if not len(protein) == len(origin.label_numbers) == len(origin.plddt):
            return "wrong", f"{protein.name}: its origin has another length"
        protein.name.encode()
    if not found.proteins and not any(entry.what in ("file", "chain") for entry in found.skipped):
        return "wrong", "no protein, and no reason"
    return ("read" if found.proteins else "refused"), ""


def work(first: int, last: int, seed: int, sender: Connection) -> None:
    """Sends what comes of the files from first to last - 1."""
    with tempfile.TemporaryDirectory() as folder:
        for index in range(first, last):
            start = time.perf_counter()
            said = outcome(index, seed, Path(folder))
            sender.send((*said, time.perf_counter() - start))


def outcomes(files: int, seed: int) -> Iterator[tuple[str, str, float]]:
    """Outcome, details and seconds of each file; the process goes on after one that died or was stopped."""
    context, done = multiprocessing.get_context("spawn"), 0
    while done < files:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(done, files, seed, sender))
        process.start()
        sender.close()
        start_up = 60.0
        while done < files:
            if not receiver.poll(PATIENCE + start_up):
                process.kill()
                yield "hung", f"longer than {PATIENCE:.0f} s", PATIENCE
            else:
                try:
                    said = receiver.recv()
                except EOFError:
                    process.join()
                    yield "died", f"exit code {process.exitcode}", 0.0
                else:
                    done, start_up = done + 1, 0.0
                    yield said
                    continue
            done += 1
            break
        process.join()


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--files", type=count, default=20_000, help="How many broken files to read.")
    flags.add_argument("--seed", type=int, default=0, help="Draws the changes.")
    flags.add_argument("--json", type=output, help="The file for the result.")
    args = flags.parse_args()
    totals: Counter[str] = Counter()
    by_mutation: dict[str, Counter[str]] = {mutation.__name__: Counter() for mutation in MUTATIONS}
    by_file: dict[str, Counter[str]] = {path.name: Counter() for path in fixtures()}
    failures: list[dict[str, Any]] = []
    slowest, start = 0.0, time.perf_counter()
    for index, (what, details, seconds) in enumerate(outcomes(args.files, args.seed)):
        name, mutation, _ = broken(index, args.seed)
        for counts in (totals, by_mutation[mutation], by_file[name]):
            counts[what] += 1
        slowest = max(slowest, seconds)
        if what in FAILURES:
            failures.append(
                {"index": index, "file": name, "mutation": mutation, "what": what, "said": details}
            )
            print(failures[-1], flush=True)
    result = {
        "schema": "partoken.fuzz_structures/1",
        "command": " ".join(["python -m experiments.fuzz_structures", *sys.argv[1:]]),
        "gemmi": version("gemmi"),
        "files": args.files,
        "seed": args.seed,
        "outcomes": {what: totals[what] for what in ("read", "refused", *FAILURES)},
        "by_mutation": by_mutation,
        "by_file": by_file,
        "slowest_seconds": round(slowest, 3),
        "seconds": round(time.perf_counter() - start, 1),
        "failures": failures,
    }
    print(f"{result['outcomes']}; the slowest file took {slowest:.2f} s")
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
