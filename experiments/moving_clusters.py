"""A codebook that learns while its clusters move, without the cost of an encoder.

Stage 1 trains encoder, codebook and classifier together, and the clusters move while codes follow them. Here
a linear layer stands in for the encoder: it starts as the identity on the clusters of a frozen one, and a
classifier reads the mean cluster. Losses, averages and re-seeding are those of stage 1.
`experiments.codebooks` runs it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from partoken_jax.config import CodebookConfig, LossConfig
from partoken_jax.nn.codebook import Codebook
from partoken_jax.nn.linear import MLP, linear
from partoken_jax.nn.presence import coverage_loss, log_absence
from partoken_jax.nn.residual_codebook import build_codebook
from partoken_jax.training.objective import split_model
from partoken_jax.training.stages import begin_codebook, follow

EPOCHS, BATCH, RATE = 8, 32, 1e-3
"""Of stage 1; in the last epoch the codes stand still. RATE is the highest learning rate."""


class MovingClusters(nnx.Module):
    """Linear layer → ReLU → codebook → mean over clusters → classifier D → 2D → C."""

    def __init__(self, width: int, classes: int, config: CodebookConfig, seed: int):
        self.config = config
        rngs = nnx.Rngs(seed)
        self.layer = linear(width, width, rngs=rngs)
        self.layer.kernel[...] = jnp.eye(width)
        if self.layer.bias is not None:
            self.layer.bias[...] = jnp.zeros(width)
        self.book: Any = build_codebook(width, config, rngs=nnx.Rngs(seed))
        self.classifier = MLP((width, 2 * width, classes), rngs=rngs)

    def clusters(self, features: jax.Array, mask: jax.Array) -> jax.Array:
        """[P, S, D]: where the clusters are now."""
        return jax.nn.relu(self.layer(features)) * mask[..., None]

    def __call__(self, features: jax.Array, mask: jax.Array, update: bool | jax.Array) -> tuple[Any, ...]:
        """Logits [P, C], clusters [P, S, D], what the codebook makes of them, and the coverage loss."""
        z = self.clusters(features, mask)
        out = self.book.quantise(z, mask)
        self.book.move(self.book.statistics(z, out), update)
        read = out.features if self.config.classify_quantised else z
        mean = jnp.sum(read * mask[..., None], axis=1) / jnp.sum(mask, axis=1)[:, None]
        absent = log_absence(self.book.embeddings[...], z, mask, self.config.presence_temperature)
        return self.classifier(mean), z, out, coverage_loss(absent, jnp.ones(len(mask), bool))


def train_moving(
    features: np.ndarray,  # [P, S, D]
    mask: np.ndarray,  # bool [P, S]
    labels: np.ndarray,  # int [P]
    classes: int,
    config: CodebookConfig,
    *,
    reseed: bool,
    seed: int,
) -> MovingClusters:
    """k-means, then all of it together, as stage 1 of a run does it."""
    model, rng = MovingClusters(features.shape[-1], classes, config, seed), np.random.default_rng(seed)
    batches = len(labels) // BATCH

    def samples(model: MovingClusters) -> np.ndarray:
        return np.asarray(model.clusters(jnp.asarray(features), jnp.asarray(mask)))[mask]

    begin_codebook(model.book, samples(model), jax.random.key(seed))
    graphdef, params, book = split_model(model)
    adam, epoch = _epoch(graphdef, batches)
    carry: tuple[Any, ...] = (params, book, adam.init(params), jnp.float32(0))
    for number in range(EPOCHS):
        order = rng.permutation(len(labels))[: batches * BATCH].reshape(batches, BATCH)
        moves = np.full(batches, number < EPOCHS - 1)
        carry = epoch(carry, (features[order], mask[order], labels[order], moves))
        if number < EPOCHS - 1 and (reseed or config.dimension is not None):
            model = nnx.merge(graphdef, carry[0], carry[1], copy=True)
            dead_share = 0.0 if reseed else None
            follow(model.book, samples(model), jax.random.key(EPOCHS * seed + number), dead_share=dead_share)
            carry = (carry[0], jax.tree.map(jnp.copy, nnx.state(model, Codebook)), *carry[2:])
    return nnx.merge(graphdef, carry[0], carry[1], copy=True)


@functools.cache
def _epoch(graphdef: nnx.GraphDef, batches: int) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
    """The optimiser, and a compiled pass over `batches` batches."""
    rates = optax.warmup_cosine_decay_schedule(0.0, RATE, batches, EPOCHS * batches)
    adam, weights = optax.adam(rates), LossConfig()

    def step(carry: Any, batch: Any) -> tuple[Any, None]:
        params, book, moments, done = carry
        features, mask, labels, moves = batch

        def loss(params: Any) -> tuple[jax.Array, Any]:
            model = nnx.merge(graphdef, params, book, copy=True)
            logits, _, out, coverage = model(features, mask, moves)
            cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            ramp = jnp.minimum(1.0, done / batches)
            total = cross_entropy + ramp * (weights.vq * out.loss + weights.coverage * coverage)
            return total, nnx.state(model, Codebook)

        gradients, moved = jax.grad(loss, has_aux=True)(params)
        updates, moments = adam.update(gradients, moments)
        return (optax.apply_updates(params, updates), moved, moments, done + 1), None

    return adam, jax.jit(lambda carry, batches: jax.lax.scan(step, carry, batches)[0])
