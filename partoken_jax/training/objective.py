"""The training objective, from a batch to gradients: features → model → losses → gradients.

Everything that needs the loss of a model goes through here: the training step, evaluation, the timing
programs, the parity check and the comparisons with PyTorch. To train on something else, change `total_loss`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from partoken_jax.graphs.features import featurise
from partoken_jax.graphs.types import FeaturisedGraph, PackedGraph
from partoken_jax.models import (
    AuxiliaryLosses,
    GVPClassifier,
    GVPOutput,
    ParToken,
    ParTokenOutput,
    ResidueModel,
    ResidueOutput,
)
from partoken_jax.nn.codebook import Codebook
from partoken_jax.nn.forms import Target
from partoken_jax.nn.residue_types import shaken
from partoken_jax.training.losses import cross_entropy

Scalar = jax.Array | np.floating | float
Model = GVPClassifier | ParToken | ResidueModel
Output = GVPOutput | ParTokenOutput | ResidueOutput


class LossWeights(NamedTuple):
    """What each auxiliary term is multiplied by, once. Scalars, traced by the compiled step."""

    vq: Scalar
    coverage: Scalar
    cardinality: Scalar


class LossTerms(NamedTuple):
    """The objective and its terms, before weighting. All scalars."""

    total: jax.Array
    """cross_entropy + w_vq vq + w_coverage coverage + w_cardinality cardinality"""
    cross_entropy: jax.Array
    vq: jax.Array
    coverage: jax.Array
    cardinality: jax.Array


class Randomness(NamedTuple):
    """Where the randomness of a training step comes from. Without any of both, nothing is random."""

    key: jax.Array | None = None
    """Turns on dropout and, unless `uniform` is given, the sampling of seeds."""
    uniform: jax.Array | None = None
    """[S, N] uniform numbers for the sampling of seeds, such as recorded ones."""


class Objective(NamedTuple):
    """What one forward and backward pass gives."""

    gradients: nnx.State
    """Of the total loss by every parameter."""
    codebook: nnx.State
    """The codebook after its moving averages have moved."""
    losses: LossTerms
    output: Output


def total_loss(
    logits: jax.Array,  # [B, C]
    labels: jax.Array,  # int32 [B], -1 where there is none
    mask: jax.Array,  # bool [B]
    auxiliary: AuxiliaryLosses | None,
    weights: LossWeights,
    share: jax.Array | None = None,
    *,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,  # [C]
) -> LossTerms:
    """L = CE + λ_vq L_vq + λ_psc L_psc + λ_card L_card; the GVP baseline (None) has CE alone.
    `share` []: of the labels of a batch that several devices share, those that are here. The rest as for
    `losses.cross_entropy`.

    REFERENCE.md section 5, total loss.
    """
    ce = cross_entropy(logits, labels, mask, label_smoothing=label_smoothing, class_weights=class_weights)
    if share is not None:
        ce = share * ce
    if auxiliary is None:
        zero = jnp.zeros_like(ce)
        return LossTerms(ce, ce, zero, zero, zero)
    total = (
        ce
        + weights.vq * auxiliary.vq
        + weights.coverage * auxiliary.coverage
        + weights.cardinality * auxiliary.cardinality
    )
    return LossTerms(total, ce, auxiliary.vq, auxiliary.coverage, auxiliary.cardinality)


def forward(
    model: Model,
    graph: PackedGraph | FeaturisedGraph,
    *,
    randomness: Randomness = Randomness(),  # noqa: B008, a constant
    temperature: Scalar = 1.0,
    update_codebook: bool | jax.Array | np.bool_ = False,
    bypass_codebook: bool = False,
    axis_name: str | None = None,
    hidden: jax.Array | None = None,
    target: Target | None = None,
) -> Output:
    """What a model says of a batch, packed or featurised. `hidden` as for `ResidueModel`; each model takes of
    the options what it has. `target`: what the program is made for, by default the default device."""
    key = randomness.key
    if isinstance(graph, PackedGraph):
        with jax.named_scope("features"):
            if isinstance(model, ResidueModel) and key is not None and model.config.pretraining.noise:
                key, of_noise = jax.random.split(key)
                graph = shaken(graph, of_noise, model.config.pretraining.noise)
            graph = featurise(graph)
    if isinstance(model, ResidueModel):
        return model(graph, key=key, hidden=hidden, target=target)
    if isinstance(model, GVPClassifier):
        return model(graph, key=key, target=target)
    return model(
        graph,
        key=key,
        uniform=randomness.uniform,
        temperature=temperature,
        update_codebook=update_codebook,
        bypass_codebook=bypass_codebook,
        axis_name=axis_name,
        target=target,
    )


def targets(graph: PackedGraph | FeaturisedGraph, output: Output) -> tuple[jax.Array, jax.Array]:
    """What the logits of an output are about: classes int32 [B], -1 where there is none, and a mask bool [B]
    of real proteins; of the model of residue types, both [N] of residues."""
    if isinstance(output, ResidueOutput):
        return output.targets, output.targets >= 0
    return jnp.asarray(graph.globals.label[:-1]), jnp.asarray(graph.globals.mask[:-1])


def evaluate_objective(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    codebook: nnx.State,
    graph: PackedGraph | FeaturisedGraph,
    weights: LossWeights,
    *,
    randomness: Randomness,
    temperature: Scalar = 1.0,
    update_codebook: bool | jax.Array | np.bool_ = True,
    bypass_codebook: bool = False,
    label_smoothing: float = 0.0,
    class_weights: jax.Array | None = None,
    freeze_encoder: bool = False,
    axis_name: str | None = None,
    target: Target | None = None,
) -> Objective:
    """Losses, gradients and the moved codebook of one batch; a pure function, to be compiled by the caller.

    Args:
      graphdef, params, codebook: a model, split by `split_model`.
      graph: a packed batch, or a featurised one.
      weights: of the auxiliary losses.
      randomness: a key, as in training, or given noise, as in a comparison.
      temperature: τ of the partitioner.
      update_codebook: the codebook's averages move; may be traced.
      bypass_codebook: leave the codebook out (stage 0).
      label_smoothing, class_weights: as for `losses.cross_entropy`.
      freeze_encoder: the gradients of the encoder are 0, and no time is spent on them.
      axis_name: of the devices that share the batch, inside `jax.shard_map`. Gradients and losses of ParToken
        are then this device's part, to be summed over all; those of the other models are of this device's
        proteins, to be averaged by their number of labels.
      target: what the program is made for, by default the default device.
    """

    def objective(params: nnx.State):
        model = nnx.merge(graphdef, params, codebook, copy=True)
        if freeze_encoder:
            still = jax.tree.map(jax.lax.stop_gradient, nnx.state(model.encoder))
            nnx.update(model.encoder, still)
        output = forward(
            model,
            graph,
            randomness=randomness,
            temperature=temperature,
            update_codebook=update_codebook,
            bypass_codebook=bypass_codebook,
            axis_name=axis_name,
            target=target,
        )
        labels, mask = targets(graph, output)
        auxiliary, part = None, None
        if isinstance(output, ParTokenOutput):
            auxiliary, part = output.losses, output.shares
        with jax.named_scope("losses"):
            share = None if part is None else part.labelled
            losses = total_loss(
                output.logits,
                labels,
                mask,
                auxiliary,
                weights,
                share,
                label_smoothing=label_smoothing,
                class_weights=class_weights,
            )
        return losses.total, (nnx.state(model, Codebook), losses, output)

    gradients, (moved, losses, output) = jax.grad(objective, has_aux=True)(params)
    return Objective(gradients, moved, losses, output)


def named_arrays(*parts: nnx.State) -> dict[str, np.ndarray]:
    """The arrays of parts of a model by dotted path ("encoder.layers.0..."), on the host."""
    return {
        ".".join(map(str, path)): np.asarray(variable[...])
        for part in parts
        for path, variable in nnx.to_flat_state(part)
    }


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Structure, parameters and codebook of a model; `nnx.merge` puts them together again."""
    return nnx.split(model, nnx.Param, Codebook)  # type: ignore[return-value]
