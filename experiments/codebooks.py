"""Codebooks compared on one frozen encoder: which are in use, what they lose, and what can be read from them.

    python -m experiments.codebooks --run RUN_DIR [--json experiments/results/learn/codebooks.json]

The clusters of training and validation proteins are computed once, by the best checkpoint of a run of
ParToken. Every codebook then learns on these features alone, as in stage 1 with an encoder that stands still:
k-means (or a grid), moving averages over batches of proteins, re-seeding after each epoch. What is said of it
is of validation. Accuracies by a probe are those of small classifiers on the mean cluster of a protein, or on
how often it has each token: they say what codes keep, not what a model trained with them reaches.

Then it learns again while the clusters move (`experiments.moving_clusters`), because that is what empties a
codebook.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.flags import Flags, count, output, run_script
from experiments.moving_clusters import new_book, train_moving
from partoken_jax.config import CodebookConfig, ConfigError, to_dict
from partoken_jax.graphs import BatchLoader, neighbour_tables, plan_batches
from partoken_jax.nn.codebook import VQCodebook
from partoken_jax.nn.residual_codebook import ResidualCodebook
from partoken_jax.tables import markdown_table
from partoken_jax.training.checkpoints import restore
from partoken_jax.training.compilation_cache import use_compilation_cache
from partoken_jax.training.data import Split, limited, load_data, require_labels
from partoken_jax.training.epochs import predict
from partoken_jax.training.metrics import clustering, effective_dimension, wilson
from partoken_jax.training.prefetch import prefetch
from partoken_jax.training.report import environment
from partoken_jax.training.stages import begin_codebook, follow
from partoken_jax.training.step import make_eval_step

BATCH, EPOCHS, MOST_SAMPLES = 64, 8, 20_000
PROBE_STEPS, PROBE_HIDDEN = 300, 64
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


def clusters_of(run_dir: Path, limit: int) -> tuple[dict[Split, Clusters], dict[str, Any]]:
    """The clusters of at most `limit` proteins of training and of validation, and what the run was."""
    restored = restore(run_dir, "best")
    config, meta = restored.config, restored.meta
    if config.model.kind != "partoken":
        raise ConfigError(
            f"{run_dir}: a run of the GVP baseline, which has no clusters; give one of ParToken"
        )
    data = dataclasses.replace(
        config.data,
        max_train=min(limit, config.data.max_train or limit),
        max_eval=config.data.max_eval or limit,
    )
    step = make_eval_step(restored.graphdef, bypass_codebook=True)
    found: dict[Split, Clusters] = {}
    splits: tuple[Split, ...] = ("train", "val")
    for split, whole in load_data(data, splits).items():
        dataset, _ = limited(whole, data, config.seed)
        require_labels(dataset)
        plan = plan_batches(
            test=dataset.lengths, epochs=0, batch_size=data.batch_size, max_shapes=data.max_shapes,
            seed=config.seed, residues_per_batch=data.residues_per_batch,
        )  # fmt: skip
        loader = BatchLoader(dataset, neighbour_tables(dataset, data.neighbours), plan)
        out = predict(
            step,
            restored.state.params,
            restored.state.codebook,
            prefetch(loader.evaluation()),
            meta["temperature"],
        )
        assert out.cluster_features is not None
        kept = (out.labels >= 0) & np.any(out.cluster_sizes > 0, axis=1)
        found[split] = Clusters(out.cluster_features[kept], out.cluster_sizes[kept], out.labels[kept])
        print(
            f"{split}: {kept.sum()} proteins, {found[split].mask.sum()} clusters", file=sys.stderr, flush=True
        )
    about = {"task": data.task, "epoch": meta["epoch"], "seed": config.seed, "model": to_dict(config.model)}
    return found, about


def learned(variant: Variant, clusters: Clusters, seed: int) -> Book:
    """The codebook that the clusters of training make."""
    book: Book = new_book(clusters.features.shape[-1], variant.config, seed)
    rng = np.random.default_rng(seed)
    samples = clusters.features[clusters.mask]
    samples = samples[rng.permutation(len(samples))[:MOST_SAMPLES]]
    begin_codebook(book, samples, jax.random.key(seed))
    graphdef, state = nnx.split(book)
    epoch = _epoch(graphdef)
    batches = len(clusters.labels) // BATCH
    for number in range(EPOCHS):
        order = rng.permutation(len(clusters.labels))[: batches * BATCH].reshape(batches, BATCH)
        state = epoch(state, clusters.features[order], clusters.mask[order])
        if number < EPOCHS - 1:  # codes have an epoch to settle
            book = nnx.merge(graphdef, state, copy=True)
            follow(book, samples, jax.random.key(seed * EPOCHS + number), reseed=variant.reseed)
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


@partial(jax.jit, static_argnames=("classes", "hidden"))
def _probe(x: Any, labels: Any, to_score: Any, key: jax.Array, classes: int, hidden: int) -> jax.Array:
    """Classes [Q] of `to_score` by a classifier fitted to x [P, F]: linear, or with a layer of `hidden`."""
    widths = (x.shape[1], hidden, classes) if hidden else (x.shape[1], classes)
    keys = jax.random.split(key, len(widths))
    params = [
        (jax.random.normal(k, (a, b)) * a**-0.5, jnp.zeros(b))
        for k, a, b in zip(keys, widths[:-1], widths[1:], strict=False)
    ]
    adam = optax.adamw(optax.cosine_decay_schedule(1e-2, PROBE_STEPS), weight_decay=0.1)

    def logits(params: Any, x: Any) -> Any:
        for number, (weight, bias) in enumerate(params):
            x = (jax.nn.relu(x) if number else x) @ weight + bias
        return x

    def loss(params: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), labels).mean()

    def step(carry: Any, _: Any) -> tuple[Any, None]:
        params, moments = carry
        updates, moments = adam.update(jax.grad(loss)(params), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), None, length=PROBE_STEPS)
    return jnp.argmax(logits(params, to_score), axis=-1)


def probe(
    train: np.ndarray, val: np.ndarray, labels: dict[Split, np.ndarray], seed: int, hidden: int
) -> float:
    """Accuracy on validation; features are standardised by those of training."""
    centre, spread = train.mean(0), train.std(0) + 1e-6
    classes = int(max(labels["train"].max(), labels["val"].max())) + 1
    found = _probe(
        (train - centre) / spread,
        labels["train"],
        (val - centre) / spread,
        jax.random.key(seed),
        classes,
        hidden,
    )
    return float(np.mean(np.asarray(found) == labels["val"]))


def both_probes(
    features: dict[Split, np.ndarray], labels: dict[Split, np.ndarray], seed: int
) -> dict[str, float]:
    kinds = {"linear": 0, "mlp": PROBE_HIDDEN}
    return {
        name: probe(features["train"], features["val"], labels, seed, hidden)
        for name, hidden in kinds.items()
    }


def measured(variant: Variant, clusters: dict[Split, Clusters], seed: int) -> dict[str, float]:
    """What is said of a codebook, on validation."""
    labels = {split: found.labels for split, found in clusters.items()}
    book = learned(variant, clusters["train"], seed)
    as_codes = {split: quantised(book, found) for split, found in clusters.items()}
    _, codes, errors = as_codes["val"]
    val, size = clusters["val"], variant.config.size
    used = clustering(val.sizes, codes, 1, num_codes=size, features=val.features, squared_errors=errors)
    tokens = {split: token_counts(codes, size) for split, (_, codes, _) in as_codes.items()}
    accuracies = both_probes(
        {split: mean_cluster(found) for split, (found, _, _) in as_codes.items()}, labels, seed
    )
    return {
        **{name: used[name] for name in SHARES},  # type: ignore[literal-required]
        **{f"accuracy_{name}": accuracy for name, accuracy in accuracies.items()},
        "accuracy_tokens": probe(tokens["train"], tokens["val"], labels, seed, 0),
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


def compare(run_dir: Path, seeds: int, limit: int) -> dict[str, Any]:
    """The whole comparison, as it is stored."""
    clusters, about = clusters_of(run_dir, limit)
    labels = {split: found.labels for split, found in clusters.items()}
    raw = [
        both_probes({s: mean_cluster(c) for s, c in clusters.items()}, labels, seed) for seed in range(seeds)
    ]
    variants = {}
    for name, variant in VARIANTS.items():
        variants[name] = [measured(variant, clusters, seed) for seed in range(seeds)]
        print(name, {k: round(v, 3) for k, v in variants[name][0].items()}, file=sys.stderr, flush=True)
    train, val = clusters["train"], clusters["val"]
    return {
        "command": " ".join(["python -m experiments.codebooks", *sys.argv[1:]]),
        "run": about,
        "proteins": {split: len(found.labels) for split, found in clusters.items()},
        "clusters": {split: int(found.mask.sum()) for split, found in clusters.items()},
        "majority_share": float(np.bincount(val.labels).max() / len(val.labels)),
        "effective_dimension": {
            s: effective_dimension(c.features[c.mask]) for s, c in (("train", train), ("val", val))
        },
        "seeds": seeds,
        "raw": raw,
        "variants": variants,
        "settings": {
            name: {**to_dict(v.config), "reseed_dead_codes": v.reseed} for name, v in VARIANTS.items()
        },
        "environment": environment(),
    }


def _mean(rows: list[dict[str, float]], name: str, digits: int = 3, percent: bool = False) -> str:
    values = np.array([row[name] for row in rows])
    if percent:
        return (
            f"{values.mean():.0%} ± {values.std(ddof=1):.0%}" if len(values) > 1 else f"{values.mean():.0%}"
        )
    return (
        f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"
        if len(values) > 1
        else f"{values.mean():.{digits}f}"
    )


def table(result: dict[str, Any]) -> str:
    """The comparison as a Markdown table under two sentences."""
    n, dimension = result["proteins"]["val"], result["effective_dimension"]["val"]
    low, high = wilson(n // 2, n)
    raw = [_mean(result["raw"], name) for name in ("linear", "mlp")]
    rows: list[tuple[object, ...]] = [("clusters as they are", "", "", "", *raw, "", "", "", "")]
    shares = SHARES[:2]
    for name, found in result["variants"].items():
        frozen, moving = (
            [_mean(found, f"{m}{key}", percent=True) for key in shares] for m in ("", "moving_")
        )
        keys = ("quantisation_error", "accuracy_linear", "accuracy_mlp", "accuracy_tokens")
        probes = [_mean(found, key) for key in keys]
        rows.append((name, *frozen, *probes, *moving, _mean(found, "moving_accuracy")))
    header = (
        *("codebook", "codes used", "perplexity", "variance lost", "linear", "MLP", "tokens alone"),
        *("moving: codes used", "perplexity", "accuracy"),
    )
    return "\n".join(
        [
            f"`{result['command']}`: {result['run']['task']}, validation of {n} proteins with "
            f"{result['clusters']['val']} clusters, whose features have an effective dimension of "
            f"{dimension:.1f}; mean ± standard deviation over {result['seeds']} seeds. Codes used and "
            "perplexity are shares of the codebook's size; the last three columns are of a codebook whose "
            "clusters moved. Always the most frequent class: accuracy "
            f"{result['majority_share']:.3f}; an accuracy near 0.5 has a 95% interval of "
            f"±{(high - low) / 2:.3f}.",
            "",
            markdown_table(header, rows),
        ]
    )


def main() -> None:
    flags = Flags(description=__doc__.splitlines()[0])
    flags.add_argument("--run", type=Path, required=True, help="directory of a run of ParToken")
    flags.add_argument("--seeds", type=count, default=3)
    flags.add_argument("--limit", type=count, default=2000, help="proteins of each split, at most")
    flags.add_argument("--json", type=output, help="file for the result")
    args = flags.parse_args()
    use_compilation_cache()
    result = compare(args.run, args.seeds, args.limit)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    run_script(main)
