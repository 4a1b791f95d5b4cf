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
    for mode, metric in (("l2", "l2"), ("cos", "cosine"), ("l2_norm", "cosine")):
        for start in v.under(mode).groups() if mode in v else ():
            case = v.under(mode).under(start)
            state = [case[f"{name}_before"] for name in BUFFERS]
            for number, step in enumerate(("train0", "train1", "train2", "eval")):
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

    published_loss = {"vq_loss": 1.0, "zq": 0.1 * v["cot_zq"]}
    result = run(1.0, published_loss)
    out = result.outputs
    report.exact(title, "codes", "indices", out["indices"], want["indices"])
    report.relative(title, "forward", "zq", out["zq"], want["zq"], FORWARD)
    report.relative(title, "forward", "vq_loss", out["vq_loss"], want["vq_loss"], FORWARD)
    commitment = out["vq_loss"] / setting.beta
    report.relative(title, "forward", "commitment_loss", commitment, want["commitment_loss"], FORWARD)
    report.relative(title, "gradients", "g.z", result.inputs["z"], want["g.z"], GRADIENT)
    for name in BUFFERS:
        if f"{name}_after" in want.arrays:
            report.relative(title, "buffers", name, out[name], want[f"{name}_after"], FORWARD)
    report.relative(title, "forward", "usage_probs", out["usage_probs"], want["usage_probs"], FORWARD)
    report.relative(title, "forward", "perplexity", out["perplexity"], want["perplexity"], FORWARD)
    # The entropy loss is log K minus an entropy: relative to log K.
    log_k = np.log(len(out["usage_probs"]))
    entropy = out["entropy_loss"]
    report.relative(title, "forward", "entropy_loss", entropy, want["entropy_loss"], FORWARD, of=log_k)
    for name, recorded in want.arrays.items():
        if name.startswith("presence_"):
            got = run(_temperature(name), None).outputs["presence"]
            report.relative(title, "presence", name, got, recorded, PRESENCE)
    for name, recorded in want.arrays.items():
        if name.startswith("g.z_from_presence_"):
            got = run(_temperature(name), {"presence": v["cot_presence"]}).inputs["z"]
            report.relative(title, "gradients", name, got, recorded, GRADIENT)
    return [out[name] for name in BUFFERS]


def _temperature(name: str) -> float:
    """ "presence_T0.3" → 0.3; the default is 1."""
    match = re.search(r"_T([\d.]+)$", name)
    return float(match[1]) if match else 1.0


def _check_invalid(v: Vectors, setting: Setting, report: Report, side: ModuleType) -> None:
    if "allinvalid" not in v:
        return
    want, title, z = v.under("allinvalid"), "all invalid", v["z0"]
    codes = want["embeddings"]
    state, mask = [codes, np.ones(len(codes), np.float32), codes], np.zeros(v["mask"].shape, bool)

    def run(temperature: float, update: bool):
        return side.codebook(
            state, z, mask, setting, metric="l2", update=update, temperature=temperature, cotangents=None
        ).outputs

    out = run(1.0, update=True)
    report.exact(title, "codes", "indices", out["indices"], want["indices"])
    report.exact(title, "codes", "pass-through", out["zq"], z)
    report.exact(title, "codes", "no update", out["embeddings"], want["embeddings"])
    report.absolute(title, "forward", "vq_loss", out["vq_loss"], want["vq_loss"], FORWARD)
    for name, recorded in want.arrays.items():
        if name.startswith("presence_"):
            # 1 - exp(·) of about 1e-6: nothing below the spacing of float32 next to 1 means anything.
            got = run(_temperature(name), update=False)["presence"]
            report.absolute(title, "presence", name, got, recorded, 2.0**-23)


def _check_kmeans(v: Vectors, report: Report, side: ModuleType) -> None:
    for name in ("kmeans", "kmeans_few"):
        if name not in v:
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
        samples, num_codes = want["samples"], want["embeddings"].shape[0]
        permutation = want["perm"] if "perm" in want.arrays else np.arange(len(samples))
        codes, iterations = side.kmeans(samples, num_codes, permutation)
        report.relative(title, "forward", "embeddings", codes, want["embeddings"], FORWARD)
        report.relative(title, "forward", "ema_sums", codes, want["ema_sums"], FORWARD)
        report.exact(title, "codes", "ema_counts", np.ones(num_codes), want["ema_counts"])
        if "iterations" in want.arrays:
            report.exact(title, "codes", "iterations", iterations, want["iterations"])
