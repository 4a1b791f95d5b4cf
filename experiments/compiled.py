"""Both models' steps compiled for TPUs and GPUs that need not be there: memory, bytes, work, collectives.

    pip install -e '.[tpu]'       # for the TPUs; '.[cuda13]' for the H100; one Python may have both or either
    python -m experiments.compiled --device v5e h100 [--model gvp] [--pass train_step] [--precision float32]

Nothing is run on a device: every number is what XLA's compiler for the device says, or arithmetic over it. A
program's row goes to a file of its own as soon as it is there, and a row that is there is not made again;
delete its file for that. A full training step takes a TPU's compiler three to eight minutes of one core, an
H100's about one. `--small` compiles a small model on small proteins, in about a minute.
"""

import gzip
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.flags import Flags, run_script
from experiments.result_files import RESULTS
from partoken_jax.config import ModelConfig
from partoken_jax.files import write_whole
from partoken_jax.timing.compiled import (
    DEVICES,
    CompiledFor,
    compile_step,
    missing_compiler,
    program_cost_on,
    use_compilers,
)

SCHEMA = "partoken.compiled/1"
ASKED = ("v5e", "v5e-8", "h100")
"""The devices for which every program is wanted; the others are compiled for where they are named."""
MODELS = ("gvp", "partoken")
PASSES = ("train_step", "forward")
PRECISIONS = ("float32", "bfloat16")
FORMS = ("dense", "blocks", "fused")
"""Ways to compute the messages that are compiled (`model.message_passing`): the first for GPUs, the others
for TPUs."""
PROTEINS, RESIDUES = 64, 300
SMALL_PROTEINS, SMALL_RESIDUES = 16, 40
SMALL_MODEL: Mapping[str, Any] = {"node_hidden": (16, 4), "edge_hidden": (8, 1), "num_layers": 2}
KEYS = ("device", "model", "pass", "precision", "form")
"""What tells rows apart."""


def program(row: Mapping[str, str], small: bool) -> CompiledFor:
    """Compiles what a row is about."""
    settings: dict[str, Any] = dict(SMALL_MODEL) if small else {}
    settings |= {"precision": row["precision"], "message_passing": row["form"]}
    model = ModelConfig(**settings)
    return compile_step(
        DEVICES[row["device"]],
        row["pass"],  # type: ignore[arg-type]
        row["model"],  # type: ignore[arg-type]
        model,
        proteins=SMALL_PROTEINS if small else PROTEINS,
        residues=SMALL_RESIDUES if small else RESIDUES,
    )


def possible(row: Mapping[str, str]) -> bool:
    """Whether there is such a program: every platform has its forms."""
    return (row["form"] == "dense") == (DEVICES[row["device"]].platform == "cuda")


def kept_program(row: Mapping[str, str], small: bool, folder: Path | None) -> CompiledFor:
    """The same from `folder`, where an earlier call left it, else compiled and left there."""
    if folder is None:
        return program(row, small)
    name = file_name(row) + ("_small" if small else "")
    text, facts = folder / f"{name}.hlo.gz", folder / f"{name}.json"
    if text.is_file():
        return CompiledFor(gzip.decompress(text.read_bytes()).decode(), json.loads(facts.read_text()))
    found = program(row, small)
    folder.mkdir(parents=True, exist_ok=True)
    facts.write_text(json.dumps(found.facts))
    text.write_bytes(gzip.compress(found.text.encode()))
    return found


def file_name(row: Mapping[str, str]) -> str:
    """Of a row, without its ending."""
    return "_".join(row[key] for key in KEYS)


