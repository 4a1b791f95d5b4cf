"""Do the clusters of a model find catalytic residues? Those of M-CSA, in the chains of a file.

    python -m experiments.sites --data experiments/data/pdb_chains.npz

The package `enzymm` carries the list: `pip install -e '.[sites]'`. The model was trained to tell the CATH
architecture from the backbone alone; nobody told it of function.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from experiments.flags import Flags, count, output, run_script
from experiments.relatives import DATA, groups
from experiments.timing_tables import wrapped
from partoken_jax.interpret.mcsa import match_sites, mcsa_file, read_mcsa
from partoken_jax.interpret.site_table import NAMES, sites_table, verdict
from partoken_jax.interpret.sites import count_all, site_report
from partoken_jax.pretrained import load_model
from partoken_jax.progress import say
from partoken_jax.proteins import Protein, load_splits
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.report import environment

RESULT = Path(__file__).parent / "results" / "sites.json"
TASKS = ("ec-class", "cath-class")
"""Every chain of the file takes part in one of them."""
HELD_OUT = ("val", "test")


def all_chains(path: Path | None) -> tuple[dict[str, Protein], set[str]]:
    """All chains of a file by name, and the names of those that are not for training."""
    found, held_out = {}, set()
    for task in TASKS:
        for split, dataset in load_splits(path, task=task, splits=("train", "val", "test")).items():
            for protein in dataset.proteins:
                found[protein.name] = protein
                if split in HELD_OUT:
                    held_out.add(protein.name)
    return found, held_out


def measure(source: str | None, path: Path | None, draws: int) -> dict[str, Any]:
    """The numbers of the result."""
    proteins, held_out = all_chains(path)
    matched = match_sites(read_mcsa(mcsa_file()), proteins.values())
    say(f"{matched.matched} of {matched.asked} catalytic residues found in {len(matched.sites)} chains")
    model = load_model(source)
    counts = count_all(model, list(proteins.values()), matched.sites, draws)
    reports = {}
    for name, chosen in (("all", list(counts)), ("held_out", [n for n in counts if n in held_out])):
        relatives = groups(chosen, path=DATA if path is None else path)
        reports[name] = site_report([counts[n] for n in chosen], relatives)
    return {
        "model": Path(model.source).stem if source is None else source,
        "task": model.task,
        "epoch": model.epoch,
        "enzymm": version("enzymm"),
        "draws": draws,
        "asked": matched.asked,
        "matched": matched.matched,
        "unmatched": matched.unmatched,
        **reports,
    }


def matched(result: dict[str, Any]) -> str:
    """How many of M-CSA's residues were found, and how the numbers were made."""
    outside = sum(why.endswith("outside the chain") for why in result["unmatched"])
    return (
        f"{result['matched']:,} of the {result['asked']:,} catalytic residues that M-CSA (enzymm "
        f"{result['enzymm']}) lists for these chains are found in {result['all']['proteins']} of them by "
        f"number and type; {outside} of the others lie outside the stretch of the chain that the file holds. "
        f"Random clusters are drawn {result['draws']:,} times for every chain. Model: {result['model']}, "
        f"epoch {result['epoch']}. `{result['command']}`"
    )


def text(result: dict[str, Any], which: str) -> str:
    """What holds of some chains, and the table."""
    report = {"draws": result["draws"], **result[which]}
    return f"{wrapped(verdict(report))}\n\n{sites_table(report)}"


def report(result: dict[str, Any], picture: str) -> str:
    """A result as a document."""
    return "\n\n".join(
        [
            "# Catalytic residues in clusters",
            wrapped(matched(result)),
            "## All chains",
            text(result, "all"),
            "## Chains that are held out of training",
            text(result, "held_out"),
            f"![shares and recall]({picture})\n",
        ]
    )


def draw(result: dict[str, Any], path: Path) -> None:
    """Shares of catalytic residues against random clusters, and recall by coverage, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (bars, curves) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    chains = {"all": "all chains", "held_out": "held-out chains"}
    for offset, which in zip((-0.18, 0.18), chains, strict=True):
        rows = [result[which][what] for what in ("clusters", "top")]
        value, low, high = np.array([row["share"] for row in rows]).T
        at = np.arange(2) + offset
        bars.bar(at, value, 0.34, yerr=(value - low, high - value), capsize=3, label=chains[which])
        bars.plot(at, [row["random"] for row in rows], "k_", ms=22, mew=2)
    bars.set_xticks(range(2), ["any cluster", "most important cluster"])
    bars.set(ylabel="share of catalytic residues", title="black: random clusters of the same sizes")
    bars.legend(frameon=False)
    report = result["all"]
    for name, rows in report["recall"].items():
        value, low, high = np.array(rows).T
        curves.plot(report["coverages"], value, marker="o", label=NAMES[name])
        curves.fill_between(report["coverages"], low, high, alpha=0.2)
    curves.plot([0, 0.5], [0, 0.5], color="grey", ls=":", label="chance")
    curves.set(xlabel="share of residues taken", ylabel="recall of catalytic residues", title="all chains")
    curves.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument(
        "--model", help="Model: a name, a file or the directory of a run; that of the package."
    )
    flags.add_argument("--data", type=Path, help="File with the chains (.npz); those of the package.")
    flags.add_argument("--draws", type=count, default=1000, help="Times that random clusters are drawn.")
    flags.add_argument("--json", type=output, default=RESULT, help="The file for the result.")
    args = flags.parse_args()
    use_compilation_cache()
    measured = measure(args.model, args.data, args.draws)
    result = json.loads(json.dumps({
        "schema": "partoken.sites/1",
        "command": " ".join(["python -m experiments.sites", *sys.argv[1:]]),
        "environment": environment(),
        **measured,
    }))  # fmt: skip
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, args.json.with_suffix(".png"))
    args.json.with_suffix(".md").write_text(report(result, args.json.with_suffix(".png").name))
    print(text(result, "all"), flush=True)


if __name__ == "__main__":
    run_script(main)
