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
from partoken_jax.graphs.segments import graph_index, segment_softmax
from partoken_jax.graphs.types import EdgeFeatures, NeighbourEdges, NodeFeatures, ProteinGlobals
from partoken_jax.models import GVPClassifier, ParToken, ParTokenOutput, build_model
from partoken_jax.nn import codebook as vq
from partoken_jax.nn import kmeans as k_means
from partoken_jax.nn.attention import ClusterAttention
from partoken_jax.nn.fusion import GatedFusion
from partoken_jax.nn.gvp import GVP
from partoken_jax.nn.message_passing import GVPConv, GVPConvLayer
from partoken_jax.nn.norms import TupleLayerNorm
from partoken_jax.nn.partitioner import Partition, Partitioner
from partoken_jax.nn.presence import log_absence, presence
from partoken_jax.proteins.protein import Protein
from partoken_jax.training.losses import cross_entropy
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
    options = {"num_gvps": num_gvps, "vector_gate": gate, "rngs": nnx.Rngs(0)}
    if layer:
        module = GVPConvLayer(dims_in, edge_dims, **options)
    else:
        module = GVPConv(dims_in, dims_out, edge_dims, aggregate=aggregate, **options)
    set_arrays(module, from_state_dict(weights.arrays))
    dense, num_nodes = form == "dense", len(inputs["in_s"])
    senders, receivers, mask, take = edge_graph(edge_index, num_nodes, dense)

    def run(m, in_s, in_v, edge_s, edge_v):
        graph = jraph.GraphsTuple(
            nodes=(in_s, in_v),
            edges=EdgeFeatures(edge_s[take], edge_v[take], jnp.asarray(mask)),
            senders=jnp.asarray(senders),
            receivers=jnp.asarray(receivers),
            n_node=jnp.array([num_nodes]),
            n_edge=jnp.array([len(senders)]),
            globals=None,
        )
        if layer:
            s, v = m(graph, dense=dense)
        else:
            s, v = m.dense(graph) if dense else m(graph)
        return {"out_s": s, "out_v": v}

    return pullback(module, run, inputs, cotangents)


def features(backbone: np.ndarray, sequence: str, k: int) -> Arrays:
    protein = Protein(name="protein", sequence=sequence, backbone=backbone)
    table = neighbour_table(protein.backbone[:, 1], protein.complete, k)
    n = len(sequence)
    packed = pack([protein], [table], num_nodes=n + 1, batch_size=1, indices=[0])
    graph = jax.jit(featurise)(jax.tree.map(jnp.asarray, packed))
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
    uses = jnp.zeros(len(state[0]), jnp.int32)  # not recorded: the original does not count them
    state, mask = vq.CodebookState(*map(jnp.asarray, state), uses), jnp.asarray(mask)

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
            **dict(zip(("embeddings", "ema_counts", "ema_sums"), after[:3], strict=True)),
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
    dense, num_graphs = form == "dense", int(batch[-1]) + 1
    senders, receivers, edge_mask, _ = edge_graph(edge_index, len(batch), dense)
    graph = jraph.GraphsTuple(
        nodes=jnp.zeros(len(batch)),
        edges=NeighbourEdges(jnp.asarray(edge_mask)),
        senders=jnp.asarray(senders),
        receivers=jnp.asarray(receivers),
        n_node=jnp.asarray(np.bincount(batch, minlength=num_graphs)),
        n_edge=jnp.zeros(num_graphs, int),
        globals=None,
    )
    module = Partitioner(inputs["x"].shape[-1], config, dense=dense, rngs=nnx.Rngs(0))
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
    """(senders, receivers, mask, take): an edge list as recorded, or in the dense layout. `take` picks the
    recorded edge of each slot."""
    senders, receivers = edge_index
    if not dense:
        return senders, receivers, np.ones(len(senders), bool), np.arange(len(senders))
    table, slot = dense_layout(senders, receivers, num_nodes)
    receivers = np.repeat(np.arange(num_nodes), table.shape[1])
    return table.reshape(-1), receivers, slot.reshape(-1) >= 0, np.maximum(slot.reshape(-1), 0)


