"""Codebooks compared on one frozen encoder: which are in use, what they lose, and what can be read from them.

    python -m experiments.codebooks --model cath-architecture --data experiments/data/pdb_chains.npz \\
        --json experiments/results/learn/codebooks.json

The clusters of training and validation proteins are computed once, by a trained ParToken. Every codebook then
learns on these features alone, as in stage 1 with an encoder that stands still: k-means (or a grid), moving
averages over batches of proteins, re-seeding after each epoch. What is said of it is of validation.
Accuracies by a probe are those of a linear classifier on the mean cluster of a protein, or on how often it
has each token: they say what codes keep, not what a model trained with them reaches. The probes are scikit-
learn's (the extra "baselines").

Then it learns again while the clusters move (`experiments.moving_clusters`), because that is what empties a
codebook.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.flags import Flags, count, output, run_script
from experiments.moving_clusters import train_moving
from experiments.timing_tables import wrapped
from partoken_jax.config import CodebookConfig, ConfigError, to_dict
from partoken_jax.nn.codebook import VQCodebook
from partoken_jax.nn.residual_codebook import ResidualCodebook, build_codebook
from partoken_jax.pretrained import load_model
from partoken_jax.progress import say
from partoken_jax.tables import markdown_table
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.data import Split, limited, load_data, require_labels
from partoken_jax.training.evaluate import predict_all
from partoken_jax.training.metrics import clustering, effective_dimension, wilson
from partoken_jax.training.report import environment
from partoken_jax.training.stages import begin_codebook, follow

BATCH, EPOCHS, MOST_SAMPLES = 64, 8, 20_000
SHARES = ("codes_used_share", "perplexity_share", "quantisation_error")
Book = VQCodebook | ResidualCodebook


class Variant(NamedTuple):
    """A codebook, and whether its dead codes are re-seeded."""

    config: CodebookConfig
    reseed: bool = True


_small = partial(CodebookConfig, size=128, decay=0.9)
_whitened = partial(_small, dimension=4)
VARIANTS = {
    "published: 512": Variant(CodebookConfig(), reseed=False),
    "512, re-seeded": Variant(CodebookConfig()),
    "128": Variant(CodebookConfig(size=128), reseed=False),
    "128, re-seeded": Variant(CodebookConfig(size=128)),
    "128, re-seeded, decay 0.9": Variant(_small()),
    "the same, cosine": Variant(_small(metric="cosine")),
    "the same, whitened 4": Variant(_whitened()),
    "the same, whitened 8": Variant(_whitened(dimension=8)),
    "the same, whitened 8, cosine": Variant(_whitened(dimension=8, metric="cosine")),
    "whitened 4, not re-seeded": Variant(_whitened(), reseed=False),
    "residual 2 × 128": Variant(_small(quantiser="residual", levels=2)),
    "residual 2 × 128, whitened 4": Variant(_whitened(quantiser="residual", levels=2)),
    "FSQ 5 × 5 × 5": Variant(_small(size=125, dimension=3, quantiser="fsq", levels=5)),
    "FSQ 3 × 3 × 3 × 3": Variant(_whitened(size=81, quantiser="fsq", levels=3)),
    "classifier reads 128 codes": Variant(_small(classify_quantised=True)),
    "the same, rotated gradient": Variant(_small(classify_quantised=True, gradient="rotation")),
    "classifier reads residual 2 × 128": Variant(
        _small(quantiser="residual", levels=2, classify_quantised=True)
    ),
}
"""All after "128, re-seeded, decay 0.9" have its decay, and are re-seeded unless they say so."""


class Clusters(NamedTuple):
    """The clusters of the labelled proteins of a split."""

    features: np.ndarray
    """float32 [P, S, D]"""
    sizes: np.ndarray
    """int [P, S]: 0 where there is no cluster."""
    labels: np.ndarray
    """int [P]"""

    @property
    def mask(self) -> np.ndarray:
        """bool [P, S]"""
        return self.sizes > 0


def clusters_of(source: str, path: str | None, limit: int) -> tuple[dict[Split, Clusters], dict[str, Any]]:
    """The clusters of at most `limit` proteins of training and of validation, and what the model is.

    Args:
      source: of the model, as for `load_model`.
      path: where its proteins are, if not where they were in training.
    """
    model = dataclasses.replace(load_model(source), bypass_codebook=True)
    config = model.config
    if config.model.kind != "partoken":
        raise ConfigError(
            f"{source}: a model of kind {config.model.kind}, which has no clusters; give a ParToken"
        )
    data = dataclasses.replace(
        config.data, path=config.data.path if path is None else path, max_train=limit, max_eval=limit
    )
    found: dict[Split, Clusters] = {}
    splits: tuple[Split, ...] = ("train", "val")
    for split, whole in load_data(data, splits).items():
        dataset, _ = limited(whole, data, config.seed)
        require_labels(dataset)
        out = predict_all(model, dataset)
        assert out.cluster_features is not None
        kept = (out.labels >= 0) & np.any(out.cluster_sizes > 0, axis=1)
        found[split] = Clusters(out.cluster_features[kept], out.cluster_sizes[kept], out.labels[kept])
        say(f"{split}: {kept.sum()} proteins, {found[split].mask.sum()} clusters")
    about = {"task": data.task, "epoch": model.epoch, "seed": config.seed, "settings": to_dict(config.model)}
    return found, about


def learned(variant: Variant, clusters: Clusters, seed: int) -> Book:
    """The codebook that the clusters of training make."""
    book: Book = build_codebook(clusters.features.shape[-1], variant.config, rngs=nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    samples = clusters.features[clusters.mask]
    samples = samples[rng.permutation(len(samples))[:MOST_SAMPLES]]
    begin_codebook(book, samples, jax.random.key(seed))
    return followed(book, clusters, samples, seed, rng, dead_share=0.0 if variant.reseed else None)


def followed(
    book: Book,
    clusters: Clusters,
    samples: np.ndarray,
    seed: int,
    rng: np.random.Generator,
    *,
    dead_share: float | None,
    epochs: int = EPOCHS,
) -> Book:
    """The codebook after moving averages over so many epochs of clusters that stand still, re-seeded from
    samples [M, D] after each but the last."""
    graphdef, state = nnx.split(book)
    epoch = _epoch(graphdef)
    batches = len(clusters.labels) // BATCH
    for number in range(epochs):
        order = rng.permutation(len(clusters.labels))[: batches * BATCH].reshape(batches, BATCH)
        state = epoch(state, clusters.features[order], clusters.mask[order])
        if number < epochs - 1:  # codes have an epoch to settle
            book = nnx.merge(graphdef, state, copy=True)
            follow(book, samples, jax.random.key(seed * EPOCHS + number), dead_share=dead_share)
            state = jax.tree.map(jnp.copy, nnx.state(book))
    return nnx.merge(graphdef, state)


@functools.cache
def _epoch(graphdef: nnx.GraphDef) -> Callable[[Any, Any, Any], Any]:
    """Moves the averages by every batch once: z [n, b, S, D], mask [n, b, S]."""

    def step(state: Any, batch: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        book, (z, mask) = nnx.merge(graphdef, state, copy=True), batch
        book.move(book.statistics(z, book.quantise(z, mask)), True)
        return nnx.state(book), None

    return jax.jit(lambda state, z, mask: jax.lax.scan(step, state, (z, mask))[0])


def quantised(book: Book, clusters: Clusters) -> tuple[Clusters, np.ndarray, np.ndarray]:
    """Clusters as their codes, the tokens [P, S], and the squared errors [P, S]."""
    out = book.quantise(jnp.asarray(clusters.features), jnp.asarray(clusters.mask))
    return (
        clusters._replace(features=np.asarray(out.features)),
        np.asarray(out.codes),
        np.asarray(out.squared_errors),
    )


def mean_cluster(clusters: Clusters) -> np.ndarray:
    """[P, D]"""
    mask = clusters.mask[..., None]
    return np.sum(clusters.features * mask, axis=1) / np.sum(mask, axis=1)


def token_counts(codes: np.ndarray, size: int) -> np.ndarray:
    """float32 [P, K]: how many clusters of a protein have the token."""
    found = np.zeros((len(codes), size), np.float32)
    rows, _ = np.nonzero(codes >= 0)
    np.add.at(found, (rows, codes[codes >= 0]), 1)
    return found


def probe(train: np.ndarray, val: np.ndarray, labels: dict[Split, np.ndarray]) -> float:
    """Accuracy on validation of a linear classifier (logistic regression) on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    return float(classifier.fit(train, labels["train"]).score(val, labels["val"]))


