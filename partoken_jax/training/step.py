"""The compiled steps: one program per stage for training, one for evaluation.

A model is split once into its structure (`nnx.GraphDef`, static) and its arrays; the steps are pure
functions of the arrays and merge the model inside. Nothing in a step depends on values for its shape,
and nothing is read by the host, so a step runs ahead while the next batch is packed.

Legend: B proteins, S clusters, C classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from partoken_jax.config import NonFinite
from partoken_jax.graphs.types import PackedGraph, ProteinGlobals
from partoken_jax.models import ParTokenOutput, ResidueModel, ResidueOutput
from partoken_jax.nn.devices import sum_over_devices
from partoken_jax.nn.forms import Target
from partoken_jax.nn.platform import target_platform
from partoken_jax.training.devices import AXIS, SAME, SPLIT, evaluate_on_mesh, train_on_mesh
from partoken_jax.training.losses import cross_entropy
from partoken_jax.training.objective import (
    LossTerms,
    Objective,
    Output,
    Randomness,
    Scalar,
    evaluate_objective,
    forward,
    targets,
)
from partoken_jax.training.optimiser import adam_where
from partoken_jax.training.recovery import ResidueScores, protein_scores
from partoken_jax.training.schedules import StepSettings
from partoken_jax.training.state import TrainState


class StepMetrics(NamedTuple):
    """What a training step reports. Scalars that stay on the device until an epoch is over."""

    losses: LossTerms
    correct: jax.Array
    """Proteins given the class that their label says; in pretraining residues given their type."""
    labelled: jax.Array
    """Proteins with a label: those that cross entropy and `correct` are about; in pretraining residues."""
    proteins: jax.Array
    assigned: jax.Array
    """Residues in a cluster; 0 for the GVP baseline."""
    residues: jax.Array
    """Real residues with all four atoms."""
    perplexity: jax.Array
    """Of the codebook's moving counts; 0 without a codebook or in stage 0."""
    gradient_norm: jax.Array
    """sqrt(Σ g²) over the gradients of all parameters, before clipping."""
    finite: jax.Array
    """bool []: loss, gradients and learning rate are; otherwise the step left the state as it was."""


class Applied(NamedTuple):
    """What gradients did to a state."""

    state: TrainState
    gradient_norm: jax.Array
    """As `StepMetrics.gradient_norm`."""
    finite: jax.Array
    """As `StepMetrics.finite`."""


class EvalOutput(NamedTuple):
    """What an evaluation step reports about a batch."""

    logits: jax.Array
    """[B, C]; in pretraining the mean over the residues of a protein."""
    cross_entropy: jax.Array
    """[]: mean over the proteins of the batch that have a label; in pretraining over all residues."""
    residues: jax.Array
    """[]: real residues with all four atoms."""
    cluster_sizes: jax.Array
    """int32 [B, S]: 0 where there is no cluster; S = 0 for the GVP baseline."""
    cluster_features: jax.Array
    """[B, S, D]: what k-means turns into a codebook."""
    codes: jax.Array
    """int32 [B, S]: -1 where there is none."""
    squared_errors: jax.Array
    """[B, S]: squared distance of cluster features from what their codes stand for; 0 where there is none."""
    num_codes: jax.Array
    """int32 []: the size of the codebook; 0 for the GVP baseline."""
    proteins: ProteinGlobals
    """[B]: which proteins these are."""
    told: ResidueScores | None
    """[B, M, ...]: how well residue types were told; None of a model that classifies proteins."""


GradientStep = Callable[[TrainState, PackedGraph, StepSettings], Objective]
TrainStep = Callable[[TrainState, PackedGraph, StepSettings], tuple[TrainState, StepMetrics]]
EvalStep = Callable[[nnx.State, nnx.State, PackedGraph, Any], EvalOutput]


def make_gradient_step(
    graphdef: nnx.GraphDef,
    *,
    bypass_codebook: bool,
    label_smoothing: float = 0.0,
    freeze_encoder: bool = False,
    axis_name: str | None = None,
    target: Target | None = None,
) -> GradientStep:
    """`(state, graph, settings) -> Objective`, not compiled: forward and backward pass of training.

    `graph` is a packed batch; features are computed inside. `bypass_codebook` makes the step of stage 0.
    `label_smoothing`, `freeze_encoder`, `axis_name`, `target` as for `evaluate_objective`.
    """
    target = target or Target(target_platform())

    def gradient_step(state: TrainState, graph: PackedGraph, settings: StepSettings) -> Objective:
        return evaluate_objective(
            graphdef,
            state.params,
            state.codebook,
            graph,
            settings.weights,
            randomness=Randomness(key=jax.random.fold_in(state.key, state.step)),
            temperature=settings.temperature,
            update_codebook=jnp.logical_not(settings.frozen),
            bypass_codebook=bypass_codebook,
            label_smoothing=label_smoothing,
            class_weights=None if settings.class_weights is None else jnp.asarray(settings.class_weights),
            freeze_encoder=freeze_encoder,
            axis_name=axis_name,
            target=target,
        )

    return gradient_step


