"""Cases 1, 2 and 6: GVP blocks, features, attention and fusion."""

import re

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from flax import nnx

from experiments.parity.compare import FORWARD, GRADIENT, NODE_SCALARS, Report
from experiments.parity.vectors import Vectors, edge_graph, parameter_gradients
from partoken_jax.convert import from_state_dict, set_arrays
from partoken_jax.graphs.features import featurise
from partoken_jax.graphs.neighbours import neighbour_table
from partoken_jax.graphs.packing import pack
from partoken_jax.graphs.types import EdgeFeatures
from partoken_jax.nn.attention import ClusterAttention, GatedFusion
from partoken_jax.nn.gvp import GVP, TupleLayerNorm
from partoken_jax.nn.message_passing import GVPConv, GVPConvLayer
from partoken_jax.proteins.protein import Protein


class PublishedAttention(ClusterAttention):
    """The attention with the published defect: no gradient through the weights."""

    def weights(self, *args, **kwargs):
        return jax.lax.stop_gradient(super().weights(*args, **kwargs))


def load(module: nnx.Module, weights: Vectors, prefix: str = "") -> None:
    set_arrays(module, from_state_dict(weights.arrays, prefix))


def check_gvp(v: Vectors, report: Report) -> None:
    """Case 1: GVP, tuple LayerNorm, GVPConv in both forms, GVPConvLayer."""
    for name in v.groups():
        case = v.under(name) if name in v else None
        if case is None or "out_s" not in case:
            continue
        if name.startswith("gvp_"):
            check_block(name, _gvp(name, case), case, report, lambda m, s, u: m(s, u))
        elif name.startswith("ln"):
            norm = TupleLayerNorm(_dims(case, "in"), rngs=nnx.Rngs(0))
            check_block(name, norm, case, report, lambda m, s, u: m(s, u))
        else:
            for form in ("general", "dense"):
                check_conv(f"{name} {form}", name, case, v, report, dense=form == "dense")


def _dims(case: Vectors, side: str) -> tuple[int, int]:
    vectors = f"{side}_v"
    return case[f"{side}_s"].shape[-1], case[vectors].shape[-2] if vectors in case.arrays else 0


def _gvp(name: str, case: Vectors) -> GVP:
    hidden = case["w.wh.weight"].shape[0] if "w.wh.weight" in case.arrays else None
    options = {"activations": (None, None)} if "noact" in name else {}
    gate = "w.wsv.weight" in case.arrays
    dims = _dims(case, "in"), _dims(case, "out")
    return GVP(*dims, hidden=hidden, vector_gate=gate, rngs=nnx.Rngs(0), **options)


def check_conv(title: str, name: str, case: Vectors, v: Vectors, report: Report, dense: bool) -> None:
    weights = case.under("w")
    gate = any(".wsv." in key for key in weights.arrays)
    edge_dims = v["graph.edge_s"].shape[-1], v["graph.edge_v"].shape[-2]
    message = weights.under("conv.message_func" if name.startswith("layer") else "message_func")
    options = {"num_gvps": len(message.groups()), "vector_gate": gate, "rngs": nnx.Rngs(0)}
    if name.startswith("layer"):
        module = GVPConvLayer(_dims(case, "in"), edge_dims, **options)
    else:
        aggregate = "sum" if "add" in name else "mean"
        module = GVPConv(_dims(case, "in"), _dims(case, "out"), edge_dims, aggregate=aggregate, **options)
    num_nodes = int(v["graph.num_nodes"])
    senders, receivers, mask, take = edge_graph(v["graph.edge_index"], num_nodes, dense)

    def apply(m, s, u, edge_s, edge_v):
        graph = jraph.GraphsTuple(
            nodes=(s, u),
            edges=EdgeFeatures(edge_s[take], edge_v[take], jnp.asarray(mask)),
            senders=jnp.asarray(senders),
            receivers=jnp.asarray(receivers),
            n_node=jnp.array([num_nodes]),
            n_edge=jnp.array([len(senders)]),
            globals=None,
        )
        if isinstance(m, GVPConvLayer):
            return m(graph, dense=dense)
        return m.dense(graph) if dense else m(graph)

    case.arrays["in_edge_s"], case.arrays["in_edge_v"] = v["graph.edge_s"], v["graph.edge_v"]
    check_block(title, module, case, report, apply)


def check_block(title: str, module: nnx.Module, case: Vectors, report: Report, apply) -> None:
    """Outputs, gradients and behaviour under rotation of a block that maps (s, v) to (s, v)."""
    load(module, case.under("w"))
    edges = [case[k] for k in ("in_edge_s", "in_edge_v") if k in case.arrays]
    inputs = [jnp.asarray(case["in_s"]), _optional(case, "in_v"), *map(jnp.asarray, edges)]

    def outputs(*inputs):
        s, v = apply(module, *inputs)
        return {"out_s": s, **({"out_v": v} if "out_v" in case.arrays else {})}

    for key, array in outputs(*inputs).items():
        report.relative(title, "forward", key, array, case[key], FORWARD)

    def loss(m, *inputs):
        s, v = apply(m, *inputs)
        total = jnp.sum(s * case["cot_s"])
        return total + (jnp.sum(v * case["cot_v"]) if "cot_v" in case.arrays else 0.0), None

    present = [x for x in inputs if x is not None]
    if inputs[1] is None:
        gradients, into, _ = parameter_gradients(module, lambda m, s: loss(m, s, None), *present)
    else:
        gradients, into, _ = parameter_gradients(module, loss, *present)
    names = [n for n in ("in_s", "in_v", "edge_s", "edge_v") if f"g.{n}" in case.arrays]
    want = case.under("g")
    parameters = {k: a for k, a in want.arrays.items() if k not in names}
    report.gradients(title, "gradients", gradients, from_state_dict(parameters))
    for name, array in zip(names, into, strict=True):
        report.relative(title, "gradients", name, array, want[name], GRADIENT)
    if "rot" in case:
        rotated = case.under("rot")
        turned = [inputs[0], jnp.asarray(rotated["in_v"]), *inputs[2:]]
        if edges:
            turned[3] = jnp.asarray(rotated["edge_v"])
        for key, array in outputs(*turned).items():
            report.relative(title, "rotated", key, array, rotated[key], FORWARD)


