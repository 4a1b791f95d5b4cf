"""The timing analysis of both models, in place of the published one.

    python -m experiments.timing_analysis [NAME ... | flags of `partoken time`]

A name is one of RUNS; without anything, all of them run, into experiments/results/timing/. Then
`python -m experiments.docs` fills the documents from what is there.
"""

import sys

from partoken_jax.cli import main

RESULTS = "experiments/results/timing"
EC = ("--data", "experiments/data/pdb_chains.npz")
STEP = ("--passes", "train_step", "--no-gap")
RUNS = {
    "batch16": (
        *(*EC, "--batch-size", "16", "--passes", "forward,forward_backward,train_step,epoch"),
        *("--epoch-batches", "16", "--sweeps", "rematerialisation,clusters"),
    ),
    "batch4_300": (
        *("--batch-size", "4", "--residues", "300", *STEP),
        *("--repeats", "30", "--sweeps", "plain"),
    ),
    "batch16_300": ("--batch-size", "16", "--residues", "300", *STEP, "--sweeps", "plain"),
    "batch64": (*EC, "--batch-size", "64", *STEP, "--repeats", "5"),
    "settings": (*EC, "--batch-size", "16", *STEP, "--repeats", "7", "--sweeps", "backward,precision"),
    "lengths": ("--batch-size", "4", *STEP, "--repeats", "5", "--sweeps", "length"),
    "batches": (*EC, "--batch-size", "4", *STEP, "--repeats", "3", "--sweeps", "batch"),
}


def run(name: str) -> int:
    """Runs one of RUNS; its results go to files of its name."""
    files = ("--json", f"{RESULTS}/{name}.json", "--markdown", f"{RESULTS}/{name}.md")
    return main(["time", *RUNS[name], *files])


if __name__ == "__main__":
    given = sys.argv[1:]
    if given and given[0].startswith("-"):
        sys.exit(main(["time", *given]))
    if unknown := [name for name in given if name not in RUNS]:
        sys.exit(f"error: no run is called {', '.join(unknown)}; there are {', '.join(RUNS)}")
    sys.exit(max(run(name) for name in given or RUNS))
