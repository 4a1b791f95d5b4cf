"""The checks' view of `partoken_jax`; what each function is for stands in `framework.py`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import nnx

from experiments.parity.framework import Arrays, Result
from experiments.parity.graphs import edge_graph
from experiments.parity.jax_models import (
    PublishedAttention,
    baseline,
    encoder,
    evaluate,
    flat_state,
    follow,
    partition_arrays,
    train,
)
from experiments.parity.vectors import Vectors
from partoken_jax.config import PartitionerConfig
from partoken_jax.convert import from_state_dict, set_arrays
from partoken_jax.graphs.features import featurise
from partoken_jax.graphs.packing import pack
from partoken_jax.graphs.types import (
    EdgeFeatures,
    HiddenGraph,
    HiddenNodes,
    NeighbourEdges,
    edge_list,
)
from partoken_jax.nn import codebook as vq
from partoken_jax.nn import kmeans as k_means
from partoken_jax.nn.attention import ClusterAttention
from partoken_jax.nn.fusion import GatedFusion
from partoken_jax.nn.gvp import GVP
from partoken_jax.nn.message_passing import GVPConv, GVPConvLayer
from partoken_jax.nn.norms import TupleLayerNorm
from partoken_jax.nn.partitioner import Partitioner
from partoken_jax.nn.presence import log_absence, presence
from partoken_jax.proteins.neighbours import neighbour_table
from partoken_jax.proteins.protein import Protein
from partoken_jax.training.report import environment as environment

# With what is imported, all that `framework.py` asks for.
__all__ = ["baseline", "encoder", "evaluate", "follow", "train"]

CONV_FORMS = ("general", "dense")
MODEL_FORMS = ("general", "blocks", "dense")


def full_precision():
    """Every product inside in full float32, on every device."""
    return jax.default_matmul_precision("highest")


@functools.cache
def _program(graphdef: nnx.GraphDef, run: Callable, with_gradients: bool) -> Callable:
    """One compiled program for all modules of one structure, whatever their weights and inputs."""

    def outputs(params, inputs, rest, constants):
        return run(nnx.merge(graphdef, params, rest, copy=True), constants, **inputs)

    if not with_gradients:
        return jax.jit(outputs)

    def total(params, inputs, rest, constants, cotangents):
        out = outputs(params, inputs, rest, constants)
        return sum(jnp.sum(out[name] * c) for name, c in cotangents.items()), out

    return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))


def pullback(
    module: nnx.Module, run: Callable, inputs: Arrays, cotangents: Arrays | None, constants: Any = None
) -> Result:
    """Outputs of `run(module, constants, **inputs)` and, where there are cotangents, gradients."""
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)  # type: ignore[misc]
    program = _program(graphdef, run, bool(cotangents))
    if not cotangents:
        outputs = program(params, inputs, rest, constants)
        return Result(jax.tree.map(np.asarray, outputs), {}, {})
    (parameters, into), outputs = program(params, inputs, rest, constants, cotangents)
    return Result(jax.tree.map(np.asarray, outputs), flat_state(parameters), jax.tree.map(np.asarray, into))


def gvp(weights: Vectors, inputs, cotangents, *, dims_in, dims_out, hidden, activated, gate) -> Result:
    activations = (jax.nn.relu, jax.nn.sigmoid) if activated else (None, None)
    module = GVP(
        dims_in, dims_out, hidden=hidden, activations=activations, vector_gate=gate, rngs=nnx.Rngs(0)
    )
    set_arrays(module, from_state_dict(weights.arrays))
    return pullback(module, _block, inputs, cotangents)


def layer_norm(weights: Vectors, inputs, cotangents, *, dims) -> Result:
    module = TupleLayerNorm(dims, rngs=nnx.Rngs(0))
    set_arrays(module, from_state_dict(weights.arrays))
    return pullback(module, _block, inputs, cotangents)


def _block(module, _, in_s, in_v=None):
    s, v = module(in_s, in_v)
    return {"out_s": s} if v is None else {"out_s": s, "out_v": v}


def conv(
    form: str, weights: Vectors, edge_index, inputs, cotangents, *,
    layer: bool, dims_in, dims_out, edge_dims, num_gvps, aggregate, gate,
) -> Result:  # fmt: skip
    module: GVPConv | GVPConvLayer
    if layer:
        module = GVPConvLayer(dims_in, edge_dims, vector_gate=gate, rngs=nnx.Rngs(0))
    else:
        options = {"num_gvps": num_gvps, "aggregate": aggregate, "vector_gate": gate}
        module = GVPConv(dims_in, dims_out, edge_dims, rngs=nnx.Rngs(0), **options)
    set_arrays(module, from_state_dict(weights.arrays))
    num_nodes = len(inputs["in_s"])
    senders, receivers, mask, take = edge_graph(edge_index, num_nodes, form == "dense")
    return pullback(module, _conv, inputs, cotangents, (senders, receivers, mask, take))


def _conv(m, edges, in_s, in_v, edge_s, edge_v):
    senders, receivers, mask, take = edges
    graph = HiddenGraph(
        nodes=HiddenNodes(in_s, in_v),
        edges=EdgeFeatures(edge_s[take], edge_v[take], mask),
        senders=senders,
        receivers=receivers,
        n_node=jnp.array([len(in_s)]),
        n_edge=jnp.array([senders.size]),
        globals=None,
    )
    s, v = m(graph)
    return {"out_s": s, "out_v": v}


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


def attention(
    weights: Vectors, heads: int, inputs, mask, cotangents, *, published: bool, temperature: float = 1.0
) -> Result:
    kind = PublishedAttention if published else ClusterAttention
    module = kind(inputs["g"].shape[-1], heads, rngs=nnx.Rngs(0))
    set_arrays(module, from_state_dict(weights.arrays, "global_cluster_attn."))
    return pullback(module, _attention, inputs, cotangents, (mask, temperature))


def _attention(m, mask_and_temperature, g, C):
    mask, temperature = mask_and_temperature
    out = m(g, C, mask, temperature=temperature)
    return {"pooled": out.pooled, "importance": out.importance, "attn": out.weights}


def fusion(weights: Vectors, inputs, cotangents) -> Result:
    module = GatedFusion(inputs["g"].shape[-1], rngs=nnx.Rngs(0))
    set_arrays(module, from_state_dict(weights.arrays, "fw_gate."))
    return pullback(module, _fusion, inputs, cotangents)


def _fusion(m, _, g, c_star):
    fused, beta = m(g, c_star)
    return {"fused": fused, "beta": beta}


def codebook(state, z, mask, setting, *, metric, update, temperature, cotangents) -> Result:
    uses = jnp.zeros(len(state[0]), jnp.int32)  # not recorded: the original does not count them
    embeddings, counts, sums = map(jnp.asarray, state)
    state, mask = vq.CodebookState(embeddings, counts, sums, uses), jnp.asarray(mask)

    def run(z):
        out = vq.quantise(state, z, mask, beta=setting.beta, metric=metric)
        after = state
        if update:
            statistics = vq.cluster_statistics(z, out.codes, len(embeddings))
            after = vq.ema_update(
                state, statistics, decay=setting.decay, epsilon=setting.epsilon, keep_unused=False
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
    num_graphs = int(batch[-1]) + 1
    senders, receivers, mask, _ = edge_graph(edge_index, len(batch), form != "general")
    graph = jraph.GraphsTuple(
        nodes=np.zeros(len(batch)),
        edges=NeighbourEdges(mask),
        senders=senders,
        receivers=receivers,
        n_node=np.bincount(batch, minlength=num_graphs),
        n_edge=np.zeros(num_graphs, int),
        globals=None,
    )
    module = Partitioner(inputs["x"].shape[-1], config, rngs=nnx.Rngs(0))
    set_arrays(module, from_state_dict(weights.arrays, "partitioner."))
    return pullback(module, _partitioned, inputs, cotangents, (graph, temperature, uniform))


def _partitioned(m, given, x):
    graph, temperature, uniform = given
    out = m(x, jnp.ones(len(x), bool), graph, temperature=temperature, uniform=uniform)
    return partition_arrays(out, graph.n_node.shape[0])