def _optional(case: Vectors, name: str):
    return jnp.asarray(case[name]) if name in case.arrays else None


def check_features(v: Vectors, report: Report) -> None:
    """Case 2: neighbours and features from coordinates."""
    for name in (g for g in v.groups() if g != "config"):
        case = v.under(name)
        for setting in (g for g in case.groups() if g[0] == "k" and g[1:].isdigit()):
            want, k = case.under(setting), int(setting[1:])
            coordinates = case["coords"].astype(np.float32)
            sequence = "".join(case["seq_letters"])
            backbone = np.where(np.isfinite(coordinates), coordinates, np.nan)
            protein = Protein(name=name, sequence=sequence, backbone=backbone)
            table = neighbour_table(protein.backbone[:, 1], protein.complete, k)
            packed = pack([protein], [table], num_nodes=len(sequence) + 1, batch_size=1, indices=[0])
            graph = jax.jit(featurise)(jax.tree.map(jnp.asarray, packed))
            keep, n = np.asarray(graph.edges.mask), len(sequence)
            edges = np.stack([graph.senders, graph.receivers])[:, keep]
            title = f"{name} k={k}"
            report.exact(title, "edges", "edge_index", edges, want["edge_index"])
            report.exact(title, "edges", "mask", graph.nodes.mask[:n], want["mask"])
            report.exact(title, "edges", "seq", graph.nodes.residue_type[:n], want["seq"])
            real = want["mask"]
            scalars = np.asarray(graph.nodes.scalars[:n])
            report.absolute(title, "node_s", "node_s", scalars, want["node_s"], NODE_SCALARS)
            report.relative(title, "features", "node_v", graph.nodes.vectors[:n], want["node_v"], FORWARD)
            report.relative(title, "features", "edge_s", graph.edges.scalars[keep], want["edge_s"], FORWARD)
            report.relative(title, "features", "edge_v", graph.edges.vectors[keep], want["edge_v"], FORWARD)
            x_ca = np.where(real[:, None], packed.nodes.backbone[:n, 1], 0)
            report.relative(
                title, "features", "x_ca", x_ca, np.where(real[:, None], want["x_ca"], 0), FORWARD
            )


def check_attention(v: Vectors, report: Report) -> None:
    """Case 6: attention over clusters (as published and repaired) and gated fusion."""
    mask, width = jnp.asarray(v["mask"]), v["g"].shape[-1]
    heads = v["attn.fixed.attn"].shape[1]
    protein, clusters = jnp.asarray(v["g"]), jnp.asarray(v["C"])
    for variant, kind in (("orig", PublishedAttention), ("fixed", ClusterAttention)):
        attention = kind(width, heads, rngs=nnx.Rngs(0))
        load(attention, v.under("attn.w"), "global_cluster_attn.")
        want, title = v.under(f"attn.{variant}"), f"attention {variant}"
        _attended(title, attention(protein, clusters, mask), want, report)

        def loss(m, protein, clusters):
            out = m(protein, clusters, mask)
            return jnp.sum(out.pooled * v["cot"]) + jnp.sum(out.importance * v["cot_importance"]), None

        gradients, (into_g, into_c), _ = parameter_gradients(attention, loss, protein, clusters)
        expected = from_state_dict(want.under("g.w").arrays, "global_cluster_attn.")
        report.gradients(title, "gradients", gradients, expected)
        report.relative(title, "gradients", "g.g", into_g, want["g.g"], GRADIENT)
        report.relative(title, "gradients", "g.C", into_c, want["g.C"], GRADIENT)
    heats = {m[1] for key in v.arrays if (m := re.match(r"attn\.temp([\d.]+)\.pooled$", key))}
    repaired = ClusterAttention(width, heads, rngs=nnx.Rngs(0))
    load(repaired, v.under("attn.w"), "global_cluster_attn.")
    for heat in sorted(heats):
        out = repaired(protein, clusters, mask, temperature=float(heat))
        _attended(f"attention T={heat}", out, v.under(f"attn.temp{heat}"), report)

    want, title = v.under("fusion"), "fusion"
    fusion = GatedFusion(width, rngs=nnx.Rngs(0))
    load(fusion, want.under("w"), "fw_gate.")
    c_star = jnp.asarray(want["c_star"])
    fused, beta = fusion(protein, c_star)
    report.relative(title, "forward", "fused", fused, want["fused"], FORWARD)
    report.relative(title, "forward", "beta", beta, want["beta"], FORWARD)
    gradients, (into_g, into_c), _ = parameter_gradients(
        fusion, lambda m, g, c: (jnp.sum(m(g, c)[0] * v["cot"]), None), protein, c_star
    )
    report.gradients(title, "gradients", gradients, from_state_dict(want.under("g.w").arrays, "fw_gate."))
    report.relative(title, "gradients", "g.g", into_g, want["g.g"], GRADIENT)
    report.relative(title, "gradients", "g.c_star", into_c, want["g.c_star"], GRADIENT)


def _attended(title, out, want, report):
    for name, array in (("pooled", out.pooled), ("importance", out.importance), ("attn", out.weights)):
        report.relative(title, "forward", name, array, want[name], FORWARD)
