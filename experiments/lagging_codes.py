"""How far the codes of trained models lag behind their clusters, and which re-seeding brings them back.

    python -m experiments.lagging_codes --models cath-architecture --data experiments/data/pdb_chains.npz \\
        --json experiments/results/learn/lagging_codes.json

The clusters of every model are computed once and stand still. What is compared, on validation: the codes that
the model has, codes that k-means makes of its training clusters, and the model's own after a few more epochs
of moving averages, with codes re-seeded that clusters chose less often than a share of an equal part.
"""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.codebooks import MOST_SAMPLES, SHARES, Book, Clusters, clusters_of, followed, quantised
from experiments.flags import Flags, count, output, run_script
from partoken_jax.config import ConfigError
from partoken_jax.models import ParToken
from partoken_jax.nn.residual_codebook import build_codebook
from partoken_jax.pretrained import load_model
from partoken_jax.progress import say
from partoken_jax.tables import markdown_table
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.data import Split
from partoken_jax.training.metrics import clustering
from partoken_jax.training.report import environment
from partoken_jax.training.stages import begin_codebook

EPOCHS = 4
"""Of moving averages, with a re-seeding after each but the last."""
DEAD_SHARES = (None, 0.0, 0.1, 0.25, 0.5)


def use(book: Book, clusters: Clusters) -> dict[str, float]:
    """How the clusters use the codes, and what these lose."""
    _, codes, errors = quantised(book, clusters)
    size = book.levels[0].config.size
    features = clusters.features
    found = clustering(clusters.sizes, codes, 1, num_codes=size, features=features, squared_errors=errors)
    return {name: found[name] for name in SHARES}  # type: ignore[literal-required]


def compared(book: Book, clusters: dict[Split, Clusters], seed: int) -> dict[str, dict[str, float]]:
    """What codes → how validation uses them; `book` holds those that the model has, and stays as it is."""
    train, val = clusters["train"], clusters["val"]
    samples = train.features[train.mask]
    samples = samples[np.random.default_rng(seed).permutation(len(samples))[:MOST_SAMPLES]]
    fresh = build_codebook(train.features.shape[-1], book.levels[0].config, rngs=nnx.Rngs(seed))
    begin_codebook(fresh, samples, jax.random.key(seed))
    found = {"of the model": use(book, val), "k-means of the same clusters": use(fresh, val)}
    for share in DEAD_SHARES:
        own = nnx.clone(book)
        for level in own.levels:  # counted from here on
            level.set_state(level.state._replace(uses=jnp.zeros_like(level.state.uses)))
        rng = np.random.default_rng(seed)
        moved = followed(own, train, samples, seed, rng, dead_share=share, epochs=EPOCHS)
        found[f"{EPOCHS} epochs later, {named(share)}"] = use(moved, val)
    return found


def codes_of(source: str) -> Book:
    """The codebook of a trained model. Raises ConfigError where it has none."""
    model = load_model(source).model
    if not isinstance(model, ParToken) or model.codebook is None:
        raise ConfigError(f"{source}: a model without a codebook; give a ParToken that has one")
    return model.codebook


def named(share: float | None) -> str:
    """What a share means, in the table."""
    if share is None:
        return "not re-seeded"
    return f"re-seeded below {share:.0%}" if share else "re-seeded if never chosen"


def table(result: dict[str, Any]) -> str:
    """A row per kind of codes; codes used, perplexity and variance lost of every model."""
    models = result["models"]
    header = ["codes", *(f"{what}, {name}" for name in models for what in ("used", "perplexity", "lost"))]
    rows = [
        [kind, *(f"{mine['use'][kind][share]:.0%}" for mine in models.values() for share in SHARES)]
        for kind in next(iter(models.values()))["use"]
    ]
    return markdown_table(header, rows)


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--models", nargs="+", required=True, help="ParTokens: names, run directories, files.")
    flags.add_argument("--data", help="File of their proteins, if it has moved.")
    flags.add_argument("--limit", type=count, default=3000, help="proteins of each split, at most")
    flags.add_argument("--json", type=output, required=True, help="file for the result; a table beside it")
    args = flags.parse_args()
    use_compilation_cache()
    models: dict[str, Any] = {}
    for source in args.models:
        codes = codes_of(source)
        clusters, about = clusters_of(source, args.data, args.limit)
        name = f"seed {about['seed']}"
        if name in models:
            raise ConfigError(f"{source}: its {name} is that of another model; give one of each seed")
        models[name] = {"source": source, **about, "use": compared(codes, clusters, seed=0)}
    result = {
        "command": " ".join(["python -m experiments.lagging_codes", *sys.argv[1:]]),
        "models": models,
        "environment": environment(),
    }
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    args.json.with_suffix(".md").write_text(table(result) + "\n")
    say(table(result))


if __name__ == "__main__":
    run_script(main)