def finished_row(row: Mapping[str, str], small: bool, found: CompiledFor) -> dict[str, Any]:
    """What a program was and what it costs, on one chip of its device."""
    device = DEVICES[row["device"]]
    flags = " ".join(f"--{key} {row[key]}" for key in KEYS)
    return {
        **row,
        "run": False,
        "chips": device.chips,
        "proteins": SMALL_PROTEINS if small else PROTEINS,
        "residues": SMALL_RESIDUES if small else RESIDUES,
        "memory_bytes": device.memory_bytes,
        **found.facts,
        **program_cost_on(device, row["precision"], found.text),  # type: ignore[arg-type]
        "command": f"python -m experiments.compiled {flags}" + " --small" * small,
    }


def write_summary(out: Path) -> None:
    """All rows that are there, in the order of the tables, with what every device is taken to be able to
    do."""
    # Other results lie there too; only a row is named after its device.
    files = [path for path in out.glob("*.json") if path.name.startswith(tuple(f"{d}_" for d in DEVICES))]
    rows = [json.loads(path.read_text()) for path in files]
    order = [list(DEVICES), list(MODELS), list(PASSES), list(PRECISIONS), list(FORMS)]

    def place(row: Mapping[str, str]) -> tuple:
        return tuple(names.index(row[key]) for key, names in zip(KEYS, order, strict=True))

    summary = {
        "schema": SCHEMA,
        "command": "python -m experiments.compiled",
        "run": False,
        "devices": {name: device._asdict() for name, device in DEVICES.items()},
        "rows": sorted(rows, key=place),
    }
    write_whole(out / "summary.json", json.dumps(summary, indent=1) + "\n")


def compile_all(wanted: Sequence[Mapping[str, str]], out: Path, small: bool, keep: Path | None) -> None:
    """Makes every row that is not there yet, and the summary."""
    out.mkdir(parents=True, exist_ok=True)
    for row in wanted:
        target = out / f"{file_name(row)}.json"
        if target.is_file():
            print(f"{file_name(row)}: was there", flush=True)
            continue
        start = time.monotonic()
        print(f"{file_name(row)} ...", flush=True)
        done = finished_row(row, small, kept_program(row, small, keep))
        write_whole(target, json.dumps(done, indent=1) + "\n")
        write_summary(out)
        print(
            f"{file_name(row)}: compiled, not run, in {time.monotonic() - start:.0f} s; peak memory "
            f"{done['peak_bytes'] / 1e9:.2f} GB, {done['bytes'] / 1e9:.2f} GB moved, "
            f"{done['flops'] / 1e9:.1f} GFLOP, estimate {done['estimate_ms']:.2f} ms",
            flush=True,
        )
    write_summary(out)


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    choices: dict[str, Sequence[str]] = dict(
        zip(KEYS, (tuple(DEVICES), MODELS, PASSES, PRECISIONS, FORMS), strict=True)
    )
    for key, names in choices.items():
        flags.add_argument(
            f"--{key}", nargs="+", choices=names, default=names, help=f"The {key} of a program."
        )
    flags.set_defaults(device=None)  # those of `ASKED` that this Python can compile for
    flags.add_argument("--small", action="store_true", help="A small model on 16 proteins of 40 residues.")
    flags.add_argument(
        "--out", type=Path, help="The folder for the rows, by default the results, or runs/compiled_small."
    )
    flags.add_argument("--keep", type=Path, help="Where compiled texts stay, to be read again by other code.")
    args = flags.parse_args()
    use_compilers()
    missing = {name: said for name in DEVICES if (said := missing_compiler(DEVICES[name]))}
    args.device = args.device or [name for name in ASKED if name not in missing]
    if args.keep is None and (absent := [name for name in args.device or ASKED if name in missing]):
        flags.exit(2, f"error: {missing[absent[0]]}\n")
    out = args.out or (Path("runs/compiled_small") if args.small else RESULTS / "compiled")
    named: dict[str, Sequence[str]] = {key: getattr(args, key) for key in KEYS}
    rows = [dict(zip(KEYS, values, strict=True)) for values in itertools.product(*named.values())]
    wanted = [row for row in rows if possible(row)]
    compile_all(wanted, out, args.small, args.keep)


if __name__ == "__main__":
    run_script(main)
