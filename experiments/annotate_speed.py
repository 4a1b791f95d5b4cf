"""How fast proteins are annotated, and whether memory grows with their number.

    python -m experiments.annotate_speed --json experiments/results/annotate_speed.json

The proteins are the test split of the enzyme task. Annotations are written into a folder, as `partoken
annotate` does. They are annotated twice in one process: the first time programs are compiled, the second time
is the steady state. For memory, chains are cropped to 60 residues, and every number of them gets a process of
its own.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.flags import Flags, count, output, run_script
from experiments.learn import CHAINS
from partoken_jax.progress import say
from partoken_jax.proteins import Protein, load_dataset
from partoken_jax.version import __version__

SHORT = 60
"""Residues of the chains that memory is measured with."""
DISTINCT = 500
"""Chains that there are; more of them are the same ones under other names."""


def annotate_all(model: Any, proteins: Sequence[Protein]) -> float:
    """Annotates proteins into a temporary folder; returns the seconds."""
    from partoken_jax.interpret.annotate import annotate
    from partoken_jax.interpret.write import AnnotationFolder

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, AnnotationFolder(Path(name), model.class_names) as folder:
        for annotation in annotate(proteins, model):
            folder.add(annotation)
        folder.finish({}, [])
    return time.perf_counter() - start


def speed(data: Path) -> dict[str, Any]:
    """Seconds for the test split of the enzyme task, with and without compilation."""
    import jax

    from partoken_jax.pretrained import load_model

    proteins = load_dataset(data, task="ec-class", split="test").proteins
    model, residues = load_model(), int(sum(map(len, proteins)))
    jax.config.update("jax_enable_compilation_cache", False)
    first, second = annotate_all(model, proteins), annotate_all(model, proteins)
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "partoken_jax": __version__,
        "proteins": len(proteins),
        "residues": residues,
        "seconds_with_compilation": round(first, 2),
        "seconds": round(second, 2),
        "proteins_per_second": round(len(proteins) / second, 2),
        "residues_per_second": round(residues / second, 1),
    }


def memory(data: Path, number: int) -> dict[str, Any]:
    """Peak of the memory of this process after so many chains were annotated."""
    from partoken_jax.pretrained import load_model

    chains = [p for p in load_dataset(data, task="ec-class", split="train").proteins if len(p) >= SHORT]
    chains = [chain.cropped(SHORT) for chain in chains[:DISTINCT]]
    named = (dataclasses.replace(chains[i % len(chains)], name=f"chain {i}") for i in range(number))
    seconds = annotate_all(load_model(), list(named))
    return {
        "proteins": number,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": round(seconds, 2),
    }


def sentence(results: dict[str, Any]) -> str:
    """What was measured, for a reader."""
    speed, memory = results["speed"], results["memory"]
    peaks = ", ".join(f"{row['peak_bytes'] / 1e6:,.0f} MB after {row['proteins']:,}" for row in memory)
    return (
        f"On a {speed['device'].upper()} with 2 shared cores, {speed['proteins']} enzymes of "
        f"{speed['residues'] / speed['proteins']:.0f} residues on average took {speed['seconds']:.0f} s, "
        f"{speed['proteins_per_second']:.0f} proteins a second, and "
        f"{speed['seconds_with_compilation']:.0f} s the first time, with compilation. Peak memory "
        f"was {peaks} chains of {SHORT} residues "
        f"(`{results['command']}`)."
    )


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, default=CHAINS, help="The data set.")
    flags.add_argument("--numbers", type=count, nargs="+", default=[500, 2_000, 10_000], help="Of chains.")
    flags.add_argument("--memory-of", type=count, help="Measures this number alone and prints it.")
    flags.add_argument("--json", type=output, help="Where the results go.")
    args = flags.parse_args()
    if args.memory_of is not None:
        print(json.dumps(memory(args.data, args.memory_of)))
        return
    results: dict[str, Any] = {
        "schema": "partoken.annotate_speed/1",
        "command": " ".join(["python -m experiments.annotate_speed", *sys.argv[1:]]),
        "memory": [],
    }
    # Before this process grows: a child counts the peak of its parent as its own.
    for number in args.numbers:
        words = [sys.executable, "-m", "experiments.annotate_speed", "--data", str(args.data)]
        done = subprocess.run(
            [*words, "--memory-of", str(number)], check=True, capture_output=True, text=True
        )
        results["memory"].append(json.loads(done.stdout.splitlines()[-1]))
        say(json.dumps(results["memory"][-1]))
    results["speed"] = speed(args.data)
    say(json.dumps(results["speed"]))
    peaks = np.array([row["peak_bytes"] for row in results["memory"]])
    results["growth"] = round(float(peaks[-1] / peaks[0]), 3)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
