"""The checks' view of `experiments.torch_peer`; what each function is for stands in `framework.py`."""

import contextlib
import platform
from collections.abc import Callable
from importlib.metadata import version
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from experiments.parity.framework import Arrays, Result, partoken_arrays
from experiments.parity.vectors import Vectors
from experiments.torch_peer.attention import ClusterAttention, GatedFusion
from experiments.torch_peer.codebook import VQCodebook, presence
from experiments.torch_peer.features import featurise
from experiments.torch_peer.graphs import ProteinBatch, ProteinGraph, knn_edges
from experiments.torch_peer.gvp import ACTIVATED, GVP, LINEAR, GVPConv, GVPConvLayer, TupleLayerNorm
from experiments.torch_peer.models import GVPClassifier, ParToken, ParTokenOutput, embed, pool
from experiments.torch_peer.partition import Partition
from experiments.torch_peer.partitioner import Bookkeeping, Partitioner
from experiments.torch_peer.weights import load_original
from partoken_jax.config import CodebookConfig, ModelConfig, PartitionerConfig
from partoken_jax.convert import from_state_dict
from partoken_jax.proteins import Protein

CONV_FORMS = ("scatter",)
MODEL_FORMS: tuple[Bookkeeping, ...] = ("vectorised", "loops")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Module = TypeVar("Module", bound=nn.Module)

kmeans = None  # weights and codebook come from elsewhere