def measured(variant: Variant, clusters: dict[Split, Clusters], seed: int) -> dict[str, float]:
    """What is said of a codebook, on validation."""
    labels = {split: found.labels for split, found in clusters.items()}
    book = learned(variant, clusters["train"], seed)
    as_codes = {split: quantised(book, found) for split, found in clusters.items()}
    _, codes, errors = as_codes["val"]
    val, size = clusters["val"], variant.config.size
    used = clustering(val.sizes, codes, 1, num_codes=size, features=val.features, squared_errors=errors)
    tokens = {split: token_counts(codes, size) for split, (_, codes, _) in as_codes.items()}
    means = {split: mean_cluster(found) for split, (found, _, _) in as_codes.items()}
    return {
        **{name: used[name] for name in SHARES},  # type: ignore[literal-required]
        "accuracy": probe(means["train"], means["val"], labels),
        "accuracy_tokens": probe(tokens["train"], tokens["val"], labels),
        **{f"moving_{name}": value for name, value in _moving(variant, clusters, seed).items()},
    }


def _moving(variant: Variant, clusters: dict[Split, Clusters], seed: int) -> dict[str, float]:
    """The same of a codebook whose clusters moved, and the accuracy of the classifier that moved them."""
    train, val = clusters["train"], clusters["val"]
    classes = int(max(train.labels.max(), val.labels.max())) + 1
    model = train_moving(
        train.features, train.mask, train.labels, classes, variant.config, reseed=variant.reseed, seed=seed
    )
    logits, z, out, _ = model(jnp.asarray(val.features), jnp.asarray(val.mask), False)
    size, codes, errors = variant.config.size, np.asarray(out.codes), np.asarray(out.squared_errors)
    used = clustering(val.sizes, codes, 1, num_codes=size, features=np.asarray(z), squared_errors=errors)
    return {
        **{name: used[name] for name in SHARES},  # type: ignore[literal-required]
        "accuracy": float(np.mean(np.asarray(logits).argmax(axis=-1) == val.labels)),
    }


