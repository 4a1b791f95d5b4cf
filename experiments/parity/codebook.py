"""Case 5: quantisation, moving averages, usage, presence and k-means of the codebook."""

import re
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.parity.compare import FORWARD, GRADIENT, PRESENCE, Report
from experiments.parity.vectors import Vectors
from partoken_jax.nn.codebook import (
    CodebookState,
    codebook_use,
    ema_update,
    kmeans,
    log_absence,
    presence,
    quantise,
)


class Setting(NamedTuple):
    """The codebook's hyper-parameters: of the file's configuration, else the published ones."""

    beta: float
    decay: float
    epsilon: float

    @classmethod
    def of(cls, config: dict) -> "Setting":
        names = {"codebook_beta": 0.25, "codebook_decay": 0.99, "codebook_eps": 1e-5}
        return cls(*(config.get(name, published) for name, published in names.items()))


def check_codebook(v: Vectors, report: Report) -> None:
    """Case 5: quantisation, moving averages, presence, k-means."""
    mask, setting = jnp.asarray(v["mask"]), Setting.of(v.config)
    for mode, metric in (("l2", "l2"), ("cos", "cosine"), ("l2_norm", "cosine")):
        for start in v.under(mode).groups() if mode in v else ():
            case = v.under(mode).under(start)
            state = CodebookState(
                *(jnp.asarray(case[f"{n}_before"]) for n in ("embeddings", "ema_counts", "ema_sums"))
            )
            for number, step in enumerate(("train0", "train1", "train2", "eval")):
                z = jnp.asarray(v[f"z{number}"])
                title = f"{mode} {start}"
                state = _check_step(
                    title, case.under(step), v, state, z, mask, metric, step != "eval", setting, report
                )
    _check_invalid(v, setting, report)
    _check_kmeans(v, report)


def _check_step(title, want, v, state, z, mask, metric, train, setting, report):
    def published_loss(z):
        out = quantise(state, z, mask, beta=setting.beta, metric=metric)
        return out.loss + 0.1 * jnp.sum(out.features * v["cot_zq"])

    out = quantise(state, z, mask, beta=setting.beta, metric=metric)
    report.exact(title, "codes", "indices", out.codes, want["indices"])
    report.relative(title, "forward", "zq", out.features, want["zq"], FORWARD)
    report.relative(title, "forward", "vq_loss", out.loss, want["vq_loss"], FORWARD)
    report.relative(
        title, "forward", "commitment_loss", out.loss / setting.beta, want["commitment_loss"], FORWARD
    )
    report.relative(title, "gradients", "g.z", jax.grad(published_loss)(z), want["g.z"], GRADIENT)
    after = state
    if train:
        after = ema_update(
            state, z, out.codes, decay=setting.decay, epsilon=setting.epsilon, keep_unused=False
        )
    for name, array in zip(("embeddings", "ema_counts", "ema_sums"), after, strict=True):
        if f"{name}_after" in want.arrays:
            report.relative(title, "buffers", name, array, want[f"{name}_after"], FORWARD)
    use = codebook_use(after.counts, setting.epsilon)
    report.relative(title, "forward", "usage_probs", use.usage, want["usage_probs"], FORWARD)
    report.relative(title, "forward", "perplexity", use.perplexity, want["perplexity"], FORWARD)
    # The entropy loss is log K minus an entropy: relative to log K.
    log_k = np.log(len(use.usage))
    report.relative(
        title, "forward", "entropy_loss", use.entropy_loss, want["entropy_loss"], FORWARD, of=log_k
    )
    for name, recorded in want.arrays.items():
        if name.startswith("presence_"):
            got = presence(log_absence(after.embeddings, z, mask, _temperature(name)))
            report.relative(title, "presence", name, got, recorded, PRESENCE)
    for name, recorded in want.arrays.items():
        if name.startswith("g.z_from_presence_"):
            heat = _temperature(name)

            def total(z, heat=heat):
                return jnp.sum(presence(log_absence(after.embeddings, z, mask, heat)) * v["cot_presence"])

            report.relative(title, "gradients", name, jax.grad(total)(z), recorded, GRADIENT)
    return after


def _temperature(name: str) -> float:
    """ "presence_T0.3" → 0.3; the default is 1."""
    match = re.search(r"_T([\d.]+)$", name)
    return float(match[1]) if match else 1.0


def _check_invalid(v: Vectors, setting: Setting, report: Report) -> None:
    if "allinvalid" not in v:
        return
    want, title = v.under("allinvalid"), "all invalid"
    codes = jnp.asarray(want["embeddings"])
    state = CodebookState(codes, jnp.ones(codes.shape[0]), codes)
    z, mask = jnp.asarray(v["z0"]), jnp.zeros(v["mask"].shape, bool)
    out = quantise(state, z, mask, beta=setting.beta, metric="l2")
    after = ema_update(state, z, out.codes, decay=setting.decay, epsilon=setting.epsilon, keep_unused=False)
    report.exact(title, "codes", "indices", out.codes, want["indices"])
    report.exact(title, "codes", "pass-through", out.features, z)
    report.exact(title, "codes", "no update", after.embeddings, want["embeddings"])
    report.absolute(title, "forward", "vq_loss", out.loss, want["vq_loss"], FORWARD)
    for name, recorded in want.arrays.items():
        if name.startswith("presence_"):
            # 1 - exp(·) of about 1e-6: nothing below the spacing of float32 next to 1 means anything.
            got = presence(log_absence(codes, z, mask, _temperature(name)))
            report.absolute(title, "presence", name, got, recorded, 2.0**-23)


def _check_kmeans(v: Vectors, report: Report) -> None:
    for name in ("kmeans", "kmeans_few"):
        if name not in v:
            continue
        want, title = v.under(name), name
        if want.arrays.get("empty_replacement_indices_concat", np.zeros(0)).size:
            print(
                f"{name}: not compared, the original drew random samples for empty clusters", file=sys.stderr
            )
            continue
        samples, num_codes = jnp.asarray(want["samples"]), want["embeddings"].shape[0]
        permutation = want["perm"] if "perm" in want.arrays else np.arange(len(samples))
        codes, iterations = kmeans(samples, num_codes, permutation=jnp.asarray(permutation))
        report.relative(title, "forward", "embeddings", codes, want["embeddings"], FORWARD)
        report.relative(title, "forward", "ema_sums", codes, want["ema_sums"], FORWARD)
        report.exact(title, "codes", "ema_counts", np.ones(num_codes), want["ema_counts"])
        if "iterations" in want.arrays:
            report.exact(title, "codes", "iterations", iterations, want["iterations"])
