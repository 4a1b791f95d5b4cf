"""Case 5: quantisation, moving averages, usage, presence and k-means of the codebook."""

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

# The file carries no configuration: the codebook was recorded with the published one.
BETA, DECAY, EPSILON = 0.25, 0.99, 1e-5


def check_codebook(v: Vectors, report: Report) -> None:
    """Case 5: quantisation, moving averages, presence, k-means."""
    mask = jnp.asarray(v["mask"])
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
                    title, case.under(step), v, state, z, mask, metric, step != "eval", report
                )
    _check_invalid(v, report)
    _check_kmeans(v, report)


def _check_step(title, want, v, state, z, mask, metric, train, report):
    def published_loss(z):
        out = quantise(state, z, mask, beta=BETA, metric=metric)
        return out.loss + 0.1 * jnp.sum(out.features * v["cot_zq"])

    out = quantise(state, z, mask, beta=BETA, metric=metric)
    report.exact(title, "codes", "indices", out.codes, want["indices"])
    report.relative(title, "forward", "zq", out.features, want["zq"], FORWARD)
    report.relative(title, "forward", "vq_loss", out.loss, want["vq_loss"], FORWARD)
    report.relative(title, "forward", "commitment_loss", out.loss / BETA, want["commitment_loss"], FORWARD)
    report.relative(title, "gradients", "g.z", jax.grad(published_loss)(z), want["g.z"], GRADIENT)
    after = state
    if train:
        after = ema_update(state, z, out.codes, decay=DECAY, epsilon=EPSILON, keep_unused=False)
    for name, array in zip(("embeddings", "ema_counts", "ema_sums"), after, strict=True):
        if f"{name}_after" in want.arrays:
            report.relative(title, "buffers", name, array, want[f"{name}_after"], FORWARD)
    use = codebook_use(after.counts, EPSILON)
    for name, array in (
        ("usage_probs", use.usage),
        ("perplexity", use.perplexity),
        ("entropy_loss", use.entropy_loss),
    ):
        report.relative(title, "forward", name, array, want[name], FORWARD)
    for name, t in (("presence_T0.3", 0.3), ("presence_default", 1.0)):
        got = presence(log_absence(after.embeddings, z, mask, t))
        report.relative(title, "presence", name, got, want[name], PRESENCE)
    gradient = jax.grad(
        lambda z: jnp.sum(presence(log_absence(after.embeddings, z, mask, 0.3)) * v["cot_presence"])
    )(z)
    report.relative(title, "gradients", "g.presence", gradient, want["g.z_from_presence_T0.3"], GRADIENT)
    return after


def _check_invalid(v: Vectors, report: Report) -> None:
    if "allinvalid" not in v:
        return
    want, title = v.under("allinvalid"), "all invalid"
    codes = jnp.asarray(want["embeddings"])
    state = CodebookState(codes, jnp.ones(codes.shape[0]), codes)
    z, mask = jnp.asarray(v["z0"]), jnp.zeros(v["mask"].shape, bool)
    out = quantise(state, z, mask, beta=BETA, metric="l2")
    after = ema_update(state, z, out.codes, decay=DECAY, epsilon=EPSILON, keep_unused=False)
    report.exact(title, "codes", "indices", out.codes, want["indices"])
    report.exact(title, "codes", "pass-through", out.features, z)
    report.exact(title, "codes", "no update", after.embeddings, want["embeddings"])
    report.absolute(title, "forward", "vq_loss", out.loss, want["vq_loss"], FORWARD)
    got = presence(log_absence(codes, z, mask, 0.3))
    report.relative(title, "presence", "presence_T0.3", got, want["presence_T0.3"], PRESENCE)


def _check_kmeans(v: Vectors, report: Report) -> None:
    for name in ("kmeans", "kmeans_few"):
        if name not in v:
            continue
        want, title = v.under(name), name
        samples, num_codes = jnp.asarray(want["samples"]), want["embeddings"].shape[0]
        permutation = want["perm"] if "perm" in want.arrays else np.arange(len(samples))
        codes, iterations = kmeans(samples, num_codes, permutation=jnp.asarray(permutation))
        report.relative(title, "forward", "embeddings", codes, want["embeddings"], FORWARD)
        report.relative(title, "forward", "ema_sums", codes, want["ema_sums"], FORWARD)
        report.exact(title, "codes", "ema_counts", np.ones(num_codes), want["ema_counts"])
        if "iterations" in want.arrays:
            report.exact(title, "codes", "iterations", iterations, want["iterations"])
