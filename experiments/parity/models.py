"""Cases 3, 7 and 8: the whole models, their gradients and their first steps of Adam."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments.parity.blocks import PublishedAttention
from experiments.parity.compare import (
    FORWARD,
    PRESENCE,
    TRAJECTORY_LOSS,
    TRAJECTORY_WEIGHT,
    Report,
)
from experiments.parity.partitioner import ZERO_GRADIENTS, Padding, all_rounds, check_rounds, compare_features
from experiments.parity.vectors import (
    Vectors,
    batch_graph,
    flat_state,
    model_config,
    parameter_gradients,
    temperature,
)
from partoken_jax.config import Pooling
from partoken_jax.convert import from_state_dict, set_arrays
from partoken_jax.graphs.index import graph_index
from partoken_jax.models import GVPClassifier, ParToken
from partoken_jax.nn.pooling import segment_softmax
from partoken_jax.training.losses import cross_entropy

FORMS = ("general", "dense")


def classification_loss(logits, graph):
    return cross_entropy(logits, graph.globals.label[:-1], graph.globals.mask[:-1])


def _weights(v: Vectors, model: nnx.Module) -> None:
    """Sets recorded weights; the recorded set may hold parts that this variant of the model lacks."""
    ours = from_state_dict(v.arrays)
    have = flat_state(model)
    set_arrays(model, {k: a for k, a in ours.items() if k in have or not k.startswith("pool.")})


def check_baseline(v: Vectors, report: Report) -> None:
    """Case 3: the GVP baseline with every pooling, with and without residue types.

    Pooling comes after the encoder, so one of them (sum, the published one) is checked in both forms.
    """
    for pooling in typing.get_args(Pooling):
        for setting in v.under(pooling).groups() if pooling in v else ():
            for form in FORMS if pooling == "sum" else ("dense",):
                _check_baseline(v, pooling, setting, form, report)


def _check_baseline(v: Vectors, pooling: str, setting: str, form: str, report: Report) -> None:
    title, want = f"{pooling} {setting} {form}", v.under(f"{pooling}.{setting}")
    config = model_config(
        v.config, "gvp", pooling=pooling, residue_types=setting == "seq1", message_passing=form
    )
    model = GVPClassifier(config, rngs=nnx.Rngs(0))
    _weights(v.under(f"w.{setting}"), model)
    inputs, dense = v.under("in"), form == "dense"
    graph, first = batch_graph(inputs, dense), batch_graph(inputs, dense, only=0)

    def run(m):
        logits = m(graph).logits
        # The published attention pooling mixes the proteins of a batch; ours does not.
        mixed = published_attention_pooling(m, graph) if pooling == "attention" else logits
        loss = classification_loss(mixed, graph)
        return loss, (m(first).logits, logits, mixed, loss)

    if "g" in want:
        gradients, _, record = parameter_gradients(model, run)
        expected = from_state_dict(want.under("g").arrays)
        expected = {k: a for k, a in expected.items() if k in gradients}
        report.gradients(title, "gradients", gradients, expected, skip=("pool.score.layers.1.bias",))
    else:
        record = jax.jit(run)(model)[1]
    single, logits, mixed, loss = record
    report.relative(title, "forward", "single protein", single, want["logits_single_graph0"], FORWARD)
    report.relative(title, "forward", "first of batch", logits[:1], single, FORWARD)
    report.relative(title, "forward", "logits", mixed, want["logits"], FORWARD)
    report.relative(title, "forward", "ce", loss, want["ce"], FORWARD)


def published_attention_pooling(model: GVPClassifier, graph):
    """The baseline with one softmax over all residues of the batch, as the original has it."""
    out = model(graph)
    index = graph_index(graph)
    score = model.pool.score(out.node_features)[:, 0]
    weight = segment_softmax(score, graph.nodes.mask, jnp.zeros_like(index), 1)
    pooled = jax.ops.segment_sum(out.node_features * weight[:, None], index, len(graph.n_node))
    return model.classifier(pooled[:-1])


def _partoken(config: dict, weights: Vectors, form: str, published_attention: bool = False) -> ParToken:
    model = ParToken(model_config(config, "partoken", message_passing=form), rngs=nnx.Rngs(0))
    if published_attention:
        model.attention = PublishedAttention(
            model.config.node_hidden[0], model.config.attention_heads, rngs=nnx.Rngs(0)
        )
    _weights(weights, model)
    return model


def check_partoken(v: Vectors, report: Report) -> None:
    """Case 7: everything the whole model computes, evaluating and training."""
    for form in FORMS:
        title, config = form, v.config
        inputs, heat = v.under("in"), temperature(config)
        graph = batch_graph(inputs, form == "dense")
        padding = Padding(inputs["batch"])
        uniform = jnp.asarray(all_rounds(padding.flat(v["eval.uniform"]), config["max_clusters"]))
        model = _partoken(config, v.under("w"), form)
        _check_encoder(title, model, graph, v.under("eval"), report)
        _check_evaluation(title, model, graph, v.under("eval"), padding, uniform, heat, report)
        _check_training(title, config, v, graph, padding, uniform, heat, form, report)


def _check_encoder(title, model: ParToken, graph, want: Vectors, report: Report) -> None:
    @jax.jit
    def stages(encoder):
        hidden = encoder.embed(graph)
        nodes = [hidden.nodes]
        for layer in encoder.layers:
            nodes.append(layer(hidden._replace(nodes=nodes[-1]), dense=encoder.dense))
        return nodes, encoder(graph)

    nodes, features = stages(model.encoder)
    for number, hidden in enumerate(nodes):
        name = "encoder" if number == 0 else f"layer{number - 1}"
        for part, array in zip("sv", hidden, strict=True):
            key = f"h_after_{name}_{part}"
            report.relative(title, "encoder", key, array, want[key], FORWARD)
    report.relative(title, "encoder", "node_features", features, want["node_features"], FORWARD)


def _check_evaluation(title, model, graph, want, padding, uniform, heat, report) -> None:
    @jax.jit
    def evaluate(m):
        noise = {"temperature": heat, "uniform": uniform}
        bypass = m(graph, **noise, bypass_codebook=True)
        return m(graph, **noise), bypass, m.partitioner(m.encoder(graph), graph.nodes.mask, graph, **noise)

    out, bypass, partition = evaluate(model)
    title, num_graphs = f"{title} eval", len(want["logits"])
    check_rounds(title, partition, want, padding, num_graphs, report)
    report.exact(title, "decisions", "codes", out.codes, want["code_indices"])
    compare_features(title, out.cluster_features, want["cluster_features"], report)
    for name, array in (
        ("logits", out.logits),
        ("bypass_logits", bypass.logits),
        ("vq_loss", out.losses.vq),
        ("commitment_loss", out.losses.vq / model.config.codebook.beta),
        ("perplexity", out.perplexity),
        ("importance", out.importances),
    ):
        if name in want.arrays:
            report.relative(title, "forward", name, array, want[name], FORWARD)
    report.relative(title, "presence", "presence", out.presence, want["presence"], PRESENCE)


def _check_training(title, config, v, graph, padding, uniform, heat, form, report) -> None:
    want, title = v.under("train"), f"{title} train"
    weights = (config["lambda_vq"], config["lambda_psc"], config["lambda_card"])

    def run(m):
        return m(graph, temperature=heat, uniform=uniform, update_codebook=True)

    def total(m):
        # The recorded total counts the cardinality term twice weighted and without a gradient.
        out = run(m)
        vq, psc, card = weights
        cardinality = card * jax.lax.stop_gradient(card * out.losses.cardinality)
        loss = (
            classification_loss(out.logits, graph)
            + vq * out.losses.vq
            + psc * out.losses.coverage
            + cardinality
        )
        return loss, (out, m.codebook.state, loss)

    def step_loss(m):
        out = run(m)
        loss = classification_loss(out.logits, graph) + out.losses.vq
        return loss, (out, m.codebook.state, loss)

    def expected(name):
        return from_state_dict(v.under(name).arrays)

    model = _partoken(config, v.under("w"), form)
    gradients, _, (out, buffers, loss) = parameter_gradients(model, total)
    if "trainfix.g.total" in v:
        report.gradients(title, "gradients", gradients, expected("trainfix.g.total"), skip=ZERO_GRADIENTS)
    published = _partoken(config, v.under("w"), form, published_attention=True)
    for name, loss_of in (("train.g.total", total), ("train.g.step", step_loss)):
        if name in v:
            gradients, _, record = parameter_gradients(published, loss_of)
            report.gradients(title, f"{name}, published", gradients, expected(name), skip=ZERO_GRADIENTS)
            if name == "train.g.step":
                report.relative(
                    title, "forward", "step loss", record[2], want["loss_as_training_step"], FORWARD
                )
    report.exact(title, "decisions", "assignment", *_members(out, want["assignment"], padding))
    for name, array in zip(("embeddings", "ema_counts", "ema_sums"), buffers, strict=True):
        report.relative(title, "buffers", name, array, want[f"{name}_after"], FORWARD)
    report.relative(title, "presence", "presence", out.presence, want["presence"], PRESENCE)
    metrics = {
        "logits": out.logits,
        "importance": out.importances,
        "vq_loss": out.losses.vq,
        "total": loss,
        "metric.loss_total": loss,
        "metric.loss_cls": classification_loss(out.logits, graph),
        "metric.loss_vq_commit": out.losses.vq,
        "metric.loss_psc": out.losses.coverage,
        "metric.loss_cardinality": config["lambda_card"] * out.losses.cardinality,
        "metric.metric_perplexity": out.perplexity,
        "metric.codebook_commitment_loss": out.losses.vq / config["codebook_beta"],
        "metric.coverage_mean": -out.losses.coverage,
    }
    for name, array in metrics.items():
        if name in want.arrays:
            report.relative(title, "forward", name, array, want[name], FORWARD)
    if "metric.metric_presence_mean" in want.arrays:
        mean = want["metric.metric_presence_mean"]
        report.relative(title, "presence", "metric_presence_mean", jnp.mean(out.presence), mean, PRESENCE)
    if "metric.metric_entropy" in want.arrays:
        # The entropy loss is log K minus an entropy: relative to log K.
        got, entropy, log_k = out.entropy_loss, want["metric.metric_entropy"], np.log(len(out.usage))
        report.relative(title, "forward", "metric_entropy", got, entropy, FORWARD, of=log_k)


def _members(out, assignment, padding: Padding):
    cluster = padding.padded(np.asarray(out.cluster_of_residue) + 1, assignment.shape[:2]) - 1
    return cluster[..., None] == np.arange(assignment.shape[2]), assignment.astype(bool)


def check_trajectory(v: Vectors, report: Report) -> None:
    """Case 8: five steps of Adam of both models from the same weights."""
    config, inputs = v.config, v.under("in")
    padding = Padding(inputs["batch"])
    heat = temperature(config)
    optimiser = optax.adam(config["learning_rate"], b1=config["b1"], b2=config["b2"], eps=config["eps"])
    for form in FORMS:
        graph = batch_graph(inputs, form == "dense")
        if "gvp" in v:
            want = v.under("gvp")
            model = GVPClassifier(model_config(config, "gvp", message_passing=form), rngs=nnx.Rngs(0))
            _weights(want.under("w0"), model)

            def gvp_loss(m, _, graph=graph):
                loss = classification_loss(m(graph).logits, graph)
                return loss, {"losses": loss}

            noise = jnp.zeros((len(want["losses"]), 1))
            _follow(f"gvp {form}", model, optimiser, gvp_loss, noise, want, padding, report)
        if "pt" in v:
            want = v.under("pt")
            model = _partoken(config, want.under("w0"), form, published_attention=True)

            def partoken_loss(m, uniform, graph=graph):
                out = m(graph, temperature=heat, uniform=uniform, update_codebook=True)
                ce = classification_loss(out.logits, graph)
                loss = ce + out.losses.vq
                return loss, {"losses": loss, "ce": ce, "vq": out.losses.vq, "out": out}

            if "g_step0" in want:
                uniform = jnp.asarray(padding.flat(want["uniform"])[0])
                gradients, _, _ = parameter_gradients(model, lambda m, u=uniform, f=partoken_loss: f(m, u))
                expected = from_state_dict(want.under("g_step0").arrays)
                report.gradients(f"partoken {form}", "gradients", gradients, expected, ZERO_GRADIENTS)
            noise = jnp.asarray(padding.flat(want["uniform"]))
            _follow(f"partoken {form}", model, optimiser, partoken_loss, noise, want, padding, report)


def _follow(title, model, optimiser, loss_of, noise, want, padding, report) -> None:
    graphdef, params, buffers = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, buffers, opt_state, noise):
        def loss(params):
            m = nnx.merge(graphdef, params, buffers, copy=True)
            value, record = loss_of(m, noise)
            return value, (record, nnx.split(m, nnx.Param, ...)[2])

        gradients, (record, buffers) = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimiser.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), buffers, opt_state, record

    opt_state, losses = optimiser.init(params), []
    for number in range(len(want["losses"])):
        params, buffers, opt_state, record = step(params, buffers, opt_state, noise[number])
        out = record.pop("out", None)
        losses.append(record)
        if out is not None:
            codes = want["code_indices"][number]
            report.exact(title, "decisions", f"codes[{number}]", out.codes, codes)
            members = _members(out, want["assignment"][number], padding)
            report.exact(title, "decisions", f"assignment[{number}]", *members)
    for name in losses[0]:
        got = [float(record[name]) for record in losses]
        # The terms are compared as parts of the loss: a small one carries the rounding of the large.
        report.relative(title, "losses", name, got, want[name], TRAJECTORY_LOSS, of=want["losses"])
    final = {**flat_state(params), **flat_state(buffers)}
    for name, array in from_state_dict(want.under("w_final").arrays).items():
        if name in final and name not in ZERO_GRADIENTS:
            report.absolute(title, "final weights", name, final[name], array, TRAJECTORY_WEIGHT)
