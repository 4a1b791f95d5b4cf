"""Does a model cut a protein the same way twice, and do its tokens go with the CATH class?

    python -m experiments.stability --data experiments/data/pdb_chains.npz

Over the models of NMR entries, under noise on the backbone, and over training seeds where --models names the
models of several. Tokens of test chains against CATH class and architecture, and against shuffled labels.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import normalized_mutual_info_score

from experiments.flags import Flags, count, output, run_script
from experiments.timing_tables import wrapped
from partoken_jax.interpret.bootstrap import mean_estimate
from partoken_jax.interpret.purity import association, purity
from partoken_jax.interpret.random_clusters import grow_random
from partoken_jax.interpret.stability import (
    Agreement,
    agreement,
    agreement_of_all,
    mean_agreement,
    noisy,
    same_tokens,
)
from partoken_jax.pretrained import load_model
from partoken_jax.progress import say
from partoken_jax.proteins import Protein, ProteinDataset, load_dataset, subset
from partoken_jax.proteins.neighbours import neighbour_table
from partoken_jax.proteins.structures import read_structure
from partoken_jax.tables import markdown_table
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.report import environment
from partoken_jax.training.trained import Prediction, TrainedModel

RESULT = Path(__file__).parent / "results" / "stability.json"
NMR = Path(__file__).parent / "data" / "nmr"
"""Backbones of NMR entries of the PDB, one chain each."""
NOISE = ((0.1, False), (0.3, False), (0.3, True))
"""Its size in Å, and whether all atoms of a residue move alike."""


def nmr_models(path: Path) -> list[Protein]:
    """The models of an entry that holds one chain."""
    return read_structure(path, models="all").proteins


def random_reference(proteins: Sequence[Protein], said: Sequence[Prediction], neighbours: int) -> Agreement:
    """Mean agreement of the model's clusters with clusters of the same sizes grown at random."""
    pairs = []
    for place, (protein, prediction) in enumerate(zip(proteins, said, strict=True)):
        sizes = np.bincount(prediction.clusters + 1)[1:]
        table = neighbour_table(protein.backbone[:, 1], protein.complete, neighbours)
        drawn = grow_random(table, sizes[sizes > 0].tolist(), 5, np.random.default_rng(place))
        pairs += [agreement(prediction.clusters, clusters) for clusters in drawn]
    return mean_agreement(pairs)


def over_nmr(model: TrainedModel) -> list[dict[str, Any]]:
    """A row per NMR entry: how alike the clusters of its models are, mean over all pairs."""
    rows = []
    for path in sorted(NMR.glob("*.pdb.gz")):
        proteins = nmr_models(path)
        said = model.predict(proteins)
        rows.append({
            "entry": path.name.split(".")[0].upper(), "models": len(proteins), "residues": len(proteins[0]),
            **agreement_of_all([prediction.clusters for prediction in said])._asdict(),
            "same_label": most_frequent([prediction.label for prediction in said])[1],
            "random": random_reference(proteins, said, model.config.data.neighbours)._asdict(),
        })  # fmt: skip
        say(f"{rows[-1]['entry']}: adjusted Rand index {rows[-1]['adjusted_rand']:.2f}")
    return rows


def most_frequent(labels: Sequence[str]) -> tuple[str, float]:
    """The most frequent label, and its share."""
    label, number = Counter(labels).most_common(1)[0]
    return label, number / len(labels)


def under_noise(model: TrainedModel, proteins: Sequence[Protein], draws: int) -> dict[str, Any]:
    """For each sigma how alike the clusters with noise are to those without, over proteins."""
    still = model.predict(proteins)
    rows = []
    for sigma, whole_residues in NOISE:
        rng, found = np.random.default_rng(0), []
        tokens = np.zeros((len(proteins), 2))
        same, labels = np.zeros(len(proteins)), []
        for _ in range(draws):
            shaken = model.predict(
                [noisy(protein, sigma, rng, whole_residues=whole_residues) for protein in proteins]
            )
            found.append([agreement(a.clusters, b.clusters) for a, b in zip(still, shaken, strict=True)])
            tokens += [same_tokens(a, b) for a, b in zip(still, shaken, strict=True)]
            labels += [prediction.label for prediction in shaken]
            same += [a.label == b.label for a, b in zip(still, shaken, strict=True)]
        over_draws = np.mean(np.array(found), axis=0)  # [P, numbers of Agreement]
        groups = np.arange(len(proteins))
        rows.append({
            "sigma": sigma,
            "whole_residues": whole_residues,
            **{
                name: mean_estimate(over_draws[:, i], groups) for i, name in enumerate(Agreement._fields)
            },
            "same_seed_same_token": float(tokens[:, 0].sum() / max(tokens[:, 1].sum(), 1)),
            "same_label": mean_estimate(same / draws, groups),
            "most_frequent_label": most_frequent(labels),
        })  # fmt: skip
        say(f"noise of {sigma} Å: adjusted Rand index {over_draws[:, 0].mean():.2f}")
    reference = random_reference(proteins, still, model.config.data.neighbours)
    without = most_frequent([prediction.label for prediction in still])
    return {
        "most_frequent_label": without,
        "proteins": len(proteins),
        "draws": draws,
        "rows": rows,
        "random": reference._asdict(),
    }


