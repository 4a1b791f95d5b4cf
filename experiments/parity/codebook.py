"""Case 5: quantisation, moving averages, usage, presence and k-means of the codebook."""

import re
import sys
from types import ModuleType
from typing import NamedTuple

import numpy as np

from experiments.parity.compare import FORWARD, GRADIENT, PRESENCE, Report
from experiments.parity.vectors import Vectors

BUFFERS = ("embeddings", "ema_counts", "ema_sums")


class Setting(NamedTuple):
    """The codebook's hyper-parameters: of the file's configuration, else the published ones."""

    beta: float
    decay: float
    epsilon: float

    @classmethod
    def of(cls, config: dict) -> "Setting":
        names = {"codebook_beta": 0.25, "codebook_decay": 0.99, "codebook_eps": 1e-5}
        return cls(*(config.get(name, published) for name, published in names.items()))


def check_codebook(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 5: quantisation, moving averages, presence, k-means."""
    setting = Setting.of(v.config)
    numbers = [int(name[1:]) for name in v.arrays if re.fullmatch(r"z\d+", name)]
    last = max(numbers, default=0)
    steps = [f"train{number}" for number in range(last)] + ["eval"]
    for mode, metric in (("l2", "l2"), ("cos", "cosine"), ("l2_norm", "cosine")):
        if not v.holds(mode):
            continue
        for start in v.under(mode).groups():
            case = v.under(f"{mode}.{start}")
            state = [case[f"{name}_before"] for name in BUFFERS]
            for number, step in enumerate(steps):
                state = _check_step(
                    f"{mode} {start}", case.under(step), v, state, v[f"z{number}"], metric, step != "eval",
                    setting, report, side,
                )  # fmt: skip
    _check_invalid(v, setting, report, side)
    _check_kmeans(v, report, side)


def _check_step(title, want, v, state, z, metric, train, setting, report, side):
    def run(temperature: float, cotangents: dict | None):
        return side.codebook(
            state, z, v["mask"], setting,
            metric=metric, update=train, temperature=temperature, cotangents=cotangents,
        )  # fmt: skip

    g_z = want.recorded("g.z")
    cot_zq = None if g_z is None else v.recorded("cot_zq")
    result = run(1.0, None if cot_zq is None else {"vq_loss": 1.0, "zq": 0.1 * cot_zq})
    out = result.outputs
    if cot_zq is not None:
        report.relative(title, "gradients", "g.z", result.inputs["z"], g_z, GRADIENT)
    report.exact(title, "codes", "indices", out["indices"], want.recorded("indices"))
    for name in ("zq", "vq_loss", "usage_probs", "perplexity"):
        report.relative(title, "forward", name, out[name], want.recorded(name), FORWARD)
    commitment = out["vq_loss"] / setting.beta
    report.relative(
        title, "forward", "commitment_loss", commitment, want.recorded("commitment_loss"), FORWARD
    )
    for name in BUFFERS:
        if train or f"{name}_after" in want.arrays:
            report.relative(title, "buffers", name, out[name], want.recorded(f"{name}_after"), FORWARD)
    # The entropy loss is log K minus an entropy: relative to log K.
    log_k = np.log(len(out["usage_probs"]))
    entropy = want.recorded("entropy_loss")
    report.relative(title, "forward", "entropy_loss", out["entropy_loss"], entropy, FORWARD, of=log_k)
    for name in _present(want):
        recorded = want.recorded(name)
        if recorded is not None:
            got = run(_temperature(name), None).outputs["presence"]
            report.relative(title, "presence", name, got, recorded, PRESENCE)
    cot_presence = v.arrays.get("cot_presence")
    for name, recorded in want.arrays.items():
        if name.startswith("g.z_from_presence_"):
            if cot_presence is None:
                v.recorded("cot_presence")
                continue
            got = run(_temperature(name), {"presence": cot_presence}).inputs["z"]
            report.relative(title, "gradients", name, got, recorded, GRADIENT)
    return [out[name] for name in BUFFERS]


def _present(want: Vectors) -> list[str]:
    """Names of the recorded presence at each temperature, of which the default is always expected."""
    names = [name for name in want.arrays if name.startswith("presence_")]
    return list(dict.fromkeys(("presence_default", *names)))


def _temperature(name: str) -> float:
    """ "presence_T0.3" → 0.3; the default is 1."""
    match = re.search(r"_T([\d.]+)$", name)
    return float(match[1]) if match else 1.0


def _check_invalid(v: Vectors, setting: Setting, report: Report, side: ModuleType) -> None:
    if not v.holds("allinvalid"):
        return
    want, title, z = v.under("allinvalid"), "all invalid", v["z0"]
    codes = want["embeddings"]
    state, mask = [codes, np.ones(len(codes), np.float32), codes], np.zeros(v["mask"].shape, bool)

    def run(temperature: float, update: bool):
        return side.codebook(
            state, z, mask, setting, metric="l2", update=update, temperature=temperature, cotangents=None
        ).outputs

    out = run(1.0, update=True)
    report.exact(title, "codes", "indices", out["indices"], want.recorded("indices"))
    # Of these two nothing is recorded: what comes out is what went in.
    report.exact(title, "unchanged", "pass-through", out["zq"], z)
    report.exact(title, "unchanged", "no update", out["embeddings"], codes)
    report.absolute(title, "forward", "vq_loss", out["vq_loss"], want.recorded("vq_loss"), FORWARD)
    for name, recorded in want.arrays.items():
        if name.startswith("presence_"):
            # 1 - exp(·) of about 1e-6: nothing below the spacing of float32 next to 1 means anything.
            got = run(_temperature(name), update=False)["presence"]
            report.absolute(title, "presence", name, got, recorded, 2.0**-23)


def _check_kmeans(v: Vectors, report: Report, side: ModuleType) -> None:
    for name in ("kmeans", "kmeans_few"):
        if not v.holds(name):
            continue
        want, title = v.under(name), name
        if side.kmeans is None:
            print(f"{name}: not compared, this framework's codebook starts from given codes", file=sys.stderr)
            continue
        if want.arrays.get("empty_replacement_indices_concat", np.zeros(0)).size:
            print(
                f"{name}: not compared, the original drew random samples for empty clusters", file=sys.stderr
            )
            continue
        results = [want.recorded(key) for key in ("embeddings", "ema_sums", "ema_counts")]
        num_codes = next((len(array) for array in results if array is not None), None)
        if num_codes is None:
            continue
        samples = want["samples"]
        # Fewer samples than codes leave nothing to permute.
        few = name == "kmeans_few" and "perm" not in want
        permutation = np.arange(len(samples)) if few else want["perm"]
        codes, iterations = side.kmeans(samples, num_codes, permutation)
        report.relative(title, "k-means", "embeddings", codes, want.recorded("embeddings"), FORWARD)
        report.relative(title, "k-means", "ema_sums", codes, want.recorded("ema_sums"), FORWARD)
        report.exact(title, "k-means", "ema_counts", np.ones(num_codes), want.recorded("ema_counts"))
        if name == "kmeans":
            report.exact(title, "k-means", "iterations", iterations, want.recorded("iterations"))
