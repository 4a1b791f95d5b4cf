"""Cases 1, 2 and 6: GVP blocks, features, attention and fusion."""

import re
from types import ModuleType

import numpy as np

from experiments.parity.compare import FORWARD, GRADIENT, NODE_SCALARS, Report
from experiments.parity.framework import Result
from experiments.parity.vectors import Vectors
from partoken_jax.convert import from_state_dict


def check_gvp(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 1: GVP, tuple LayerNorm, GVPConv in every form, GVPConvLayer."""
    for name in v.groups():
        case = v.under(name) if name in v else None
        if case is None or "out_s" not in case:
            continue
        if name.startswith("gvp_"):
            check_block(name, case, report, _gvp(name, case, side))
        elif name.startswith("ln"):
            dims = _dims(case, "in")
            check_block(name, case, report, lambda w, x, c, dims=dims: side.layer_norm(w, x, c, dims=dims))
        else:
            case.arrays["in_edge_s"], case.arrays["in_edge_v"] = v["graph.edge_s"], v["graph.edge_v"]
            assert len(case["in_s"]) == int(v["graph.num_nodes"])
            for form in side.CONV_FORMS:
                run = _conv(form, name, case, v["graph.edge_index"], side)
                check_block(f"{name} {form}", case, report, run)


def _dims(case: Vectors, side: str) -> tuple[int, int]:
    vectors = f"{side}_v"
    return case[f"{side}_s"].shape[-1], case[vectors].shape[-2] if vectors in case.arrays else 0


def _gvp(name: str, case: Vectors, side: ModuleType):
    options = {
        "dims_in": _dims(case, "in"),
        "dims_out": _dims(case, "out"),
        "hidden": case["w.wh.weight"].shape[0] if "w.wh.weight" in case.arrays else None,
        "activated": "noact" not in name,
        "gate": "w.wsv.weight" in case.arrays,
    }
    return lambda weights, inputs, cotangents: side.gvp(weights, inputs, cotangents, **options)


def _conv(form: str, name: str, case: Vectors, edge_index: np.ndarray, side: ModuleType):
    layer, weights = name.startswith("layer"), case.under("w")
    message = weights.under("conv.message_func" if layer else "message_func")
    options = {
        "layer": layer,
        "dims_in": _dims(case, "in"),
        "dims_out": _dims(case, "out"),
        "edge_dims": _dims(case, "in_edge"),
        "num_gvps": len(message.groups()),
        "aggregate": "sum" if "add" in name else "mean",
        "gate": any(".wsv." in key for key in weights.arrays),
    }
    return lambda weights, inputs, cotangents: side.conv(
        form, weights, edge_index, inputs, cotangents, **options
    )


def check_block(title: str, case: Vectors, report: Report, run) -> None:
    """Outputs, gradients and behaviour under rotation of a block that maps (s, v) to (s, v).
    `run(weights, inputs, cotangents)` is the block in a framework."""
    weights = case.under("w")
    names = {"in_s": "in_s", "in_v": "in_v", "edge_s": "in_edge_s", "edge_v": "in_edge_v"}
    inputs = {name: case[key] for name, key in names.items() if key in case.arrays}
    cotangents = {f"out_{x}": case[f"cot_{x}"] for x in "sv" if f"cot_{x}" in case.arrays}
    result = run(weights, inputs, cotangents)
    for key in ("out_s", "out_v"):
        if key in case.arrays:
            report.relative(title, "forward", key, result.outputs[key], case[key], FORWARD)
    want = case.under("g")
    into = [name for name in names if name in want.arrays]
    parameters = {key: array for key, array in want.arrays.items() if key not in into}
    report.gradients(title, "gradients", result.parameters, from_state_dict(parameters))
    for name in into:
        report.relative(title, "gradients", name, result.inputs[name], want[name], GRADIENT)
    if "rot" in case:
        rotated = case.under("rot")
        turned = {name: rotated[name] for name in ("in_v", "edge_v") if name in inputs}
        outputs = run(weights, inputs | turned, None).outputs
        for key in ("out_s", "out_v"):
            if key in case.arrays:
                report.relative(title, "rotated", key, outputs[key], rotated[key], FORWARD)


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
                report.exact(title, "edges", key, got[key], want[key])
            report.absolute(title, "node_s", "node_s", got["node_s"], want["node_s"], NODE_SCALARS)
            for key in ("node_v", "edge_s", "edge_v"):
                report.relative(title, "features", key, got[key], want[key], FORWARD)
            real = want["mask"][:, None]
            x_ca = np.where(real, got["x_ca"], 0)
            report.relative(title, "features", "x_ca", x_ca, np.where(real, want["x_ca"], 0), FORWARD)


def check_attention(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 6: attention over clusters (as published and repaired) and gated fusion."""
    mask, heads = v["mask"], v["attn.fixed.attn"].shape[1]
    weights, inputs = v.under("attn.w"), {"g": v["g"], "C": v["C"]}
    cotangents = {"pooled": v["cot"], "importance": v["cot_importance"]}
    for variant in ("orig", "fixed"):
        want, title = v.under(f"attn.{variant}"), f"attention {variant}"
        result = side.attention(weights, heads, inputs, mask, cotangents, published=variant == "orig")
        _check_attended(title, result, want, report)
        expected = from_state_dict(want.under("g.w").arrays, "global_cluster_attn.")
        report.gradients(title, "gradients", result.parameters, expected)
        for name in inputs:
            report.relative(title, "gradients", f"g.{name}", result.inputs[name], want[f"g.{name}"], GRADIENT)
    heats = {m[1] for key in v.arrays if (m := re.match(r"attn\.temp([\d.]+)\.pooled$", key))}
    for heat in sorted(heats):
        result = side.attention(weights, heads, inputs, mask, None, published=False, temperature=float(heat))
        _check_attended(f"attention T={heat}", result, v.under(f"attn.temp{heat}"), report)

    want, title = v.under("fusion"), "fusion"
    inputs = {"g": v["g"], "c_star": want["c_star"]}
    result = side.fusion(want.under("w"), inputs, {"fused": v["cot"]})
    for name in ("fused", "beta"):
        report.relative(title, "forward", name, result.outputs[name], want[name], FORWARD)
    expected = from_state_dict(want.under("g.w").arrays, "fw_gate.")
    report.gradients(title, "gradients", result.parameters, expected)
    for name in inputs:
        report.relative(title, "gradients", f"g.{name}", result.inputs[name], want[f"g.{name}"], GRADIENT)


def _check_attended(title: str, result: Result, want: Vectors, report: Report) -> None:
    for name in ("pooled", "importance", "attn"):
        report.relative(title, "forward", name, result.outputs[name], want[name], FORWARD)