def over_seeds(models: Sequence[TrainedModel], proteins: Sequence[Protein]) -> dict[str, Any] | None:
    """How alike the clusters of several models are, mean over their pairs; None of a single one."""
    if len(models) < 2:
        return None
    said = [model.predict(proteins) for model in models]
    found = [agreement_of_all([p.clusters for p in of_one]) for of_one in zip(*said, strict=True)]
    groups = np.arange(len(proteins))
    numbers = {
        name: mean_estimate(np.array([getattr(row, name) for row in found]), groups)
        for name in Agreement._fields
    }
    return {"models": len(models), "proteins": len(proteins), **numbers}


def of_tokens(model: TrainedModel, dataset: ProteinDataset) -> dict[str, Any]:
    """How pure tokens are in CATH class and architecture."""
    said = model.predict(dataset)
    codes = np.array([prediction.codes for prediction in said])
    protein = np.repeat(np.arange(len(said)), codes.shape[1])
    architecture = dataset.labels
    class_of = np.array([int(name.split(".")[0]) for name in dataset.class_names])
    labels = {"class": np.where(architecture >= 0, class_of[architecture], -1), "architecture": architecture}
    return {
        "proteins": len(said),
        "clusters": int((codes >= 0).sum()),
        "tokens": len(np.unique(codes[codes >= 0])),
        "rows": [
            {"label": label, "measure": name, **association(measure, codes.ravel(), protein, values)}
            for label, values in labels.items()
            for name, measure in (
                ("purity", purity),
                ("normalised information", normalized_mutual_info_score),
            )
        ],
    }


def table(result: dict[str, Any]) -> str:
    """A result as Markdown."""
    noise, tokens, seeds = result["noise"], result["tokens"], result["seeds"]
    header = (
        *("", "adjusted Rand index", "of residues in clusters in both", "overlap"),
        *("same token, of clusters with the same seed", "same class"),
    )
    rows: list[tuple[object, ...]] = [
        (
            f"{row['entry']}, {row['models']} models of {row['residues']} residues",
            *(f"{row[name]:.2f}" for name in Agreement._fields),
            "",
            f"{row['same_label']:.0%}",
        )
        for row in result["nmr"]
    ]
    rows += [
        (
            f"{_noise(row)}, {noise['proteins']} chains",
            *(_shown(row[name]) for name in Agreement._fields),
            f"{row['same_seed_same_token']:.2f}",
            _shown(row["same_label"]),
        )
        for row in noise["rows"]
    ]
    if seeds is not None:
        name = f"{seeds['models']} training seeds, {seeds['proteins']} chains"
        rows.append((name, *(_shown(seeds[field]) for field in Agreement._fields)))
    rows.append(("random clusters", *(f"{noise['random'][name]:.2f}" for name in Agreement._fields)))
    found = [
        (
            f"CATH {row['label']}, {row['measure']}",
            f"{row['value']:.3f}",
            f"{row['shuffled']:.3f} ({row['shuffled_interval'][0]:.3f} to {row['shuffled_interval'][1]:.3f})",
            f"{row['p']:.3f}",
        )
        for row in tokens["rows"]
    ]
    label, share = noise["most_frequent_label"]
    shares = [f"{label} ({share:.0%}) without noise"]
    for row in noise["rows"]:
        label, share = row["most_frequent_label"]
        shares.append(f"{label} ({share:.0%}) under {_noise(row)}")
    lines = [
        markdown_table(header, rows),
        "",
        wrapped(f"The commonest answer and its share of chains: {', '.join(shares)}."),
        "",
    ]
    if seeds is None:
        lines += ["Over training seeds: not measured, for one seed is trained.", ""]
    about = f"{tokens['tokens']} tokens, {tokens['clusters']} clusters of {tokens['proteins']} chains"
    return "\n".join([*lines, markdown_table((about, "tokens", "shuffled labels", "p"), found)])


def report(result: dict[str, Any]) -> str:
    """A result as a document."""
    return f"# Stability of clusters, and purity of tokens\n\n`{result['command']}`\n\n{table(result)}\n"


def _noise(row: dict[str, Any]) -> str:
    of = "residues" if row["whole_residues"] else "atoms"
    return f"noise of {row['sigma']} Å on {of}"


def _shown(estimate: Sequence[float]) -> str:
    value, low, high = estimate
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument(
        "--models", nargs="+", default=[None], metavar="MODEL", help="Models: names, files or directories of "
        "runs. The first is measured, and all are compared with each other; that of the package.",
    )  # fmt: skip
    flags.add_argument("--data", type=Path, help="File with the chains (.npz); those of the package.")
    flags.add_argument("--chains", type=count, default=60, help="Test chains for noise and seeds.")
    flags.add_argument("--draws", type=count, default=3, help="Times that noise is drawn for a chain.")
    flags.add_argument("--token-chains", type=count, default=300, help="Test chains for the tokens.")
    flags.add_argument("--json", type=output, default=RESULT, help="The file for the result.")
    args = flags.parse_args()
    use_compilation_cache()
    models = [load_model(source) for source in args.models]
    dataset = load_dataset(args.data, task="cath-architecture", split="test")
    few = subset(dataset, args.chains, seed=0)
    result = {
        "schema": "partoken.stability/1",
        "command": " ".join(["python -m experiments.stability", *sys.argv[1:]]),
        "environment": environment(),
        "model": Path(models[0].source).stem,
        "nmr": over_nmr(models[0]),
        "noise": under_noise(models[0], list(few.proteins), args.draws),
        "seeds": over_seeds(models, list(few.proteins)),
        "tokens": of_tokens(models[0], subset(dataset, args.token_chains, seed=0)),
    }
    result = json.loads(json.dumps(result))
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    args.json.with_suffix(".md").write_text(report(result))
    print(table(result), flush=True)


if __name__ == "__main__":
    run_script(main)
