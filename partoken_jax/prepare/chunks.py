"""Reads a source chunk by chunk, in several processes, so that what is done is never done again.

Every finished chunk is a file in a folder beside the data set to be. A run that was killed finds them there.
"""

import hashlib
import json
import os
import shutil
import signal
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from partoken_jax.files import locked_by_other
from partoken_jax.prepare.records import Chunk, Contents, Plan
from partoken_jax.prepare.sources import READERS
from partoken_jax.proteins import DataError, Protein
from partoken_jax.proteins.neighbours import neighbour_table
from partoken_jax.proteins.structures import Skipped

FORMAT = "chunks of partoken prepare"
VERSION = 1
_PLAN = "plan.json"


class WorkerDiedError(DataError):
    """A process that read chunks and died, as when memory runs out; those that are finished can be kept."""


class Meta(NamedTuple):
    """What a chunk holds, but for the arrays."""

    ids: list[str]
    chains: list[str]
    lengths: list[int]
    labels: list[dict[str, tuple[str, ...]]]
    splits: list[dict[str, str]]
    skipped: list[Skipped]
    counts: Counter[str]


def is_chunk_folder(folder: Path) -> bool:
    """Whether a folder holds chunks of ours, or nothing yet, because its process was killed at once."""
    if not folder.is_dir():
        return False
    said = _read_plan(folder)
    return said.get("format") == FORMAT or {path.name for path in folder.iterdir()} <= {_PLAN}


