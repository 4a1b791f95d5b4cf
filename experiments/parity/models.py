"""Cases 3, 7 and 8: the whole models, their gradients and their first steps of Adam."""

import typing
from types import ModuleType

import numpy as np

from experiments.parity.compare import (
    FORWARD,
    PRESENCE,
    TRAJECTORY_LOSS,
    TRAJECTORY_WEIGHT,
    Report,
)
from experiments.parity.partitioner import ZERO_GRADIENTS, Padding, all_rounds, check_rounds, compare_features
from experiments.parity.vectors import Vectors, model_config, one_protein, temperature
from partoken_jax.config import Pooling
from partoken_jax.convert import from_state_dict


def check_baseline(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 3: the GVP baseline with every pooling, with and without residue types.

    Pooling comes after the encoder, so one of them (sum, the published one) is checked in every form.
    """
    for pooling in typing.get_args(Pooling):
        for setting in v.under(pooling).groups() if pooling in v else ():
            for form in side.MODEL_FORMS if pooling == "sum" else side.MODEL_FORMS[-1:]:
                _check_baseline(v, pooling, setting, form, report, side)


def _check_baseline(v, pooling: str, setting: str, form: str, report: Report, side: ModuleType) -> None:
    title, want = f"{pooling} {setting} {form}", v.under(f"{pooling}.{setting}")
    config = model_config(v.config, "gvp", pooling=pooling, residue_types=setting == "seq1")
    inputs, cotangents = v.under("in"), {"ce": 1.0} if "g" in want else None
    result = side.baseline(form, config, v.under(f"w.{setting}"), inputs, one_protein(inputs, 0), cotangents)
    out = result.outputs
    if "g" in want:
        expected = from_state_dict(want.under("g").arrays)
        expected = {k: a for k, a in expected.items() if k in result.parameters}
        skip = ("pool.score.layers.1.bias",)
        report.gradients(title, "gradients", result.parameters, expected, skip=skip)
    single = out["single_logits"]
    report.relative(title, "forward", "single protein", single, want["logits_single_graph0"], FORWARD)
    report.relative(title, "forward", "first of batch", out["logits"][:1], single, FORWARD)
    report.relative(title, "forward", "logits", out["mixed_logits"], want["logits"], FORWARD)
    report.relative(title, "forward", "ce", out["ce"], want["ce"], FORWARD)


def check_partoken(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 7: everything the whole model computes, evaluating and training."""
    padding = Padding(v["in.batch"])
    noise = {
        "temperature": temperature(v.config),
        "uniform": all_rounds(padding.flat(v["eval.uniform"]), v.config["max_clusters"]),
    }
    for form in side.MODEL_FORMS:
        _check_encoder(form, v, report, side)
        _check_evaluation(form, v, padding, noise, report, side)
        _check_training(form, v, padding, noise, report, side)


def _check_encoder(form: str, v: Vectors, report: Report, side: ModuleType) -> None:
    want, config = v.under("eval"), model_config(v.config, "partoken")
    nodes, features = side.encoder(form, config, v.under("w"), v.under("in"))
    for number, hidden in enumerate(nodes):
        name = "encoder" if number == 0 else f"layer{number - 1}"
        for part, array in zip("sv", hidden, strict=True):
            key = f"h_after_{name}_{part}"
            report.relative(form, "encoder", key, array, want[key], FORWARD)
    report.relative(form, "encoder", "node_features", features, want["node_features"], FORWARD)


def _check_evaluation(form: str, v: Vectors, padding, noise: dict, report: Report, side) -> None:
    want, title, config = v.under("eval"), f"{form} eval", model_config(v.config, "partoken")
    out = side.evaluate(form, config, v.under("w"), v.under("in"), **noise)
    check_rounds(title, out, want, padding, report)
    report.exact(title, "decisions", "codes", out["codes"], want["code_indices"])
    compare_features(title, out["cluster_features"], want["cluster_features"], report)
    for name, array in (
        ("logits", out["logits"]),
        ("bypass_logits", out["bypass_logits"]),
        ("vq_loss", out["vq"]),
        ("commitment_loss", out["vq"] / config.codebook.beta),
        ("perplexity", out["perplexity"]),
        ("importance", out["importance"]),
    ):
        if name in want.arrays:
            report.relative(title, "forward", name, array, want[name], FORWARD)
    report.relative(title, "presence", "presence", out["presence"], want["presence"], PRESENCE)


def _check_training(form: str, v: Vectors, padding, noise: dict, report: Report, side) -> None:
    want, title, recorded = v.under("train"), f"{form} train", v.config
    config = model_config(recorded, "partoken")
    card = recorded["lambda_card"]
    # The recorded total has the cardinality term without a gradient.
    total = {"ce": 1.0, "vq": recorded["lambda_vq"], "coverage": recorded["lambda_psc"]}
    step = {"ce": 1.0, "vq": 1.0}

    def run(cotangents: dict, published: bool):
        return side.train(
            form, config, v.under("w"), v.under("in"), **noise, published=published, cotangents=cotangents
        )

    def expected(name):
        return from_state_dict(v.under(name).arrays)

    result = run(total, published=False)
    out = result.outputs
    if "trainfix.g.total" in v:
        want_gradients = expected("trainfix.g.total")
        report.gradients(title, "gradients", result.parameters, want_gradients, skip=ZERO_GRADIENTS)
    for name, cotangents in (("train.g.total", total), ("train.g.step", step)):
        if name in v:
            published = run(cotangents, published=True)
            group = f"{name}, published"
            report.gradients(title, group, published.parameters, expected(name), skip=ZERO_GRADIENTS)
            if name == "train.g.step":
                loss = published.outputs["ce"] + published.outputs["vq"]
                report.relative(title, "forward", "step loss", loss, want["loss_as_training_step"], FORWARD)
    members = padding.members(out["cluster_of_residue"], want["assignment"].shape)
    report.exact(title, "decisions", "assignment", members, want["assignment"].astype(bool))
    for name in ("embeddings", "ema_counts", "ema_sums"):
        report.relative(title, "buffers", name, out[name], want[f"{name}_after"], FORWARD)
    report.relative(title, "presence", "presence", out["presence"], want["presence"], PRESENCE)
    # The recorded total weights the cardinality term twice.
    loss = sum(weight * out[name] for name, weight in total.items()) + card * card * out["cardinality"]
    metrics = {
        "logits": out["logits"],
        "importance": out["importance"],
        "vq_loss": out["vq"],
        "total": loss,
        "metric.loss_total": loss,
        "metric.loss_cls": out["ce"],
        "metric.loss_vq_commit": out["vq"],
        "metric.loss_psc": out["coverage"],
        "metric.loss_cardinality": card * out["cardinality"],
        "metric.metric_perplexity": out["perplexity"],
        "metric.codebook_commitment_loss": out["vq"] / recorded["codebook_beta"],
        "metric.coverage_mean": -out["coverage"],
    }
    for name, array in metrics.items():
        if name in want.arrays:
            report.relative(title, "forward", name, array, want[name], FORWARD)
    if "metric.metric_presence_mean" in want.arrays:
        mean = want["metric.metric_presence_mean"]
        got = np.mean(out["presence"])
        report.relative(title, "presence", "metric_presence_mean", got, mean, PRESENCE)
    if "metric.metric_entropy" in want.arrays:
        # The entropy loss is log K minus an entropy: relative to log K.
        entropy, log_k = want["metric.metric_entropy"], np.log(config.codebook.size)
        report.relative(title, "forward", "metric_entropy", out["entropy_loss"], entropy, FORWARD, of=log_k)


def check_trajectory(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 8: five steps of Adam of both models from the same weights."""
    recorded, inputs = v.config, v.under("in")
    padding, heat = Padding(inputs["batch"]), temperature(recorded)
    adam = {name: recorded[name] for name in ("learning_rate", "b1", "b2", "eps")}
    for form in side.MODEL_FORMS:
        for part, kind in (("gvp", "gvp"), ("pt", "partoken")):
            if part not in v:
                continue
            want, title, config = v.under(part), f"{kind} {form}", model_config(recorded, kind)
            noise = np.zeros((len(want["losses"]), 1))
            if kind == "partoken":
                noise = padding.flat(want["uniform"])
            if "g_step0" in want:
                result = side.train(
                    form, config, want.under("w0"), inputs,
                    temperature=heat, uniform=noise[0], published=True, cotangents={"ce": 1.0, "vq": 1.0},
                )  # fmt: skip
                expected = from_state_dict(want.under("g_step0").arrays)
                report.gradients(title, "gradients", result.parameters, expected, ZERO_GRADIENTS)
            records, final = side.follow(
                form, config, want.under("w0"), inputs, adam=adam, temperature=heat, noise=noise
            )
            _check_steps(title, records, final, want, padding, report)


def _check_steps(title: str, records: list, final: dict, want: Vectors, padding, report: Report) -> None:
    for number, record in enumerate(records):
        if "codes" in record:
            report.exact(
                title, "decisions", f"codes[{number}]", record["codes"], want["code_indices"][number]
            )
            assignment = want["assignment"][number]
            members = padding.members(record["cluster_of_residue"], assignment.shape)
            report.exact(title, "decisions", f"assignment[{number}]", members, assignment.astype(bool))
    for name in ("losses", "ce", "vq"):
        if name in records[0]:
            got = [float(record[name]) for record in records]
            # The terms are compared as parts of the loss: a small one carries the rounding of the large.
            report.relative(title, "losses", name, got, want[name], TRAJECTORY_LOSS, of=want["losses"])
    for name, array in from_state_dict(want.under("w_final").arrays).items():
        if name in final and name not in ZERO_GRADIENTS:
            report.absolute(title, "final weights", name, final[name], array, TRAJECTORY_WEIGHT)
