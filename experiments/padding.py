"""How many padded residues a run carries: plans the batches of a whole run and counts.

python -m experiments.padding --json experiments/results/padding.json
"""

import json
import sys
from pathlib import Path

from experiments.flags import Flags, count, output, run_script
from partoken_jax import plan_batches
from partoken_jax.proteins import load_splits

DATA = Path(__file__).parent / "data" / "pdb_chains.npz"


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, default=DATA, help="The .npz file with the proteins.")
    flags.add_argument("--task", default="ec-class", help="The task, which says which proteins take part.")
    flags.add_argument("--epochs", type=int, default=150, help="Epochs of the run that is planned.")
    flags.add_argument("--batch-sizes", type=count, nargs="+", default=(16, 64), help="Proteins per step.")
    flags.add_argument(
        "--shapes", type=count, nargs="+", default=(1, 2, 4), help="At most so many batch shapes."
    )
    flags.add_argument("--json", type=output, help="The file for the result.")
    args = flags.parse_args()
    datasets = load_splits(args.data, task=args.task)
    train, validation, test = (datasets[split].lengths for split in ("train", "val", "test"))
    rows = []
    for batch_size in args.batch_sizes:
        for shapes in args.shapes:
            plan = plan_batches(
                train=train,
                validation=validation,
                test=test,
                epochs=args.epochs,
                batch_size=batch_size,
                max_shapes=shapes,
                seed=0,
            )
            rows.append(
                {
                    "batch_size": batch_size,
                    "shapes": len(plan.node_counts),
                    "node_counts": list(plan.node_counts),
                    "padding_share": plan.padding_share,
                }
            )
            print(
                f"batch {batch_size:4}  {len(plan.node_counts)} shapes  "
                f"{plan.padding_share:6.2%} padded  {plan.node_counts}",
                flush=True,
            )
    if args.json:
        content = {
            "schema": "partoken.padding/1",
            "command": " ".join(["python -m experiments.padding", *sys.argv[1:]]),
            "data": args.data.name,
            "task": args.task,
            "epochs": args.epochs,
            "proteins": {"train": len(train), "validation": len(validation), "test": len(test)},
            "rows": rows,
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
