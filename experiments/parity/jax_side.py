"""The checks' view of `partoken_jax`; what each function is for stands in `framework.py`."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
from flax import nnx

from experiments.parity.framework import Arrays, Result
from experiments.parity.layout import dense_layout
from experiments.parity.vectors import Vectors
from partoken_jax.config import ModelConfig, PartitionerConfig
from partoken_jax.convert import dotted, from_state_dict, set_arrays
from partoken_jax.graphs.features import featurise
from partoken_jax.graphs.neighbours import neighbour_table
from partoken_jax.graphs.packing import pack
from partoken_jax.graphs.segments import segment_softmax, segment_sum
from partoken_jax.graphs.types import (
    EdgeFeatures,
    FeaturisedGraph,
    HiddenGraph,
    HiddenNodes,
    NeighbourEdges,
    NodeFeatures,
    ProteinGlobals,
    edge_list,
)
from partoken_jax.models import GVPClassifier, ParToken, ParTokenOutput, build_model
from partoken_jax.nn import codebook as vq
from partoken_jax.nn import kmeans as k_means
from partoken_jax.nn.attention import ClusterAttention
from partoken_jax.nn.fusion import GatedFusion
from partoken_jax.nn.gvp import GVP
from partoken_jax.nn.message_passing import GVPConv, GVPConvLayer
from partoken_jax.nn.norms import TupleLayerNorm
from partoken_jax.nn.partitioner import Partition, Partitioner
from partoken_jax.nn.pooling import Pool
from partoken_jax.nn.presence import log_absence, presence
from partoken_jax.proteins.protein import Protein
from partoken_jax.training.losses import cross_entropy
from partoken_jax.training.objective import (
    LossWeights,
    Objective,
    Randomness,
    evaluate_objective,
    split_model,
)
from partoken_jax.training.report import environment as environment

CONV_FORMS = ("general", "dense")
MODEL_FORMS = ("general", "dense")


def full_precision():
    """Every product inside in full float32, on every device."""
    return jax.default_matmul_precision("highest")


def pullback(module: nnx.Module, run: Callable, inputs: Arrays, cotangents: Arrays | None) -> Result:
    """Outputs of `run(module, **inputs)` and, where there are cotangents, gradients, all from one compiled
    program."""
    inputs = {name: jnp.asarray(array) for name, array in inputs.items()}
    if not cotangents:
        return Result({name: np.asarray(array) for name, array in run(module, **inputs).items()}, {}, {})
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def total(params, inputs):
        outputs = run(nnx.merge(graphdef, params, rest, copy=True), **inputs)
        return sum(jnp.sum(outputs[name] * c) for name, c in cotangents.items()), outputs

    gradient = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    (parameters, into), outputs = gradient(params, inputs)
    return Result(jax.tree.map(np.asarray, outputs), flat_state(parameters), jax.tree.map(np.asarray, into))


def flat_state(state: nnx.State) -> Arrays:
    """Arrays, or gradients in the same structure, by dotted path."""
    return {dotted(path): np.asarray(variable[...]) for path, variable in nnx.to_flat_state(state)}


def gvp(weights: Vectors, inputs, cotangents, *, dims_in, dims_out, hidden, activated, gate) -> Result:
    options = {} if activated else {"activations": (None, None)}
    module = GVP(dims_in, dims_out, hidden=hidden, vector_gate=gate, rngs=nnx.Rngs(0), **options)
    set_arrays(module, from_state_dict(weights.arrays))
    return pullback(module, _block, inputs, cotangents)


def layer_norm(weights: Vectors, inputs, cotangents, *, dims) -> Result:
    module = TupleLayerNorm(dims, rngs=nnx.Rngs(0))
    set_arrays(module, from_state_dict(weights.arrays))
    return pullback(module, _block, inputs, cotangents)


def _block(module, in_s, in_v=None):
    s, v = module(in_s, in_v)
    return {"out_s": s} if v is None else {"out_s": s, "out_v": v}


def conv(
    form: str, weights: Vectors, edge_index, inputs, cotangents, *,
    layer: bool, dims_in, dims_out, edge_dims, num_gvps, aggregate, gate,
) -> Result:  # fmt: skip
    options = {"vector_gate": gate, "rngs": nnx.Rngs(0)}
    if layer:
        module = GVPConvLayer(dims_in, edge_dims, **options)
    else:
        module = GVPConv(dims_in, dims_out, edge_dims, num_gvps=num_gvps, aggregate=aggregate, **options)
    set_arrays(module, from_state_dict(weights.arrays))
    num_nodes = len(inputs["in_s"])
    senders, receivers, mask, take = edge_graph(edge_index, num_nodes, form == "dense")

    def run(m, in_s, in_v, edge_s, edge_v):
        graph = HiddenGraph(
            nodes=HiddenNodes(in_s, in_v),
            edges=EdgeFeatures(edge_s[take], edge_v[take], jnp.asarray(mask)),
            senders=jnp.asarray(senders),
            receivers=None if receivers is None else jnp.asarray(receivers),
            n_node=jnp.array([num_nodes]),
            n_edge=jnp.array([senders.size]),
            globals=None,
        )
        s, v = m(graph)
        return {"out_s": s, "out_v": v}

    return pullback(module, run, inputs, cotangents)


def features(backbone: np.ndarray, sequence: str, k: int) -> Arrays:
    protein = Protein(name="protein", sequence=sequence, backbone=backbone)
    table = neighbour_table(protein.backbone[:, 1], protein.complete, k)
    n = len(sequence)
    packed = pack([protein], [table], num_nodes=n + 1, batch_size=1, indices=[0])
    graph = edge_list(jax.jit(featurise)(packed))
    real = np.asarray(graph.edges.mask)
    arrays = {
        "edge_index": jnp.stack([graph.senders, graph.receivers])[:, real],
        "mask": graph.nodes.mask[:n],
        "seq": graph.nodes.residue_type[:n],
        "node_s": graph.nodes.scalars[:n],
        "node_v": graph.nodes.vectors[:n],
        "edge_s": graph.edges.scalars[real],
        "edge_v": graph.edges.vectors[real],
        "x_ca": packed.nodes.backbone[:n, 1],
    }
    return {name: np.asarray(array) for name, array in arrays.items()}


class PublishedAttention(ClusterAttention):
    """The attention with the published defect: no gradient through the weights."""

    def weights(self, *args, **kwargs):
        return jax.lax.stop_gradient(super().weights(*args, **kwargs))


def attention(
    weights: Vectors, heads: int, inputs, mask, cotangents, *, published: bool, temperature: float = 1.0
) -> Result:
    kind = PublishedAttention if published else ClusterAttention
    module = kind(inputs["g"].shape[-1], heads, rngs=nnx.Rngs(0))
    set_arrays(module, from_state_dict(weights.arrays, "global_cluster_attn."))

    def run(m, g, C):
        out = m(g, C, jnp.asarray(mask), temperature=temperature)
        return {"pooled": out.pooled, "importance": out.importance, "attn": out.weights}

    return pullback(module, run, inputs, cotangents)


def fusion(weights: Vectors, inputs, cotangents) -> Result:
    module = GatedFusion(inputs["g"].shape[-1], rngs=nnx.Rngs(0))
    set_arrays(module, from_state_dict(weights.arrays, "fw_gate."))

    def run(m, g, c_star):
        fused, beta = m(g, c_star)
        return {"fused": fused, "beta": beta}

    return pullback(module, run, inputs, cotangents)


def codebook(state, z, mask, setting, *, metric, update, temperature, cotangents) -> Result:
    state, mask = vq.CodebookState(*map(jnp.asarray, state)), jnp.asarray(mask)

    def run(z):
        out = vq.quantise(state, z, mask, beta=setting.beta, metric=metric)
        after = state
        if update:
            after = vq.ema_update(
                state, z, out.codes, decay=setting.decay, epsilon=setting.epsilon, keep_unused=False
            )
        use = vq.codebook_use(after.counts, setting.epsilon)
        present = presence(log_absence(after.embeddings, z, mask, temperature))
        return {
            "indices": out.codes,
            "zq": out.features,
            "vq_loss": out.loss,
            **dict(zip(("embeddings", "ema_counts", "ema_sums"), after, strict=True)),
            "usage_probs": use.usage,
            "perplexity": use.perplexity,
            "entropy_loss": use.entropy_loss,
            "presence": present,
        }

    def total(z):
        outputs = run(z)
        return sum(jnp.sum(outputs[name] * c) for name, c in cotangents.items())

    z = jnp.asarray(z)
    into = {"z": np.asarray(jax.grad(total)(z))} if cotangents else {}
    return Result({name: np.asarray(array) for name, array in run(z).items()}, {}, into)


def kmeans(samples, num_codes: int, permutation) -> tuple[np.ndarray, int]:
    codes, iterations = k_means.kmeans(jnp.asarray(samples), num_codes, permutation=jnp.asarray(permutation))
    return np.asarray(codes), int(iterations)


def partitioner(
    form: str, config: PartitionerConfig, weights: Vectors, inputs, edge_index, batch, *,
    temperature, uniform, cotangents,
) -> Result:  # fmt: skip
    num_graphs = int(batch[-1]) + 1
    senders, receivers, edge_mask, _ = edge_graph(edge_index, len(batch), form == "dense")
    graph = jraph.GraphsTuple(
        nodes=jnp.zeros(len(batch)),
        edges=NeighbourEdges(jnp.asarray(edge_mask)),
        senders=jnp.asarray(senders),
        receivers=None if receivers is None else jnp.asarray(receivers),
        n_node=jnp.asarray(np.bincount(batch, minlength=num_graphs)),
        n_edge=jnp.zeros(num_graphs, int),
        globals=None,
    )
    module = Partitioner(inputs["x"].shape[-1], config, rngs=nnx.Rngs(0))
    set_arrays(module, from_state_dict(weights.arrays, "partitioner."))
    noise = jnp.asarray(uniform)

    def run(m, x):
        mask = jnp.ones(len(batch), bool)
        return _partition(m(x, mask, graph, temperature=temperature, uniform=noise), num_graphs)

    return pullback(module, run, inputs, cotangents)


def _partition(out: Partition, num_graphs: int) -> dict[str, jax.Array]:
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


def edge_graph(edge_index: np.ndarray, num_nodes: int, dense: bool):
    """(senders, receivers, mask, take): a list of edges as recorded, or a table of neighbours without
    receivers. `take` picks the recorded edge of each slot."""
    senders, receivers = edge_index
    if not dense:
        return senders, receivers, np.ones(len(senders), bool), np.arange(len(senders))
    table, slot = dense_layout(senders, receivers, num_nodes)
    return table, None, slot >= 0, np.maximum(slot, 0)


def batch_graph(inputs: Vectors, form: str) -> FeaturisedGraph:
    """A recorded batch (`in.*`) as a featurised graph with an empty padding graph."""
    batch, labels = inputs["batch"], inputs["y"]
    num_graphs = len(labels)
    senders, receivers, mask, take = edge_graph(inputs["edge_index"], len(batch), form == "dense")
    n_edge = np.bincount(batch[inputs["edge_index"][1]], minlength=num_graphs)
    return FeaturisedGraph(
        nodes=NodeFeatures(
            jnp.asarray(inputs["node_s"]),
            jnp.asarray(inputs["node_v"]),
            jnp.asarray(inputs["seq"]),
            jnp.ones(len(batch), bool),
        ),
        edges=EdgeFeatures(
            jnp.asarray(inputs["edge_s"][take]), jnp.asarray(inputs["edge_v"][take]), jnp.asarray(mask)
        ),
        senders=jnp.asarray(senders),
        receivers=None if receivers is None else jnp.asarray(receivers),
        n_node=jnp.asarray(np.append(np.bincount(batch, minlength=num_graphs), 0)),
        n_edge=jnp.asarray(np.append(n_edge, 0)),
        globals=ProteinGlobals(
            label=jnp.asarray(np.append(labels, -1)),
            protein=jnp.arange(num_graphs + 1),
            mask=jnp.arange(num_graphs + 1) < num_graphs,
        ),
    )


def model(
    form: str, config: ModelConfig, weights: Vectors, published_attention: bool = False
) -> GVPClassifier | ParToken:
    """A model with recorded weights; the recorded set may hold a pooling that this variant lacks."""
    config = dataclasses.replace(config, message_passing=form)
    built = build_model(config, rngs=nnx.Rngs(0))
    if published_attention:
        built.attention = PublishedAttention(config.node_hidden[0], config.attention_heads, rngs=nnx.Rngs(0))
    have = flat_state(nnx.state(built))
    arrays = from_state_dict(weights.arrays)
    set_arrays(built, {k: a for k, a in arrays.items() if k in have or not k.startswith("pool.")})
    return built


class PublishedPool(Pool):
    """The attention pooling of the baseline with the published defect: one softmax over all residues of the
    batch (REFERENCE.md fault 10)."""

    def __call__(self, x, mask, index, num_graphs):
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
    ce = cross_entropy(mixed, graph.globals.label[:-1], graph.globals.mask[:-1])
    outputs = {"logits": mixed, "mixed_logits": mixed, "ce": ce, **outputs}
    return Result({name: np.asarray(array) for name, array in outputs.items()}, gradients, {})


def _objective(built: GVPClassifier | ParToken, graph, weights: LossWeights, **noise) -> Objective:
    """Losses and gradients of a whole model, from one compiled program."""
    graphdef, params, codebook = split_model(built)

    @jax.jit
    def run(params, codebook, graph):
        return evaluate_objective(
            graphdef, params, codebook, graph, weights,
            randomness=Randomness(uniform=noise.get("uniform")), temperature=noise.get("temperature", 1.0),
        )  # fmt: skip

    return run(params, codebook, graph)


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
            **_partition(partition, len(inputs["y"])),
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
    found = _objective(built, graph, terms, uniform=noise, temperature=temperature)
    buffers = {name.removeprefix("codebook."): a for name, a in flat_state(found.codebook).items()}
    outputs = {
        **_outputs(found.output, graph),
        "embeddings": buffers["embeddings"],
        "ema_counts": buffers["counts"],
        "ema_sums": buffers["sums"],
    }
    return Result(jax.tree.map(np.asarray, outputs), flat_state(found.gradients), {})


def _outputs(out: ParTokenOutput, graph) -> dict[str, jax.Array]:
    return {
        "logits": out.logits,
        "ce": cross_entropy(out.logits, graph.globals.label[:-1], graph.globals.mask[:-1]),
        **out.losses._asdict(),
        "cluster_of_residue": out.cluster_of_residue,
        "cluster_features": out.cluster_features,
        "codes": out.codes,
        "importance": out.importances,
        "presence": out.presence,
        "perplexity": out.perplexity,
        "entropy_loss": out.entropy_loss,
    }


def follow(
    form: str, config: ModelConfig, weights: Vectors, inputs: Vectors, *, adam: dict, temperature, noise
) -> tuple[list[Arrays], Arrays]:
    graph = batch_graph(inputs, form)
    optimiser = optax.adam(**adam)
    # The recorded trajectory has the attention defect.
    built = model(form, config, weights, published_attention=config.kind == "partoken")
    graphdef, params, codebook = split_model(built)

    @jax.jit
    def step(params, codebook, opt_state, uniform):
        found = evaluate_objective(
            graphdef, params, codebook, graph, LossWeights(vq=1.0, coverage=0.0, cardinality=0.0),
            randomness=Randomness(uniform=uniform), temperature=temperature,
        )  # fmt: skip
        record = {"losses": found.losses.total}
        if isinstance(found.output, ParTokenOutput):
            record |= _outputs(found.output, graph)
            record["losses"] = found.losses.total
        updates, opt_state = optimiser.update(found.gradients, opt_state, params)
        return optax.apply_updates(params, updates), found.codebook, opt_state, record

    opt_state, records = optimiser.init(params), []
    for uniform in jnp.asarray(noise):
        params, codebook, opt_state, record = step(params, codebook, opt_state, uniform)
        records.append(jax.tree.map(np.asarray, record))
    return records, {**flat_state(params), **flat_state(codebook)}