def batch_graph(inputs: Vectors, form: str) -> jraph.GraphsTuple:
    """A recorded batch (`in.*`) as a featurised graph with an empty padding graph."""
    batch, labels = inputs["batch"], inputs["y"]
    num_graphs = len(labels)
    senders, receivers, mask, take = edge_graph(inputs["edge_index"], len(batch), form == "dense")
    return jraph.GraphsTuple(
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
        receivers=jnp.asarray(receivers),
        n_node=jnp.asarray(np.append(np.bincount(batch, minlength=num_graphs), 0)),
        n_edge=jnp.asarray(np.append(np.bincount(batch[receivers], minlength=num_graphs), 0)),
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


def _classification_loss(logits, graph):
    return cross_entropy(logits, graph.globals.label[:-1], graph.globals.mask[:-1])


def baseline(
    form: str, config: ModelConfig, weights: Vectors, inputs: Vectors, first: Vectors, cotangents
) -> Result:
    graph, single = batch_graph(inputs, form), batch_graph(first, form)

    def run(m):
        logits = m(graph).logits
        # The published attention pooling mixes the proteins of a batch; ours does not.
        mixed = _published_attention_pooling(m, graph) if config.pooling == "attention" else logits
        return {
            "logits": logits,
            "mixed_logits": mixed,
            "ce": _classification_loss(mixed, graph),
            "single_logits": m(single).logits,
        }

    return pullback(model(form, config, weights), nnx.jit(run) if not cotangents else run, {}, cotangents)


def _published_attention_pooling(m: GVPClassifier, graph):
    """Logits of the baseline with one softmax over all residues of the batch, as the original has it."""
    out = m(graph)
    index = graph_index(graph)
    score = m.pool.score(out.node_features)[:, 0]
    weight = segment_softmax(score, graph.nodes.mask, jnp.zeros_like(index), 1)
    pooled = jax.ops.segment_sum(out.node_features * weight[:, None], index, len(graph.n_node))
    return m.classifier(pooled[:-1])


def encoder(form: str, config: ModelConfig, weights: Vectors, inputs: Vectors):
    graph = batch_graph(inputs, form)

    @jax.jit
    def stages(encoder):
        hidden = encoder.embed(graph)
        nodes = [hidden.nodes]
        for layer in encoder.layers:
            nodes.append(layer(hidden._replace(nodes=nodes[-1]), dense=encoder.dense))
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

    def run(m):
        out = m(graph, temperature=temperature, uniform=noise, update_codebook=True)
        buffers = zip(("embeddings", "ema_counts", "ema_sums"), m.codebook.state[:3], strict=True)
        return {**_outputs(out, graph), **dict(buffers)}

    return pullback(model(form, config, weights, published), run, {}, cotangents)


def _outputs(out: ParTokenOutput, graph) -> dict[str, jax.Array]:
    return {
        "logits": out.logits,
        "ce": _classification_loss(out.logits, graph),
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
    graphdef, params, buffers = nnx.split(built, nnx.Param, ...)

    @jax.jit
    def step(params, buffers, opt_state, uniform):
        def loss(params):
            m = nnx.merge(graphdef, params, buffers, copy=True)
            if config.kind == "gvp":
                value = _classification_loss(m(graph).logits, graph)
                record = {"losses": value}
            else:
                out = m(graph, temperature=temperature, uniform=uniform, update_codebook=True)
                record = _outputs(out, graph)
                value = record["losses"] = record["ce"] + record["vq"]
            return value, (record, nnx.split(m, nnx.Param, ...)[2])

        gradients, (record, buffers) = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimiser.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), buffers, opt_state, record

    opt_state, records = optimiser.init(params), []
    for uniform in jnp.asarray(noise):
        params, buffers, opt_state, record = step(params, buffers, opt_state, uniform)
        records.append(jax.tree.map(np.asarray, record))
    return records, {**flat_state(params), **flat_state(buffers)}