def compare(source: str, path: str | None, seeds: int, limit: int) -> dict[str, Any]:
    """The whole comparison, as it is stored."""
    clusters, about = clusters_of(source, path, limit)
    labels = {split: found.labels for split, found in clusters.items()}
    raw = probe(mean_cluster(clusters["train"]), mean_cluster(clusters["val"]), labels)
    variants = {}
    for name, variant in VARIANTS.items():
        variants[name] = [measured(variant, clusters, seed) for seed in range(seeds)]
        say(f"{name}: {variants[name][0]['codes_used_share']:.0%} of codes used")
    train, val = clusters["train"], clusters["val"]
    return {
        "command": " ".join(["python -m experiments.codebooks", *sys.argv[1:]]),
        "model": about,
        "proteins": {split: len(found.labels) for split, found in clusters.items()},
        "clusters": {split: int(found.mask.sum()) for split, found in clusters.items()},
        "majority_share": float(np.bincount(val.labels).max() / len(val.labels)),
        "effective_dimension": {
            s: effective_dimension(c.features[c.mask]) for s, c in (("train", train), ("val", val))
        },
        "seeds": seeds,
        "accuracy_of_clusters": raw,
        "variants": variants,
        "settings": {
            name: {**to_dict(v.config), "reseed_dead_codes": v.reseed} for name, v in VARIANTS.items()
        },
        "environment": environment(),
    }


def _mean(rows: list[dict[str, float]], name: str, form: str) -> str:
    """Mean ± standard deviation over the seeds."""
    values = np.array([row[name] for row in rows])
    mean = f"{values.mean():{form}}"
    return f"{mean} ± {values.std(ddof=1):{form}}" if len(values) > 1 else mean


def table(result: dict[str, Any]) -> str:
    """The comparison as a Markdown table under its sentences."""
    n, dimension = result["proteins"]["val"], result["effective_dimension"]["val"]
    raw = result["accuracy_of_clusters"]
    low, high = wilson(round(raw * n), n)
    columns = {
        "codes used": ("codes_used_share", ".0%"),
        "perplexity": ("perplexity_share", ".0%"),
        "variance lost": ("quantisation_error", ".0%"),
        "accuracy": ("accuracy", ".3f"),
        "accuracy, tokens alone": ("accuracy_tokens", ".3f"),
        "codes used, moving": ("moving_codes_used_share", ".0%"),
        "perplexity, moving": ("moving_perplexity_share", ".0%"),
        "accuracy, moving": ("moving_accuracy", ".3f"),
    }
    rows = [
        (name, *(_mean(found, key, form) for key, form in columns.values()))
        for name, found in result["variants"].items()
    ]
    return "\n".join(
        [
            wrapped(
                f"`{result['command']}`: {result['model']['task']}, validation of {n} proteins with "
                f"{result['clusters']['val']:,} clusters, whose features have an effective dimension of "
                f"{dimension:.1f}; mean ± standard deviation over {result['seeds']} seeds. Codes used and "
                "perplexity are shares of the codebook's size. A linear classifier reads the mean code of a "
                "protein, or how often it has each token; of the clusters as they are its accuracy is "
                f"{raw:.3f} ({low:.3f} to {high:.3f}), and always the most frequent class has "
                f"{result['majority_share']:.3f}. In the last three columns clusters moved."
            ),
            "",
            markdown_table(("codebook", *columns), rows),
        ]
    )


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--model", required=True, help="A ParToken: a name, a run directory or a file.")
    flags.add_argument("--data", help="File of its proteins, if it has moved.")
    flags.add_argument("--seeds", type=count, default=3)
    flags.add_argument("--limit", type=count, default=2000, help="proteins of each split, at most")
    flags.add_argument("--json", type=output, required=True, help="file for the result; tables beside it")
    args = flags.parse_args()
    use_compilation_cache()
    result = compare(args.model, args.data, args.seeds, args.limit)
    args.json.write_text(json.dumps(result, indent=1) + "\n")
    args.json.with_suffix(".md").write_text(table(result) + "\n")
    say(table(result))


if __name__ == "__main__":
    run_script(main)
