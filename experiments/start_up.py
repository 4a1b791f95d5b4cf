"""How long a user waits before the first step is done: import, cold start, and start with a warm cache.

    python -m experiments.start_up [--repeats 3] [--json FILE]

Every figure is taken in processes of their own. The first step is a ParToken training step at batch 16 of
300 residues: importing, making proteins and weights, compiling, and running it once.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.flags import Flags, count, output, run_script
from partoken_jax.tables import markdown_table
from partoken_jax.timing.measure import summary

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "experiments" / "results" / "start_up.json"
BATCH, RESIDUES = 16, 300
NAMES = {
    "import": "`import partoken_jax`",
    "first_step_cold": "first training step, nothing compiled yet",
    "first_step_warm": "first training step, compiled programs on disk",
}

FIRST_STEP = f"""
import jax
from partoken_jax.timing_config import TimingConfig
from partoken_jax.timing.batches import timing_data
from partoken_jax.timing.programs import timing_settings, train_config
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.state import initial_state
from partoken_jax.training.step import make_train_step

use_compilation_cache()
config = TimingConfig(batch_size={BATCH}, residues={RESIDUES})
data = timing_data(config)
training = train_config(config, data, "partoken")
graphdef, state = initial_state(training)
step = make_train_step(graphdef, bypass_codebook=False)
jax.block_until_ready(step(state, jax.device_put(data.batch), timing_settings(training)))
"""


def measure(repeats: int) -> dict[str, Any]:
    """Seconds of every start, with median and quartiles."""
    seconds: dict[str, list[float]] = {"import": [], "first_step_cold": [], "first_step_warm": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            seconds["import"].append(_run("import partoken_jax", cache))
            seconds["first_step_cold"].append(_run(FIRST_STEP, cache))
            seconds["first_step_warm"].append(_run(FIRST_STEP, cache))
    rows = {}
    for name, times in seconds.items():
        found = summary(times)
        rows[name] = {"median_s": found.median, "quartiles_s": list(found.quartiles), "seconds": times}
    return rows


def _run(code: str, cache: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, env={**os.environ, "XDG_CACHE_HOME": cache}
    )
    return time.perf_counter() - start


def table(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    rows = [
        (NAMES[key], f"{row['median_s']:.2g} s", "{:.2g} to {:.2g}".format(*row["quartiles_s"]))
        for key, row in result["rows"].items()
    ]
    where = f"`{result['environment']['command']}` on {result['environment']['device']}"
    size = f"{result['batch_size']} proteins of {result['residues']} residues"
    header = ("from the start of a process to", "median", "quartiles")
    return f"{markdown_table(header, rows)}\n\n{where}: ParToken, {size}."


def main() -> int:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--repeats", type=count, default=3, help="Starts of every kind.")
    flags.add_argument("--json", type=output, default=RESULT, help="The file for the result.")
    args = flags.parse_args()
    rows = measure(args.repeats)  # before jax is imported here: it would share the processor
    from partoken_jax.training.report import environment

    result = {
        "schema": "partoken.start_up/1",
        "environment": {
            **environment(),
            "command": " ".join(["python -m experiments.start_up", *sys.argv[1:]]),
        },
        "batch_size": BATCH,
        "residues": RESIDUES,
        "rows": rows,
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in rows.items():
        print(f"{name}: {row['median_s']:.2g} s", flush=True)
    return 0


if __name__ == "__main__":
    run_script(main)
