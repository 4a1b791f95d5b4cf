"""The short chains of a data set as a file of their own, for comparisons that a CPU can finish.

    python -m experiments.short_chains --residues 150 --out runs/short_chains.npz

`experiments.learn --tasks short-chains` trains on that file. Splits are kept. Classes are counted anew,
because those with too few chains in a file are left out of its task.
"""

from pathlib import Path

import numpy as np

from experiments.flags import Flags, count, output, run_script
from experiments.learn import CHAINS
from partoken_jax.progress import say


def shortened(arrays: dict[str, np.ndarray], residues: int) -> dict[str, np.ndarray]:
    """The arrays of a data set (experiments/data/README.md) without chains of more than so many residues."""
    length = arrays["length"]
    kept = length <= residues
    of_kept = np.repeat(kept, length)
    by_size = {len(kept): lambda a: a[kept], len(of_kept): lambda a: a[..., of_kept]}
    return {name: by_size.get(a.shape[-1] if a.ndim else 0, lambda a: a)(a) for name, a in arrays.items()}


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, default=CHAINS, help="The data set.")
    flags.add_argument("--residues", type=count, default=150, help="Of the longest chain that is kept.")
    flags.add_argument("--out", type=output, required=True, help="Where the file goes.")
    args = flags.parse_args()
    with np.load(args.data, allow_pickle=False) as stored:
        kept = shortened(dict(stored), args.residues)
    np.savez_compressed(args.out, **kept)  # type: ignore[arg-type]  # numpy's stub takes them for a flag
    say(f"{args.out}: {len(kept['length'])} chains, {int(kept['length'].sum())} residues")


if __name__ == "__main__":
    run_script(main)