def make_train_step(
    graphdef: nnx.GraphDef,
    *,
    bypass_codebook: bool,
    label_smoothing: float = 0.0,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    non_finite: NonFinite = "stop",
    freeze_encoder: bool = False,
    mesh: Mesh | None = None,
    target: Target | None = None,
) -> TrainStep:
    """`(state, graph, settings) -> (state, metrics)`, compiled once per shape of `graph`.

    Arguments as for `make_gradient_step` and `apply_gradients`. With "stop" the old state is donated: its
    buffers are reused and must not be read again. With "skip" it is not, because the state before a step that
    was not finite is wanted when the host hears of it, some steps later. With a mesh, `graph` has an axis of
    shards, one for each device, and state and metrics are the same on all. `target`: what the step is made
    for, by default the devices of the mesh, or the default device; give it to compile for another platform.
    """
    axis_name = None if mesh is None else AXIS
    gradient_step = make_gradient_step(
        graphdef,
        bypass_codebook=bypass_codebook,
        label_smoothing=label_smoothing,
        freeze_encoder=freeze_encoder,
        axis_name=axis_name,
        target=target or Target(target_platform(mesh)),
    )

    def train_step(state: TrainState, graph: PackedGraph, settings: StepSettings):
        found = gradient_step(state, graph, settings)
        with jax.named_scope("metrics"):
            metrics = _metrics(found.losses, found.output, graph)
            if axis_name is not None:
                found, metrics = _of_all_devices(found, metrics, axis_name)
        with jax.named_scope("optimiser"):
            applied = apply_gradients(
                state,
                found.gradients,
                found.codebook,
                found.losses.total,
                settings.learning_rate,
                weight_decay=weight_decay,
                clip_norm=clip_norm,
                non_finite=non_finite,
            )
            if freeze_encoder:  # weight decay would move it
                applied.state.params["encoder"] = state.params["encoder"]
        return applied.state, metrics._replace(gradient_norm=applied.gradient_norm, finite=applied.finite)

    donated = 0 if non_finite == "stop" else ()
    if mesh is not None:
        return train_on_mesh(train_step, mesh, donate_argnums=donated)
    return jax.jit(train_step, donate_argnums=donated)


def apply_gradients(
    state: TrainState,
    gradients: nnx.State,
    codebook: nnx.State,
    loss: jax.Array,
    learning_rate: Scalar,
    *,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    non_finite: NonFinite = "stop",
) -> Applied:
    """One step of Adam. Where the step is not finite, parameters, moments and codebook keep their values.

    Args:
      state: before the step.
      gradients: of the total loss by every parameter.
      codebook: after its moving averages have moved.
      loss: the total loss.
      learning_rate: of this step.
      weight_decay: what is added to Adam's updates of matrices is so much of the matrices (AdamW, Loshchilov
        & Hutter 2019). Biases and the scales of norms do not decay.
      clip_norm: gradients of a larger global norm are scaled down to this one, as Pascanu et al. 2012 do.
      non_finite: "stop" also leaves the number of the step as it was and changes nothing in any later step,
        so that the state found later is the one before the step; "skip" goes on with the next step.
    """
    norm = optax.tree.norm(gradients)
    # A norm that overflows counts as well: Adam squares every gradient.
    finite = jnp.isfinite(loss) & jnp.isfinite(norm) & jnp.isfinite(learning_rate)
    if clip_norm is not None:
        gradients, _ = optax.clip_by_global_norm(clip_norm).update(gradients, optax.EmptyState())
    step, stopped, moves = state.step + 1, state.stopped, finite
    if non_finite == "stop":
        moves = finite & ~stopped
        step, stopped = jnp.where(moves, step, state.step), stopped | ~finite
    updates, moments = adam_where(moves, gradients, state.moments)
    if weight_decay:
        updates = jax.tree.map(lambda u, p: u + weight_decay * p if p.ndim > 1 else u, updates, state.params)
    rate = jnp.where(moves, learning_rate, 0.0)
    params = optax.apply_updates(state.params, jax.tree.map(lambda u: -rate * u, updates))
    codebook = jax.tree.map(lambda new, old: jnp.where(moves, new, old), codebook, state.codebook)
    return Applied(TrainState(params, codebook, moments, state.key, step, stopped), norm, finite)


