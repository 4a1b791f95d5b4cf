"""From sources of proteins to a prepared set: what `partoken prepare` does."""

import contextlib
import csv
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, fields
from itertools import tee
from pathlib import Path
from typing import Any

from partoken_jax.config import ConfigError
from partoken_jax.prepare.chunks import (
    WorkerDiedError,
    chunk_folder,
    is_chunk_folder,
    read_chunks,
    read_proteins,
)
from partoken_jax.prepare.gather import Gathered, gather, label_columns, split_schemes
from partoken_jax.prepare.records import Plan
from partoken_jax.prepare.sources import plan_sources
from partoken_jax.progress import Update, progress
from partoken_jax.proteins import DataError
from partoken_jax.proteins.prepared import FORMAT, checksum, write_prepared
from partoken_jax.proteins.structure_formats import text_of
from partoken_jax.proteins.structures import Skipped

SKIPPED = "skipped.csv"
MOST_NEIGHBOURS = 1000
MOST_WORKERS = 1024


def prepare(
    sources: Sequence[str],
    out: str | Path,
    *,
    labels: str | Path | None = None,
    chains: Sequence[str] | None = None,
    root: str | Path | None = None,
    split: Sequence[float] | None = None,
    seed: int = 0,
    neighbours: int = 30,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the folder `out` in the format that docs/guide/data.md describes, and prints a summary.

    A run that was stopped, or lost a process, leaves `<out>.partial`, and the same call goes on from there.

    Args:
      sources: structure files and folders of them; or one .npz file, one of ProteinShake's releases
        (`proteinshake.RELEASES`) or one folder of BioBlobs.
      labels: CSV file with the labels of structure files.
      chains: author's names of the chains to take from structure files; None for all.
      root: folder of ProteinShake's files; None for `data`.
      split: shares of training, validation and test for a source without splits.
      seed: draws these splits.
      neighbours: K.
      workers: processes; None for one per core. Their number changes nothing in the result.
      overwrite: whether to replace `out` if it is a prepared set.

    Raises ConfigError for a setting and DataError for data that cannot be used; nothing is left behind then.
    Raises WorkerDiedError, a DataError, for a process that died; what is finished is left then.
    """
    out = Path(out)
    _check(out, split, seed, neighbours, workers, overwrite)
    plan = plan_sources(
        sources,
        labels=None if labels is None else Path(labels),
        chains=chains,
        root=None if root is None else Path(root),
    )
    if split is not None and plan.has_splits:
        raise ConfigError(f"split is given, but {plan.paths[0]} brings splits of its own; leave out --split")
    folder = out.with_name(f"{out.name}.partial")
    made = [path for path in out.absolute().parents if not path.exists()]
    total = sum(chunk["size"] for chunk in plan.chunks)
    with chunk_folder(folder, plan, neighbours) as done:
        if done:
            print(f"{folder}: going on after {done:,} of {total:,} {plan.unit}", flush=True)
        try:
            with progress(total, "reading", unit=plan.unit, done=done) as update:
                read_chunks(folder, plan, neighbours, workers or os.cpu_count() or 1, _counting(update))
            said = _write(folder, plan, split, seed, neighbours)
            _check(out, split, seed, neighbours, workers, overwrite)  # others may have been there meanwhile
            if out.exists():
                os.rename(out, folder / "replaced")
            os.rename(folder / "dataset", out)
        except (KeyboardInterrupt, OSError, WorkerDiedError):  # a full disk or memory, for instance
            print(f"{folder}: unfinished; the same command goes on from there", flush=True)
            raise
        except DataError:
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):  # others may have come to use them
                for path in made:
                    path.rmdir()
            raise
        shutil.rmtree(folder)
    print("\n".join([*said, f"wrote {out}"]), flush=True)


def _counting(update: Update) -> Callable[[int, int, int], None]:
    """Shows the proteins and what was skipped, both since the start of this process."""
    proteins = skipped = 0

    def count(size: int, new_proteins: int, new_skipped: int) -> None:
        nonlocal proteins, skipped
        proteins, skipped = proteins + new_proteins, skipped + new_skipped
        update(size, proteins=f"{proteins:,}", skipped=f"{skipped:,}")

    return count


def _check(
    out: Path,
    split: Sequence[float] | None,
    seed: int,
    neighbours: int,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Raises ConfigError for a setting that cannot be used, or a folder that is not ours to write."""
    if not 1 <= neighbours <= MOST_NEIGHBOURS:
        raise ConfigError(f"neighbours is {neighbours}, but must be 1 to {MOST_NEIGHBOURS}")
    if workers is not None and not 1 <= workers <= MOST_WORKERS:
        raise ConfigError(f"workers is {workers}, but must be 1 to {MOST_WORKERS}")
    if seed < 0:
        raise ConfigError(f"seed is {seed}, but must be a whole number of at least 0")
    if split is not None and not (
        len(split) == 3 and all(share >= 0 for share in split) and math.isclose(sum(split), 1)
    ):
        shown = ",".join(f"{share:g}" for share in split)
        raise ConfigError(
            f"split is {shown}, but must be the shares of training, validation and test, which add up to 1"
        )
    if not out.name:
        raise ConfigError(f"{out}: is no name for a folder; name one")
    above = next(path for path in out.absolute().parents if path.exists())
    if not above.is_dir():
        raise ConfigError(f"{out}: {above} is a file; name another folder")
    if out.exists():
        if not _is_prepared(out):
            raise ConfigError(
                f"{out}: exists and is not a prepared set, so it is left alone; name another folder"
            )
        if not overwrite:
            raise ConfigError(
                f"{out}: is already prepared; name another folder, or replace it with --overwrite"
            )
        if others := _others(out):
            raise ConfigError(
                f"{out}: holds {', '.join(others[:3])} beside the prepared set, so it is left alone; move "
                "what is not of the set away, or name another folder"
            )
    folder = out.with_name(f"{out.name}.partial")
    if folder.exists() and not is_chunk_folder(folder):
        raise ConfigError(
            f"{folder}: is needed for unfinished work, but something else is there; move it away"
        )


def _is_prepared(path: Path) -> bool:
    try:
        return json.loads((path / "dataset.json").read_text())["format"] == FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _others(out: Path) -> list[str]:
    """The files in the folder of a prepared set that are none of its own."""
    ours = {"dataset.json", SKIPPED, *json.loads((out / "dataset.json").read_text()).get("files", ())}
    there = (str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir())
    return sorted(name for name in there if name not in ours)


def _write(folder: Path, plan: Plan, split: Sequence[float] | None, seed: int, neighbours: int) -> list[str]:
    """Writes the set into the folder of the chunks. Returns the lines that sum it up."""
    from partoken_jax.prepare.summary import lines, summarise  # it needs jax, which the workers do not

    found = gather(folder, plan)
    columns, schemes = label_columns(found, plan), split_schemes(found, split, seed)
    summary = summarise(found, columns, schemes)
    proteins, tables = _unzip(read_proteins(folder, plan))
    target = folder / "dataset"
    shutil.rmtree(target, ignore_errors=True)  # of a run that was killed here
    write_prepared(
        target,
        proteins,
        labels=columns,
        splits=schemes,
        neighbours=neighbours,
        tables=tables,
        sources=[_source(path, plan.kind) for path in plan.paths],
        skipped=[asdict(entry) for entry in found.skipped if entry.what != "residues"],
        summary=summary,
    )
    _write_skipped(target / SKIPPED, found)
    return lines(found, columns, schemes, summary)


def _unzip(pairs: Iterator[tuple[Any, Any]]) -> tuple[Iterator[Any], Iterator[Any]]:
    first, second = tee(pairs)
    return (a for a, _ in first), (b for _, b in second)


def _source(path: str, kind: str) -> dict[str, Any]:
    """What dataset.json says of a source."""
    place = Path(path).absolute()
    said: dict[str, Any] = {"kind": kind, "path": text_of(str(place))}
    return said | ({"bytes": place.stat().st_size, "sha256": checksum(place)} if place.is_file() else {})


def _write_skipped(path: Path, found: Gathered) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(field.name for field in fields(Skipped))
        writer.writerows(astuple(entry) for entry in found.skipped)
