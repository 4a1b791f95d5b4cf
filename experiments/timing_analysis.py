"""The timing analysis of both models, in place of the published one.

    python -m experiments.timing_analysis [flags of `partoken time`]

Without flags: both models, every pass and every sweep, on the EC task, into experiments/results/timing/; then
`python -m experiments.timing_docs` writes docs/TIMING.md from what is there.
"""

import sys

from partoken_jax.cli import main

BATCH = 16
RESULTS = "experiments/results/timing"
DEFAULTS = [
    *("--data", "experiments/data/pdb_chains.npz", "--batch-size", str(BATCH)),
    *("--passes", "forward,forward_backward,train_step,epoch", "--epoch-batches", "24"),
    *("--sweeps", "rematerialisation,clusters,length,batch"),
    *("--json", f"{RESULTS}/batch{BATCH}.json", "--markdown", f"{RESULTS}/batch{BATCH}.md"),
]

if __name__ == "__main__":
    sys.exit(main(["time", *(sys.argv[1:] or DEFAULTS)]))