def make_eval_step(
    graphdef: nnx.GraphDef,
    *,
    bypass_codebook: bool,
    mesh: Mesh | None = None,
    target: Target | None = None,
) -> EvalStep:
    """`(params, codebook, graph, temperature) -> EvalOutput`, deterministic; changes nothing.

    With a mesh, `graph` has an axis of shards, and B of the output counts the slots of all of them. `target`
    as for `make_train_step`.
    """
    target = target or Target(target_platform(mesh))

    def eval_step(params, codebook, graph, temperature):
        model = nnx.merge(graphdef, params, codebook, copy=True)
        out = forward(model, graph, temperature=temperature, bypass_codebook=bypass_codebook, target=target)
        sizes, logits, told = _cluster_sizes(out, graph), out.logits, None
        if isinstance(model, ResidueModel) and isinstance(out, ResidueOutput):
            logits, told = protein_scores(model, graph, out)
        proteins = jax.tree.map(lambda x: jnp.asarray(x[:-1]), graph.globals)
        labels, mask = targets(graph, out)
        ce, residues = cross_entropy(out.logits, labels, mask), jnp.sum(graph.nodes.mask)
        if mesh is not None:
            labelled = jnp.sum(mask & (labels >= 0))
            total, count, residues = sum_over_devices((ce * labelled, labelled, residues), AXIS)
            ce = total / jnp.maximum(count, 1)
        return EvalOutput(
            logits=logits,
            cross_entropy=ce,
            residues=residues,
            cluster_sizes=sizes,
            cluster_features=out.cluster_features
            if isinstance(out, ParTokenOutput)
            else jnp.zeros((*sizes.shape, 0)),
            codes=out.codes if isinstance(out, ParTokenOutput) else jnp.full(sizes.shape, -1),
            squared_errors=out.squared_errors if isinstance(out, ParTokenOutput) else jnp.zeros(sizes.shape),
            num_codes=jnp.int32(out.usage.shape[0] if isinstance(out, ParTokenOutput) else 0),
            proteins=proteins,
            told=told,
        )

    if mesh is not None:
        whole = ("cross_entropy", "residues", "num_codes")
        specs: Any = EvalOutput._make(SAME if name in whole else SPLIT for name in EvalOutput._fields)
        return evaluate_on_mesh(eval_step, mesh, specs)
    return jax.jit(eval_step)


def compilations(step: Callable) -> int:
    """How many programs a compiled step has been compiled to: one per batch shape it has met."""
    return step._cache_size()  # type: ignore[attr-defined]


def _metrics(losses: LossTerms, output: Output, graph: PackedGraph) -> StepMetrics:
    """Everything but what becomes of the gradients."""
    labels, mask = targets(graph, output)
    return StepMetrics(
        losses=losses,
        correct=jnp.sum((jnp.argmax(output.logits, axis=-1) == labels) & mask),
        labelled=jnp.sum(mask & (labels >= 0)),
        proteins=jnp.sum(graph.globals.mask[:-1]),
        assigned=jnp.sum(_cluster_sizes(output, graph)),
        residues=jnp.sum(graph.nodes.mask),
        perplexity=output.perplexity if isinstance(output, ParTokenOutput) else jnp.float32(0.0),
        gradient_norm=jnp.float32(0.0),
        finite=jnp.bool_(True),
    )


def _of_all_devices(found: Objective, metrics: StepMetrics, axis_name: str) -> tuple[Objective, StepMetrics]:
    """Gradients, losses and counts summed over the devices that share a batch, in one all-reduce."""
    parts = (found.gradients, metrics.losses)
    # All but ParToken have one loss, a mean over labels, which can be divided by their number afterwards.
    one_loss = not isinstance(found.output, ParTokenOutput)
    if one_loss:
        parts = jax.tree.map(lambda x: x * metrics.labelled, parts)
    # The perplexity is that of all devices already, and the last two come from the summed gradients.
    apart = ("losses", "perplexity", "gradient_norm", "finite")
    nothing: Any = dict.fromkeys(apart)
    counts: Any = metrics._replace(**nothing)
    parts, counts = sum_over_devices((parts, counts), axis_name)
    if one_loss:
        parts = jax.tree.map(lambda x: x / jnp.maximum(counts.labelled, 1), parts)
    gradients, losses = parts
    counted: Any = {name: x for name, x in counts._asdict().items() if x is not None}
    return (
        found._replace(gradients=gradients, losses=losses),
        metrics._replace(**{**counted, "losses": losses}),
    )


def _cluster_sizes(out: Output, graph: PackedGraph) -> jax.Array:
    if isinstance(out, ParTokenOutput):
        return out.cluster_sizes
    return jnp.zeros((graph.n_node.shape[0] - 1, 0), jnp.int32)