@contextlib.contextmanager
def full_precision():
    """Every product inside in full float32, on every device."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def environment() -> dict[str, str]:
    """Versions and device, for reports."""
    packages = {name: version(name) for name in ("torch", "torch_geometric", "numpy")}
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    return {"python": platform.python_version(), **packages, "device": f"{device} ({DEVICE.type})"}


def tensor(array) -> Tensor:
    return torch.as_tensor(np.asarray(array), device=DEVICE)


def numpy(values: dict[str, Tensor]) -> Arrays:
    return {name: value.detach().cpu().numpy() for name, value in values.items()}


def pullback(
    module: nn.Module, run: Callable, inputs: Arrays, cotangents: Arrays | None, prefix: str = ""
) -> Result:
    """Outputs of `run(**inputs)` and, where there are cotangents, gradients. `prefix`: the module's name in
    the original, as for `from_state_dict`."""
    leaves = {name: tensor(array).requires_grad_() for name, array in inputs.items()}
    outputs = run(**leaves)
    if not cotangents:
        return Result(numpy(outputs), {}, {})
    sum((outputs[name] * tensor(c)).sum() for name, c in cotangents.items()).backward()

    def gradient(leaf: Tensor) -> Tensor:
        return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    parameters = numpy({name: gradient(p) for name, p in module.named_parameters()})
    into = numpy({name: gradient(leaf) for name, leaf in leaves.items()})
    return Result(numpy(outputs), from_state_dict(parameters, prefix), into)


def _loaded(module: Module, weights: Vectors, prefix: str = "") -> Module:
    load_original(module, weights.arrays, prefix)
    return module.to(DEVICE).eval()


def _columns(v: Tensor) -> Tensor:
    """[..., C, 3] ↔ [..., 3, C]"""
    return v.transpose(-1, -2)


def gvp(weights: Vectors, inputs, cotangents, *, dims_in, dims_out, hidden, activated, gate) -> Result:
    activations = ACTIVATED if activated else LINEAR
    module = GVP(dims_in, dims_out, hidden=hidden, activations=activations, vector_gate=gate)
    return _block(_loaded(module, weights), inputs, cotangents)


def layer_norm(weights: Vectors, inputs, cotangents, *, dims) -> Result:
    return _block(_loaded(TupleLayerNorm(dims), weights), inputs, cotangents)


def _block(module: nn.Module, inputs, cotangents) -> Result:
    def run(in_s, in_v=None):
        s, v = module((in_s, in_s.new_zeros(*in_s.shape[:-1], 3, 0) if in_v is None else _columns(in_v)))
        return {"out_s": s, "out_v": _columns(v)}

    return pullback(module, run, inputs, cotangents)


def conv(
    form: str, weights: Vectors, edge_index, inputs, cotangents, *,
    layer: bool, dims_in, dims_out, edge_dims, num_gvps, aggregate, gate,
) -> Result:  # fmt: skip
    options = {"num_gvps": num_gvps, "vector_gate": gate}
    module: GVPConvLayer | GVPConv
    if layer:
        module = GVPConvLayer(dims_in, edge_dims, **options)
    else:
        module = GVPConv(dims_in, dims_out, edge_dims, aggregate=aggregate, **options)
    _loaded(module, weights)

    def run(in_s, in_v, edge_s, edge_v):
        s, v = module((in_s, _columns(in_v)), tensor(edge_index), (edge_s, _columns(edge_v)))
        return {"out_s": s, "out_v": _columns(v)}

    return pullback(module, run, inputs, cotangents)


def features(backbone: np.ndarray, sequence: str, k: int) -> Arrays:
    protein = Protein(name="protein", sequence=sequence, backbone=backbone)
    coordinates, mask = tensor(protein.backbone), tensor(protein.complete)
    graph = featurise(
        ProteinBatch(
            backbone=coordinates,
            residue_type=tensor(protein.residue_types).long(),
            mask=mask,
            edge_index=knn_edges(coordinates[:, 1], mask, k),
            batch=torch.zeros(len(mask), dtype=torch.int64, device=DEVICE),
            label=torch.zeros(1, dtype=torch.int64, device=DEVICE),
        )
    )
    names = ("edge_index", "mask", "node_s", "node_v", "edge_s", "edge_v")
    values = {name: getattr(graph, name) for name in names}
    return numpy({**values, "seq": graph.residue_type, "x_ca": coordinates[:, 1]})


class PublishedAttention(ClusterAttention):
    """The attention with the published defect: no gradient through the weights."""

    def weights(self, *args, **kwargs):
        return super().weights(*args, **kwargs).detach()


def attention(
    weights: Vectors, heads: int, inputs, mask, cotangents, *, published: bool, temperature: float = 1.0
) -> Result:
    kind = PublishedAttention if published else ClusterAttention
    module = _loaded(kind(inputs["g"].shape[-1], heads), weights, "global_cluster_attn.")

    def run(g, C):
        out = module(g, C, tensor(mask), temperature)
        return {"pooled": out.pooled, "importance": out.importance, "attn": out.weights}

    return pullback(module, run, inputs, cotangents, "global_cluster_attn.")


def fusion(weights: Vectors, inputs, cotangents) -> Result:
    module = _loaded(GatedFusion(inputs["g"].shape[-1]), weights, "fw_gate.")

    def run(g, c_star):
        fused, beta = module(g, c_star)
        return {"fused": fused, "beta": beta}

    return pullback(module, run, inputs, cotangents, "fw_gate.")


def codebook(state, z, mask, setting, *, metric, update, temperature, cotangents) -> Result:
    size, width = state[0].shape
    config = CodebookConfig(
        size=size,
        beta=setting.beta,
        decay=setting.decay,
        epsilon=setting.epsilon,
        metric=metric,
        keep_unused=False,
    )
    module = VQCodebook(width, config)
    names = ("embeddings", "ema_counts", "ema_sums")
    module.load_state_dict({name: tensor(array) for name, array in zip(names, state, strict=True)})
    module = module.to(DEVICE)

    def run(z):
        out = module(z, tensor(mask), update=update)
        use = module.use()
        return {
            "indices": out.codes,
            "zq": out.features,
            "vq_loss": out.loss,
            **{name: getattr(module, name).clone() for name in names},
            "usage_probs": use.usage,
            "perplexity": use.perplexity,
            "entropy_loss": use.entropy_loss,
            "presence": presence(module.log_absence(z, tensor(mask), temperature)),
        }

    return pullback(module, run, {"z": z}, cotangents)


def partitioner(
    form: Bookkeeping, config: PartitionerConfig, weights: Vectors, inputs, edge_index, batch, *,
    temperature, uniform, cotangents,
) -> Result:  # fmt: skip
    module = _loaded(Partitioner(inputs["x"].shape[-1], config, form), weights, "partitioner.")

    def run(x):
        mask = torch.ones(len(batch), dtype=torch.bool, device=DEVICE)
        out = module(
            x, mask, tensor(edge_index), tensor(batch), int(batch[-1]) + 1,
            temperature=temperature, uniform=tensor(uniform),
        )  # fmt: skip
        return _partition(out)

    return pullback(module, run, inputs, cotangents, "partitioner.")


def _partition(out: Partition) -> dict[str, Tensor]:
    return {
        "features": out.features,
        "cardinality": out.cardinality,
        "cluster_of_residue": out.cluster_of_residue,
        **out.rounds._asdict(),
    }


def batch_graph(inputs: Vectors) -> ProteinGraph:
    """A recorded batch (`in.*`)."""
    return ProteinGraph(
        node_s=tensor(inputs["node_s"]),
        node_v=tensor(inputs["node_v"]),
        residue_type=tensor(inputs["seq"]),
        mask=torch.ones(len(inputs["batch"]), dtype=torch.bool, device=DEVICE),
        edge_index=tensor(inputs["edge_index"]),
        edge_s=tensor(inputs["edge_s"]),
        edge_v=tensor(inputs["edge_v"]),
        batch=tensor(inputs["batch"]),
        label=tensor(inputs["y"]),
    )


def partoken(
    form: Bookkeeping, config: ModelConfig, weights: Vectors, published_attention: bool = False
) -> ParToken:
    """ParToken with recorded weights."""
    built = ParToken(config, form)
    if published_attention:
        built.global_cluster_attn = PublishedAttention(config.node_hidden[0], config.attention_heads)
    return _model(built, weights)


def _model(built: Module, weights: Vectors) -> Module:
    """The model with recorded weights; the recorded set may hold a pooling that this variant lacks."""
    have = built.state_dict()
    kept = {k: a for k, a in weights.arrays.items() if k in have or not k.startswith("attention.")}
    return _loaded(built, Vectors(kept))


def baseline(
    form: Bookkeeping, config: ModelConfig, weights: Vectors, inputs: Vectors, first: Vectors, cotangents
) -> Result:
    module, graph, single = _model(GVPClassifier(config), weights), batch_graph(inputs), batch_graph(first)

    def run():
        out = module(graph)
        mixed = out.logits
        if module.attention is not None:
            # The published attention pooling mixes the proteins of a batch; ours does not.
            weight = module.attention(out.node_features).softmax(0)
            mixed = module.classifier(pool(weight * out.node_features, graph, "sum", None))
        return {
            "logits": out.logits,
            "mixed_logits": mixed,
            "ce": nn.functional.cross_entropy(mixed, graph.label),
            "single_logits": module(single).logits,
        }

    return pullback(module, run, {}, cotangents)


def encoder(form: Bookkeeping, config: ModelConfig, weights: Vectors, inputs: Vectors):
    module, graph = partoken(form, config, weights), batch_graph(inputs)
    with torch.no_grad():
        hidden, edge = embed(graph, module.sequence_embedding, module.node_encoder, module.edge_encoder)
        nodes = [hidden]
        for layer in module.gvp_layers:
            nodes.append(layer(nodes[-1], graph.edge_index, edge))
        arrays = [tuple(numpy({"s": s, "v": _columns(v)}).values()) for s, v in nodes]
        return arrays, module.encode(graph).cpu().numpy()


@torch.no_grad()
def evaluate(
    form: Bookkeeping, config: ModelConfig, weights: Vectors, inputs: Vectors, *, temperature, uniform
) -> Arrays:
    module, graph = partoken(form, config, weights), batch_graph(inputs)
    noise = {"temperature": temperature, "uniform": tensor(uniform)}
    partition = module.partitioner(
        module.encode(graph), graph.mask, graph.edge_index, graph.batch, len(graph.label), **noise
    )
    bypass = module(graph, **noise, bypass_codebook=True)
    outputs = _outputs(module(graph, **noise), graph)
    return numpy({**outputs, **_partition(partition), "bypass_logits": bypass.logits})


def train(
    form: Bookkeeping, config: ModelConfig, weights: Vectors, inputs: Vectors, *,
    temperature, uniform, published: bool, cotangents,
) -> Result:  # fmt: skip
    module, graph = partoken(form, config, weights, published), batch_graph(inputs)
    assert module.codebook is not None
    codebook = module.codebook

    def run():
        out = module(graph, temperature=temperature, uniform=tensor(uniform), update_codebook=True)
        return {**_outputs(out, graph), **dict(codebook.named_buffers())}

    return pullback(module, run, {}, cotangents)


def _outputs(out: ParTokenOutput, graph: ProteinGraph) -> dict[str, Tensor]:
    return partoken_arrays(out) | {"ce": nn.functional.cross_entropy(out.logits, graph.label)}


def follow(
    form: Bookkeeping,
    config: ModelConfig,
    weights: Vectors,
    inputs: Vectors,
    *,
    adam: dict,
    temperature,
    noise,
) -> tuple[list[Arrays], Arrays]:  # fmt: skip
    module: GVPClassifier | ParToken
    if config.kind == "gvp":
        module = _model(GVPClassifier(config), weights)
    else:
        # The recorded trajectory has the attention defect.
        module = partoken(form, config, weights, published_attention=True)
    graph, records = batch_graph(inputs), []
    betas = (adam["b1"], adam["b2"])
    optimiser = torch.optim.Adam(module.parameters(), lr=adam["learning_rate"], betas=betas, eps=adam["eps"])
    for uniform in noise:
        optimiser.zero_grad()
        if isinstance(module, ParToken):
            out = module(graph, temperature=temperature, uniform=tensor(uniform), update_codebook=True)
            record = _outputs(out, graph)
            record["losses"] = record["ce"] + record["vq"]
        else:
            record = {"losses": nn.functional.cross_entropy(module(graph).logits, graph.label)}
        record["losses"].backward()
        optimiser.step()
        records.append(numpy(record))
    final = numpy(module.state_dict())
    return records, from_state_dict(final)
