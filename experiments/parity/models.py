"""Cases 3, 7 and 8: the whole models, their gradients and their first steps of Adam."""

import typing
from types import ModuleType

import numpy as np

from experiments.parity.compare import FORWARD, PRESENCE, TRAJECTORY_LOSS, TRAJECTORY_WEIGHT, Report
from experiments.parity.partitioner import (
    ZERO_GRADIENTS,
    Padding,
    all_rounds,
    check_rounds,
    compare_features,
    compare_members,
)
from experiments.parity.vectors import (
    Unusable,
    Vectors,
    model_config,
    need_weights,
    one_protein,
    recorded_batch,
    temperature,
)
from partoken_jax.convert import from_state_dict
from partoken_jax.model_config import Pooling


def check_baseline(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 3: the GVP baseline with every pooling, with and without residue types.

    Pooling comes after the encoder, so one of them (sum, the published one) is checked in every form.
    """
    for pooling in typing.get_args(Pooling):
        if not v.holds(pooling):
            continue
        for setting in v.under(pooling).groups():
            for form in side.MODEL_FORMS if pooling == "sum" else side.MODEL_FORMS[-1:]:
                _check_baseline(v, pooling, setting, form, report, side)


def _check_baseline(v, pooling: str, setting: str, form: str, report: Report, side: ModuleType) -> None:
    title, want = f"{pooling} {setting} {form}", v.under(f"{pooling}.{setting}")
    config = model_config(v.config, "gvp", pooling=pooling, residue_types=setting == "seq1")
    inputs, weights = recorded_batch(v), v.under(f"w.{setting}")
    need_weights(weights, config)
    # Gradients were recorded of these two.
    has_gradients = want.holds("g") if pooling in ("sum", "attention") else "g" in want
    cotangents = {"ce": 1.0} if has_gradients else None
    result = side.baseline(form, config, weights, inputs, one_protein(inputs, 0), cotangents)
    out = result.outputs
    if has_gradients:
        skip = ("pool.score.layers.1.bias",)
        report.gradients(title, "gradients", result.parameters, want.under("g"), weights, skip=skip)
    single = out["single_logits"]
    recorded = want.recorded("logits_single_graph0")
    report.relative(title, "forward", "single protein", single, recorded, FORWARD)
    report.relative(title, "forward", "logits", out["mixed_logits"], want.recorded("logits"), FORWARD)
    report.relative(title, "forward", "ce", out["ce"], want.recorded("ce"), FORWARD)
    # Of this nothing is recorded: a protein's logits do not depend on the rest of its batch.
    report.relative(title, "alone", "first of batch", out["logits"][:1], single, FORWARD)


def check_partoken(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 7: everything the whole model computes, evaluating and training."""
    need_weights(v.under("w"), model_config(v.config, "partoken"))
    padding = Padding(recorded_batch(v)["batch"])
    noise = {
        "temperature": temperature(v.config),
        "uniform": all_rounds(padding.flat(v["eval.uniform"]), v.config["max_clusters"]),
    }
    for form in side.MODEL_FORMS:
        _check_encoder(form, v, report, side)
        _check_evaluation(form, v, padding, noise, report, side)
        if v.holds("train") or "trainfix" in v:
            _check_training(form, v, padding, noise, report, side)


def _check_encoder(form: str, v: Vectors, report: Report, side: ModuleType) -> None:
    want, config = v.under("eval"), model_config(v.config, "partoken")
    stages = ["encoder", *(f"layer{number}" for number in range(config.num_layers))]
    recorded = [tuple(want.recorded(f"h_after_{stage}_{part}") for part in "sv") for stage in stages]
    last = want.recorded("node_features")
    if last is None and all(array is None for pair in recorded for array in pair):
        return  # a program less to compile
    nodes, features = side.encoder(form, config, v.under("w"), recorded_batch(v))
    for stage, hidden, pair in zip(stages, nodes, recorded, strict=True):
        for part, got, array in zip("sv", hidden, pair, strict=True):
            report.relative(form, "encoder", f"h_after_{stage}_{part}", got, array, FORWARD)
    report.relative(form, "encoder", "node_features", features, last, FORWARD)


def _check_evaluation(form: str, v: Vectors, padding, noise: dict, report: Report, side) -> None:
    want, title, config = v.under("eval"), f"{form} eval", model_config(v.config, "partoken")
    out = side.evaluate(form, config, v.under("w"), recorded_batch(v), **noise)
    check_rounds(title, out, want, padding, report)
    report.exact(title, "decisions", "codes", out["codes"], want.recorded("code_indices"))
    compare_features(title, out["cluster_features"], want.recorded("cluster_features"), report)
    for name, array in (
        ("logits", out["logits"]),
        ("bypass_logits", out["bypass_logits"]),
        ("vq_loss", out["vq"]),
        ("commitment_loss", out["vq"] / config.codebook.beta),
        ("perplexity", out["perplexity"]),
        ("importance", out["importance"]),
    ):
        report.relative(title, "forward", name, array, want.recorded(name), FORWARD)
    report.relative(title, "presence", "presence", out["presence"], want.recorded("presence"), PRESENCE)


def _check_training(form: str, v: Vectors, padding, noise: dict, report: Report, side) -> None:
    title, recorded, weights = f"{form} train", v.config, v.under("w")
    config = model_config(recorded, "partoken")
    # The recorded total has the cardinality term without a gradient.
    total = {"ce": 1.0, "vq": recorded["lambda_vq"], "coverage": recorded["lambda_psc"]}
    step = {"ce": 1.0, "vq": 1.0}
    result = None
    for name, cotangents, published in (
        ("trainfix.g.total", total, False),
        ("train.g.total", total, True),
        ("train.g.step", step, True),
    ):
        if not v.holds(name):
            continue
        run = side.train(
            form, config, weights, recorded_batch(v), **noise, published=published, cotangents=cotangents
        )
        group = f"{name}, published" if published else "gradients"
        report.gradients(title, group, run.parameters, v.under(name), weights, skip=ZERO_GRADIENTS)
        result = result or run  # the attention defect is in the gradients alone: outputs are the same
    if result is None:
        result = side.train(
            form, config, weights, recorded_batch(v), **noise, published=False, cotangents=None
        )
    _check_training_outputs(title, result.outputs, v, padding, report)


def _check_training_outputs(title: str, out: dict, v: Vectors, padding, report: Report) -> None:
    want, recorded = v.under("train"), v.config
    compare_members(
        title, "assignment", out["cluster_of_residue"], want.recorded("assignment"), padding, report
    )
    for name in ("embeddings", "ema_counts", "ema_sums"):
        report.relative(title, "buffers", name, out[name], want.recorded(f"{name}_after"), FORWARD)
    report.relative(title, "presence", "presence", out["presence"], want.recorded("presence"), PRESENCE)
    mean = want.recorded("metric.metric_presence_mean")
    report.relative(title, "presence", "metric_presence_mean", np.mean(out["presence"]), mean, PRESENCE)
    # The recorded total weights the cardinality term twice.
    card = recorded["lambda_card"]
    loss = out["ce"] + recorded["lambda_vq"] * out["vq"] + recorded["lambda_psc"] * out["coverage"]
    loss = loss + card * card * out["cardinality"]
    metrics = {
        "logits": out["logits"],
        "importance": out["importance"],
        "vq_loss": out["vq"],
        "total": loss,
        "loss_as_training_step": out["ce"] + out["vq"],
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
        report.relative(title, "forward", name, array, want.recorded(name), FORWARD)
    # The entropy loss is log K minus an entropy: relative to log K.
    entropy, log_k = want.recorded("metric.metric_entropy"), np.log(recorded["codebook_size"])
    report.relative(title, "forward", "metric_entropy", out["entropy_loss"], entropy, FORWARD, of=log_k)


def check_trajectory(v: Vectors, report: Report, side: ModuleType) -> None:
    """Case 8: five steps of Adam of both models from the same weights."""
    for part, kind in (("gvp", "gvp"), ("pt", "partoken")):
        if v.holds(part):
            for form in side.MODEL_FORMS:
                _check_trajectory(form, kind, v.under(part), v, report, side)


def _check_trajectory(form: str, kind: str, want: Vectors, v: Vectors, report: Report, side) -> None:
    recorded, inputs, weights = v.config, recorded_batch(v), want.under("w0")
    title, config = f"{kind} {form}", model_config(recorded, kind)
    need_weights(weights, config)
    padding, heat = Padding(inputs["batch"]), temperature(recorded)
    adam = {name: recorded[name] for name in ("learning_rate", "b1", "b2", "eps")}
    if kind == "partoken":
        noise = padding.flat(want["uniform"])
        if want.holds("g_step0"):
            result = side.train(
                form, config, weights, inputs,
                temperature=heat, uniform=noise[0], published=True, cotangents={"ce": 1.0, "vq": 1.0},
            )  # fmt: skip
            g_step0 = want.under("g_step0")
            report.gradients(title, "gradients", result.parameters, g_step0, weights, skip=ZERO_GRADIENTS)
    else:
        noise = np.zeros((_num_steps(want), 1))
    records, final = side.follow(form, config, weights, inputs, adam=adam, temperature=heat, noise=noise)
    _check_steps(title, records, final, want, padding, report)


def _num_steps(want: Vectors) -> int:
    """The baseline needs no noise: its losses tell how many steps it took."""
    for name in ("losses", "losses_f64"):
        if name in want.arrays:
            return len(want[name])
    raise Unusable(f"it lacks the array {want.prefix}losses, which tells the number of steps")


def _check_steps(title: str, records: list, final: dict, want: Vectors, padding, report: Report) -> None:
    if "codes" in records[0]:
        codes, assignment = want.recorded("code_indices"), want.recorded("assignment")
        for number, record in enumerate(records):
            if codes is not None:
                report.exact(title, "decisions", f"codes[{number}]", record["codes"], codes[number])
            if assignment is not None:
                name = f"assignment[{number}]"
                members = record["cluster_of_residue"]
                compare_members(title, name, members, assignment[number], padding, report)
    whole = want.arrays.get("losses", [float(record["losses"]) for record in records])
    for name in ("losses", "ce", "vq"):
        if name in records[0]:
            got = [float(record[name]) for record in records]
            # The terms are compared as parts of the loss: a small one carries the rounding of the large.
            report.relative(title, "losses", name, got, want.recorded(name), TRAJECTORY_LOSS, of=whole)
    if want.holds("w_final"):
        recorded = want.under("w_final")
        for key, array in want.under("w0").arrays.items():
            for path in from_state_dict({key: array}):
                if path in final and path not in ZERO_GRADIENTS:
                    last = recorded.recorded(key)
                    last = None if last is None else from_state_dict({key: last})[path]
                    report.absolute(title, "final weights", path, final[path], last, TRAJECTORY_WEIGHT)
