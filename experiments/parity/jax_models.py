"""The whole models of `partoken_jax`, as the checks see them (see `framework.py`)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.parity.framework import Arrays, Result, partoken_arrays
from experiments.parity.graphs import batch_graph
from experiments.parity.vectors import Vectors
from partoken_jax.config import ModelConfig
from partoken_jax.convert import dotted, from_state_dict, set_arrays
from partoken_jax.graphs.segments import segment_softmax, segment_sum
from partoken_jax.graphs.types import FeaturisedGraph
from partoken_jax.models import GVPClassifier, GVPOutput, ParToken, ParTokenOutput, build_model
from partoken_jax.nn.attention import ClusterAttention
from partoken_jax.nn.partitioner import Partition
from partoken_jax.nn.pooling import Pool
from partoken_jax.training.losses import cross_entropy
from partoken_jax.training.objective import LossWeights, Randomness, evaluate_objective, split_model


def flat_state(state: nnx.State) -> Arrays:
    """Arrays, or gradients in the same structure, by dotted path."""
    return {dotted(path): np.asarray(variable[...]) for path, variable in nnx.to_flat_state(state)}


class PublishedAttention(ClusterAttention):
    """The attention with the published defect: no gradient through the weights."""

    def weights(self, *args, **kwargs):
        return jax.lax.stop_gradient(super().weights(*args, **kwargs))


def partition_arrays(out: Partition, num_graphs: int) -> dict[str, jax.Array]:
    rounds = out.rounds
    return {
        "features": out.features[:num_graphs],
        "cardinality": out.cardinality,
        "cluster_of_residue": out.cluster_of_residue,
        "seed": rounds.seed[:, :num_graphs],
        "soft_p": rounds.soft_p,
        "theta": rounds.theta[:, :num_graphs],
        "phi": rounds.phi[:, :num_graphs],
        "link_share": rounds.link_share,
        "trimmed": rounds.trimmed[:, :num_graphs],
    }


def model(
    form: str, config: ModelConfig, weights: Vectors, published_attention: bool = False
) -> GVPClassifier | ParToken:
    """A model with recorded weights; the recorded set may hold a pooling that this variant lacks."""
    config = dataclasses.replace(config, message_passing=cast(Literal["blocks", "dense", "general"], form))
    built = cast(GVPClassifier | ParToken, build_model(config, rngs=nnx.Rngs(0)))
    if published_attention and isinstance(built, ParToken):
        built.attention = PublishedAttention(config.node_hidden[0], config.attention_heads, rngs=nnx.Rngs(0))
    have = flat_state(nnx.state(built))
    arrays = from_state_dict(weights.arrays)
    set_arrays(built, {k: a for k, a in arrays.items() if k in have or not k.startswith("pool.")})
    return built


class PublishedPool(Pool):
    """The attention pooling of the baseline with the published defect: one softmax over all residues of the
    batch (REFERENCE.md fault 10)."""

    def __call__(self, x, mask, index, num_graphs):
        assert self.score is not None
        weight = segment_softmax(self.score(x)[:, 0], mask, jnp.zeros_like(index), 1)
        return segment_sum(x * weight[:, None], index, num_graphs)


def baseline(
    form: str, config: ModelConfig, weights: Vectors, inputs: Vectors, first: Vectors, cotangents
) -> Result:
    graph, single = batch_graph(inputs, form), batch_graph(first, form)
    run = jax.jit(lambda m, graph: m(graph).logits)
    built = model(form, config, weights)
    outputs = {"single_logits": run(built, single)}
    if config.pooling == "attention":
        outputs["logits"] = run(built, graph)
        pool = PublishedPool("attention", config.node_hidden[0], rngs=nnx.Rngs(0))
        nnx.update(pool, nnx.state(built.pool))
        built.pool = pool
    if cotangents:
        found = _objective(built, graph, LossWeights(0.0, 0.0, 0.0))
        mixed, gradients = found.output.logits, flat_state(found.gradients)
    else:
        mixed, gradients = run(built, graph), {}
    ce = _cross_entropy(mixed, graph)
    outputs = {"logits": mixed, "mixed_logits": mixed, "ce": ce, **outputs}
    return Result({name: np.asarray(array) for name, array in outputs.items()}, gradients, {})


@functools.cache
def _objective_program(graphdef: nnx.GraphDef) -> Callable:
    """The objective of all models of one structure, compiled once."""

    @jax.jit
    def run(params, codebook, graph, weights, uniform, temperature):
        randomness = Randomness(uniform=uniform)
        return evaluate_objective(
            graphdef, params, codebook, graph, weights, randomness=randomness, temperature=temperature
        )

    return run


def _objective(built: GVPClassifier | ParToken, graph, weights: LossWeights, uniform=None, temperature=1.0):
    graphdef, params, codebook = split_model(built)
    return _objective_program(graphdef)(params, codebook, graph, weights, uniform, temperature)


def encoder(form: str, config: ModelConfig, weights: Vectors, inputs: Vectors):
    graph = batch_graph(inputs, form)

    @jax.jit
    def stages(encoder):
        hidden = encoder.embed(graph)
        nodes = [hidden.nodes]
        for layer in encoder.layers:
            nodes.append(layer(hidden._replace(nodes=nodes[-1])))
        return nodes, encoder(graph)

    return jax.tree.map(np.asarray, stages(model(form, config, weights).encoder))


def evaluate(
    form: str, config: ModelConfig, weights: Vectors, inputs: Vectors, *, temperature, uniform
) -> Arrays:
    graph, noise = batch_graph(inputs, form), {"temperature": temperature, "uniform": jnp.asarray(uniform)}

    @jax.jit
    def run(m):
        partition = m.partitioner(m.encoder(graph), graph.nodes.mask, graph, **noise)
        return {
            **_outputs(m(graph, **noise), graph),
            **partition_arrays(partition, len(inputs["y"])),
            "bypass_logits": m(graph, **noise, bypass_codebook=True).logits,
        }

    return jax.tree.map(np.asarray, run(model(form, config, weights)))


def train(
    form: str, config: ModelConfig, weights: Vectors, inputs: Vectors, *,
    temperature, uniform, published: bool, cotangents,
) -> Result:  # fmt: skip
    graph, noise = batch_graph(inputs, form), jnp.asarray(uniform)
    terms = LossWeights(*(cotangents.get(name, 0.0) for name in LossWeights._fields))
    assert cotangents["ce"] == 1.0
    built = model(form, config, weights, published)
    found = _objective(built, graph, terms, noise, temperature)
    buffers = {name.removeprefix("codebook."): a for name, a in flat_state(found.codebook).items()}
    outputs = {
        **_outputs(found.output, graph),
        "embeddings": buffers["embeddings"],
        "ema_counts": buffers["counts"],
        "ema_sums": buffers["sums"],
    }
    return Result(jax.tree.map(np.asarray, outputs), flat_state(found.gradients), {})


def _cross_entropy(logits: jax.Array, graph: FeaturisedGraph) -> jax.Array:
    return cross_entropy(logits, jnp.asarray(graph.globals.label[:-1]), jnp.asarray(graph.globals.mask[:-1]))


def _outputs(out: ParTokenOutput, graph) -> dict[str, jax.Array]:
    return partoken_arrays(out) | {"ce": _cross_entropy(out.logits, graph)}


def follow(
    form: str, config: ModelConfig, weights: Vectors, inputs: Vectors, *, adam: dict, temperature, noise
) -> tuple[list[Arrays], Arrays]:
    graph = batch_graph(inputs, form)
    optimiser = optax.adam(**adam)
    # The recorded trajectory has the attention defect.
    built = model(form, config, weights, published_attention=config.kind == "partoken")
    graphdef, params, codebook = split_model(built)
    objective, weights_of_loss = _objective_program(graphdef), LossWeights(1.0, 0.0, 0.0)

    @jax.jit
    def update(params, opt_state, gradients):
        updates, opt_state = optimiser.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state, records = optimiser.init(params), []
    for uniform in jnp.asarray(noise) if config.kind == "partoken" else [None] * len(noise):
        found = objective(params, codebook, graph, weights_of_loss, uniform, temperature)
        record = {} if isinstance(found.output, GVPOutput) else _outputs(found.output, graph)
        records.append(jax.tree.map(np.asarray, {**record, "losses": found.losses.total}))
        params, opt_state = update(params, opt_state, found.gradients)
        codebook = found.codebook
    return records, {**flat_state(params), **flat_state(codebook)}
