"""What page faults cost a training step on a CPU, and what the settings of glibc's malloc change.

    python -m experiments.page_faults [--batch-size 16] [--repeats 10] [--json FILE]

A step's temporaries are asked for anew at every step, and the kernel hands out fresh pages with a fault for
each unless malloc has kept them. One process for every setting, all of them alive, taking turns step by step.
"""

import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from experiments.compare.process import ALLOCATOR
from experiments.flags import Flags, count, output, run_script
from partoken_jax.tables import markdown_table
from partoken_jax.timing.measure import ratio, summary

ROOT = Path(__file__).parents[1]
RESIDUES = 300
KEPT = {name: value for name, value in ALLOCATOR.items() if name.startswith("MALLOC_")}
MAPPED = {name: value for name, value in KEPT.items() if "MMAP" in name}
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {},
    "MMAP_THRESHOLD of 4 GiB": MAPPED,
    "and TRIM_THRESHOLD of 8 GiB": KEPT,
    "both, and ARENA_MAX of 1": {**KEPT, **ONE_ARENA},
    "ARENA_MAX of 1": ONE_ARENA,
}
WARM_UP = 2


def worker(batch_size: int) -> None:
    """Runs a step for every line that comes in; answers with its seconds, faults and peak memory."""
    import resource

    import jax

    from partoken_jax.timing.batches import timing_data
    from partoken_jax.timing.programs import timing_settings, train_config
    from partoken_jax.timing_config import TimingConfig
    from partoken_jax.training.compilation_cache import use_compilation_cache
    from partoken_jax.training.state import initial_state
    from partoken_jax.training.step import make_train_step

    use_compilation_cache()
    config = TimingConfig(batch_size=batch_size, residues=RESIDUES)
    data = timing_data(config)
    training = train_config(config, data, "gvp")
    graphdef, state = initial_state(training)
    step, graph = make_train_step(graphdef, bypass_codebook=False), jax.device_put(data.batch)
    for _ in sys.stdin:
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        state, _ = jax.block_until_ready(step(state, graph, timing_settings(training)))
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        row = {
            "seconds": seconds,
            "faults": after.ru_minflt - before.ru_minflt,
            "system_s": after.ru_stime - before.ru_stime,
            "peak_bytes": 1024 * after.ru_maxrss,
        }
        print(json.dumps(row), flush=True)


def measure(batch_size: int, repeats: int) -> list[dict[str, Any]]:
    """A row for every setting; ratios are pair by pair to the steps without any."""
    command = [sys.executable, "-m", "experiments.page_faults", "--worker", "--batch-size", str(batch_size)]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    workers = {
        name: subprocess.Popen(
            command, cwd=ROOT, env={**bare, **env}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name, env in SETTINGS.items()
    }
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    try:
        for turn in range(WARM_UP + repeats):
            for name, process in workers.items():
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write("step\n")
                process.stdin.flush()
                row = json.loads(process.stdout.readline())
                if turn >= WARM_UP:
                    steps[name].append(row)
            print(f"round {turn + 1} of {WARM_UP + repeats}", flush=True)
    finally:
        for process in workers.values():
            process.kill()
            process.wait()
    times = {name: summary([step["seconds"] for step in of]) for name, of in steps.items()}
    first = times[next(iter(times))]
    return [
        {
            "setting": name,
            "environment": SETTINGS[name],
            "median_ms": 1e3 * times[name].median,
            "quartiles_ms": [1e3 * q for q in times[name].quartiles],
            "over_none": ratio(times[name], first),
            "faults": summary([step["faults"] for step in of]).median,
            "system_ms": 1e3 * summary([step["system_s"] for step in of]).median,
            "peak_bytes": max(step["peak_bytes"] for step in of),
        }
        for name, of in steps.items()
    ]


def table(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    rows = [
        (
            row["setting"],
            f"{row['faults']:,.0f}",
            f"{row['system_ms']:,.0f} ms",
            f"{row['median_ms']:,.0f} ms",
            f"{row['over_none']['median']:.2f}",
            "{:.2f} to {:.2f}".format(*row["over_none"]["quartiles"]),
            f"{row['peak_bytes'] / 1e9:.2f} GB",
        )
        for row in result["rows"]
    ]
    header = ("malloc", "faults a step", "in the kernel", "step", "ratio", "quartiles", "peak memory")
    size = f"{result['batch_size']} × {result['residues']} residues"
    where = f"`{result['environment']['command']}` on {result['device']}, {result['repeats']} steps each"
    caption = textwrap.fill(f"{where}: GVP's training step, {size}.", 118, break_on_hyphens=False)
    return f"{markdown_table(header, rows, 'lrrrrrr')}\n\n{caption}"


def main() -> int:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--batch-size", type=count, default=16, help="Proteins in a step.")
    flags.add_argument("--repeats", type=count, default=10, help="Timed steps of every setting.")
    flags.add_argument("--json", type=output, help="The file for the result.")
    flags.add_argument("--worker", action="store_true", help="Be one of the processes that are timed.")
    args = flags.parse_args()
    if args.worker:
        worker(args.batch_size)
        return 0
    rows = measure(args.batch_size, args.repeats)
    from partoken_jax.training.report import environment
    from partoken_jax.training.tuned_forms import device_kind

    result = {
        "schema": "partoken.page_faults/1",
        "environment": {
            **environment(),
            "command": " ".join(["python -m experiments.page_faults", *sys.argv[1:]]),
        },
        "device": device_kind(),
        "batch_size": args.batch_size,
        "residues": RESIDUES,
        "repeats": args.repeats,
        "rows": rows,
    }
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


if __name__ == "__main__":
    run_script(main)