@contextmanager
def chunk_folder(folder: Path, plan: Plan, neighbours: int) -> Iterator[int]:
    """Makes the folder, or keeps the chunks in it that another run of the same plan has finished.

    Yields how many of the source's files or proteins are in finished chunks. Until the block ends, no other
    process can have the folder. Raises DataError if one has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _PLAN).open("a+") as file:
        if locked_by_other(file):
            raise DataError(
                f"{folder}: another process is at work there; wait until it has finished, or stop it"
            )
        key = _fingerprint(plan, neighbours)
        if _read_plan(folder).get("key") != key:
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != _PLAN:
                    path.unlink()
            file.truncate(0)
            file.write(json.dumps({"format": FORMAT, "key": key}) + "\n")
            file.flush()
        for path in folder.glob("*.npz"):
            if not zipfile.is_zipfile(path):  # cut short when the machine went down
                path.unlink()
        yield sum(chunk["size"] for i, chunk in enumerate(plan.chunks) if _file(folder, i).exists())


def _read_plan(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / _PLAN).read_text())
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def read_chunks(
    folder: Path, plan: Plan, neighbours: int, workers: int, update: Callable[[int, int, int], None]
) -> None:
    """Reads every chunk that the folder lacks.

    Args:
      update: called after every chunk with how many files or proteins of the source were in it, how many
        proteins it gave, and how much was skipped.

    Raises DataError for a source that is damaged, and WorkerDiedError for a process that died.
    """
    missing = [i for i in range(len(plan.chunks)) if not _file(folder, i).exists()]
    jobs = [(plan.chunks[i], _file(folder, i), neighbours) for i in missing]
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            update(*_read(*job))
        return
    workers = min(workers, len(jobs))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_live_with_parent) as pool:
        waiting = iter(jobs)
        running = {pool.submit(_read, *job) for _, job in zip(range(2 * workers), waiting, strict=False)}
        try:
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    update(*future.result())
                running |= {pool.submit(_read, *job) for _, job in zip(finished, waiting, strict=False)}
        except BrokenProcessPool:
            raise WorkerDiedError(
                f"a process that read {plan.paths[0]} died; run the command again with --workers 1, and with "
                "fewer source files where that dies too"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def read_meta(folder: Path, plan: Plan) -> Iterator[Meta]:
    """What the chunks hold, in order."""
    for i in range(len(plan.chunks)):
        arrays = _load(_file(folder, i), ("meta", "start"))
        said = json.loads(arrays["meta"].tobytes())
        yield Meta(
            ids=said["ids"],
            chains=said["chains"],
            lengths=np.diff(arrays["start"]).tolist(),
            labels=[{column: tuple(names) for column, names in labels.items()} for labels in said["labels"]],
            splits=said["splits"],
            skipped=[Skipped(**skipped) for skipped in said["skipped"]],
            counts=Counter(said["counts"]),
        )


def read_proteins(folder: Path, plan: Plan) -> Iterator[tuple[Protein, np.ndarray]]:
    """The proteins of all chunks in order, each with its table of neighbours, int32 [L, K]."""
    for i in range(len(plan.chunks)):
        arrays = _load(_file(folder, i))
        said = json.loads(arrays["meta"].tobytes())
        for j, (name, chain) in enumerate(zip(said["ids"], said["chains"], strict=True)):
            part = slice(*arrays["start"][j : j + 2].tolist())
            protein = Protein(
                name=name,
                sequence=arrays["sequence"][part].tobytes().decode("ascii"),
                backbone=arrays["backbone"][part],
                residue_numbers=arrays["residue_number"][part],
                insertion_codes=arrays["insertion_code"][part].tobytes().decode("ascii"),
                chain=chain,
            )
            yield protein, arrays["neighbours"][part].astype(np.int32)


def _read(chunk: Chunk, target: Path, neighbours: int) -> tuple[int, int, int]:
    """Reads a chunk, computes its neighbours and writes its file; what `update` is told."""
    contents = READERS[chunk["reader"]](chunk)
    proteins = [record.protein for record in contents.records]
    tables = [neighbour_table(protein.backbone[:, 1], protein.complete, neighbours) for protein in proteins]
    arrays = {
        "start": np.cumsum([0, *map(len, proteins)], dtype=np.int64),
        "backbone": np.concatenate([np.empty((0, 4, 3), np.float32), *(p.backbone for p in proteins)]),
        "sequence": np.frombuffer("".join(p.sequence for p in proteins).encode("ascii"), np.uint8),
        "residue_number": np.concatenate([np.empty(0, np.int32), *(p.residue_numbers for p in proteins)]),
        "insertion_code": np.frombuffer(
            "".join(p.insertion_codes for p in proteins).encode("ascii"), np.uint8
        ),
        # A place in a protein of at most `MAX_LENGTH` residues, or -1.
        "neighbours": np.concatenate([np.empty((0, neighbours), np.int32), *tables]).astype(np.int16),
        "meta": np.frombuffer(json.dumps(_meta(contents)).encode(), np.uint8),
    }
    unfinished = target.with_suffix(f".{os.getpid()}")
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    os.replace(unfinished, target)
    return chunk["size"], len(proteins), sum(skipped.what != "residues" for skipped in contents.skipped)


def _meta(contents: Contents) -> dict[str, Any]:
    return {
        "ids": [record.protein.name for record in contents.records],
        "chains": [record.protein.chain for record in contents.records],
        "labels": [record.labels for record in contents.records],
        "splits": [record.splits for record in contents.records],
        "skipped": [asdict(skipped) for skipped in contents.skipped],
        "counts": contents.counts,
    }


def _load(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of a chunk by name; None for all."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in names or file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: was damaged after it was written ({error}); run the command again"
        ) from None


def _file(folder: Path, i: int) -> Path:
    return folder / f"{i:06d}.npz"


def _fingerprint(plan: Plan, neighbours: int) -> str:
    """Changes when a source file, or how it is read, does."""
    digest = hashlib.sha256(f"{VERSION} {neighbours}".encode())
    for chunk in plan.chunks:
        digest.update(json.dumps(chunk, sort_keys=True).encode())
        for path in (*(chunk.get("paths") or [chunk["path"]]), *chunk.get("beside", ())):
            try:
                status = os.stat(path)
            except OSError:
                continue  # whoever reads it says what is wrong
            # A path may be no text.
            digest.update(os.fsencode(f"{path} {status.st_size} {status.st_mtime_ns}"))
    return digest.hexdigest()


def _live_with_parent() -> None:
    """Makes a process end when the one that started it does, however that ends, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def end_with_it() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()
