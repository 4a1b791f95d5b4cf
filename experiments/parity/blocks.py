"""Cases 1, 2 and 6: GVP blocks, features, attention and fusion."""

import functools
import re
from collections.abc import Callable
from types import ModuleType

import numpy as np

from experiments.parity.compare import FORWARD, GRADIENT, NODE_SCALARS, Report
from experiments.parity.framework import Result
from experiments.parity.vectors import Vectors, need_weights
from partoken_jax.config import ModelConfig


def check_gvp(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 1: GVP, tuple LayerNorm, GVPConv in every form, GVPConvLayer."""
    for name in v.groups():
        case = v.under(name)
        if name.startswith("gvp_"):
            options = _gvp(name, case)
            check_block(name, case, report, functools.partial(side.gvp, **options), options["dims_out"])
        elif name.startswith("ln"):
            dims = _dims_in(case)
            check_block(name, case, report, functools.partial(side.layer_norm, dims=dims), dims)
        elif name.startswith(("conv", "layer")):
            case.arrays["in_edge_s"], case.arrays["in_edge_v"] = v["graph.edge_s"], v["graph.edge_v"]
            options = _conv(name, case)
            for form in side.CONV_FORMS:
                run = _on_graph(side.conv, form, v["graph.edge_index"], options)
                check_block(f"{name} {form}", case, report, run, options["dims_out"])


def _dims_in(case: Vectors) -> tuple[int, int]:
    """Channels of the input. A block without vectors has none of the arrays that go with them."""
    vectors = ("in_v", "g.in_v", "rot.in_v", "w.wh.weight")
    has_vectors = any(name in case.arrays for name in vectors)
    return case["in_s"].shape[-1], case["in_v"].shape[-2] if has_vectors else 0


def _dims_out(case: Vectors, last: str) -> tuple[int, int]:
    """Channels of the output, by the weights of the last GVP. One that gets no vectors and gives zeros has no
    weight that says how many: the recorded vectors do."""
    weight = f"w.{last}wv.weight"
    vectors = next((case[name].shape[-2] for name in ("out_v", "cot_v") if name in case.arrays), 0)
    return (
        case[f"w.{last}ws.weight"].shape[0],
        case[weight].shape[0] if weight in case.arrays else vectors,
    )


def _gvp(name: str, case: Vectors) -> dict:
    dims_in = _dims_in(case)
    return {
        "dims_in": dims_in,
        "dims_out": _dims_out(case, ""),
        "hidden": case["w.wh.weight"].shape[0] if dims_in[1] else None,
        "activated": "noact" not in name,
        "gate": "w.wsv.weight" in case.arrays,
    }


def _conv(name: str, case: Vectors) -> dict:
    layer, weights = name.startswith("layer"), case.under("w")
    place = "conv.message_func" if layer else "message_func"
    num_gvps = len(weights.under(place).groups())
    return {
        "layer": layer,
        "dims_in": (case["in_s"].shape[-1], case["in_v"].shape[-2]),
        "dims_out": _dims_out(case, f"{place}.{max(num_gvps, 1) - 1}."),
        "edge_dims": (case["in_edge_s"].shape[-1], case["in_edge_v"].shape[-2]),
        "num_gvps": num_gvps,
        "aggregate": "sum" if "add" in name else "mean",
        "gate": any(".wsv." in key for key in weights.arrays),
    }


def _on_graph(conv: Callable, form: str, edge_index: np.ndarray, options: dict) -> Callable[..., Result]:
    return lambda weights, inputs, cotangents: conv(form, weights, edge_index, inputs, cotangents, **options)


def check_block(title: str, case: Vectors, report: Report, run: Callable, dims_out: tuple[int, int]) -> None:
    """Outputs, gradients and behaviour under rotation of a block that maps (s, v) to (s, v).
    `run(weights, inputs, cotangents)` is the block in a framework."""
    names = {"in_s": "in_s", "in_v": "in_v", "edge_s": "in_edge_s", "edge_v": "in_edge_v"}
    weights, want = case.under("w"), case.under("g")
    for key in want.arrays:
        if key not in names:
            weights[key]  # what has a gradient is a weight
    inputs = {name: case[key] for name, key in names.items() if key in case.arrays}
    outputs = ("out_s", "out_v") if dims_out[1] else ("out_s",)
    cotangents = {}
    if case.holds("g"):
        cotangents = case.all_recorded({key: key.replace("out", "cot") for key in outputs})
    result = run(weights, inputs, cotangents)
    for key in outputs:
        report.relative(title, "forward", key, result.outputs[key], case.recorded(key), FORWARD)
    if cotangents:
        report.gradients(title, "gradients", result.parameters, want.without(*names), weights)
        for name in inputs:
            report.relative(title, "gradients", name, result.inputs[name], want.recorded(name), GRADIENT)
    turned = [name for name in ("in_v", "edge_v") if name in inputs]
    norm = title.startswith("ln")  # recorded without a rotation
    if turned and (not norm or "rot" in case) and case.holds("rot"):
        rotated = case.under("rot")
        if turns := rotated.all_recorded({name: name for name in turned}):
            out = run(weights, inputs | turns, None).outputs
            for key in outputs:
                report.relative(title, "rotated", key, out[key], rotated.recorded(key), FORWARD)


def check_features(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 2: neighbours and features from coordinates."""
    for name in (g for g in v.groups() if g != "config"):
        case = v.under(name)
        for setting in (g for g in case.groups() if g[0] == "k" and g[1:].isdigit()):
            want, title = case.under(setting), f"{name} k={setting[1:]}"
            coordinates = case["coords"].astype(np.float32)
            backbone = np.where(np.isfinite(coordinates), coordinates, np.nan)
            got = side.features(backbone, "".join(case["seq_letters"]), int(setting[1:]))
            for key in ("edge_index", "mask", "seq"):
                report.exact(title, "edges", key, got[key], want.recorded(key))
            node_s = want.recorded("node_s")
            report.absolute(title, "node_s", "node_s", got["node_s"], node_s, NODE_SCALARS)
            for key in ("node_v", "edge_s", "edge_v"):
                report.relative(title, "features", key, got[key], want.recorded(key), FORWARD)
            x_ca = want.recorded("x_ca")
            if x_ca is not None:
                real = want.arrays.get("mask", got["mask"])[:, None]
                x_ca = np.where(real, x_ca, 0)
                report.relative(title, "features", "x_ca", np.where(real, got["x_ca"], 0), x_ca, FORWARD)


def check_attention(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 6: attention over clusters (as published and repaired) and gated fusion."""
    mask, weights, inputs = v["mask"], v.under("attn.w"), {"g": v["g"], "C": v["C"]}
    width = inputs["g"].shape[-1]
    whole = ModelConfig(kind="partoken", node_hidden=(width, 1), attention_heads=1)
    need_weights(weights, whole, "global_cluster_attn.")
    heads = _num_heads(v)
    for variant in ("orig", "fixed"):
        if not v.holds(f"attn.{variant}"):
            continue
        want, title = v.under(f"attn.{variant}"), f"attention {variant}"
        cotangents = {}
        if want.holds("g"):
            cotangents = v.all_recorded({"pooled": "cot", "importance": "cot_importance"})
        result = side.attention(weights, heads, inputs, mask, cotangents, published=variant == "orig")
        _check_attended(title, result, want, report)
        if cotangents:
            _check_gradients(title, result, want, weights, "global_cluster_attn.", report)
    heats = {m[1] for key in v.arrays if (m := re.match(r"attn\.temp([\d.]+)\.\w+$", key))}
    for heat in sorted(heats):
        result = side.attention(weights, heads, inputs, mask, None, published=False, temperature=float(heat))
        _check_attended(f"attention T={heat}", result, v.under(f"attn.temp{heat}"), report)

    if v.holds("fusion"):
        want, title = v.under("fusion"), "fusion"
        weights, inputs = want.under("w"), {"g": v["g"], "c_star": want["c_star"]}
        need_weights(weights, whole, "fw_gate.")
        cotangents = v.all_recorded({"fused": "cot"}) if want.holds("g") else {}
        result = side.fusion(weights, inputs, cotangents)
        for name in ("fused", "beta"):
            report.relative(title, "forward", name, result.outputs[name], want.recorded(name), FORWARD)
        if cotangents:
            _check_gradients(title, result, want, weights, "fw_gate.", report)


def _num_heads(v: Vectors) -> int:
    """No weight has the number of heads: the recorded attention [B, heads, S] has it, or the config."""
    for name, array in v.arrays.items():
        if re.match(r"attn\.[^.]+(\.\d+)?\.attn$", name):
            return array.shape[1]
    return v.config["attention_heads"]


def _check_attended(title: str, result: Result, want: Vectors, report: Report) -> None:
    for name in ("pooled", "importance", "attn"):
        report.relative(title, "forward", name, result.outputs[name], want.recorded(name), FORWARD)


def _check_gradients(
    title: str, result: Result, want: Vectors, weights: Vectors, part: str, report: Report
) -> None:
    """Of the weights of a part of the model, and of its inputs."""
    report.gradients(title, "gradients", result.parameters, want.under("g.w"), weights, part)
    for name, got in result.inputs.items():
        report.relative(title, "gradients", f"g.{name}", got, want.recorded(f"g.{name}"), GRADIENT)
