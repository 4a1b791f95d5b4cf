"""Pretraining on structure: its loss and scores, what they may depend on, its runs, what starts from them.

One shape of batch serves all: most of the time of these tests is compilation.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.faults import differences
from partoken_jax.config import CheckpointConfig, ConfigError, PretrainingConfig, StageConfig
from partoken_jax.model_config import PartitionerConfig
from partoken_jax.models import ResidueModel
from partoken_jax.nn.noise import residue_noise
from partoken_jax.nn.residue_types import drawn_residues, shaken
from partoken_jax.proteins import RESIDUE_TYPES
from partoken_jax.training import objective
from partoken_jax.training.checkpoints import restore
from partoken_jax.training.evaluate import evaluate
from partoken_jax.training.initial_weights import initial_weights
from partoken_jax.training.interruption import Interrupted
from partoken_jax.training.loop import train
from partoken_jax.training.objective import (
    LossWeights,
    Randomness,
    evaluate_objective,
    named_arrays,
    split_model,
)
from partoken_jax.training.records import read_records
from partoken_jax.training.recovery import ResidueScores, recoveries
from partoken_jax.training.state import TrainState, abstract_state
from tests.helpers import assert_close, batch, by_path, moved, random_rotation, without_atoms
from tests.helpers import tiny as tiny_model

from .conftest import TINY, tiny
from .test_resume import StopAfter

WEIGHTS = LossWeights(0.0, 0.0, 0.0)
KEY = jax.random.key(5)


def parts(**changes):
    """Structure, parameters and codebook of a model with one layer."""
    config = tiny_model(kind="residues", num_layers=1, rematerialise="none", **changes)
    return split_model(ResidueModel(config, rngs=nnx.Rngs(0)))


@functools.cache
def training(residue_types):
    """The objective of a batch with dropout, of a model with one layer; gradients of that which sees no types
    alone."""
    split = parts(residue_types=residue_types)

    @jax.jit
    def run(graph):
        found = evaluate_objective(*split, graph, WEIGHTS, randomness=Randomness(key=KEY))
        return found._replace(gradients=None) if residue_types else found

    return run


@pytest.fixture(scope="module")
def proteins(chains):
    """Three chains: one with residues of unknown type, one with missing atoms."""
    unknown = dataclasses.replace(chains[0], sequence="XX" + chains[0].sequence[2:])
    return [unknown, without_atoms(chains[2], (5, 6)), chains[3]]


def types_of(protein):
    """int [L], -1 where a residue does not count."""
    letters = np.array([RESIDUE_TYPES.find(letter) for letter in protein.sequence])
    return np.where(protein.complete, letters, -1)


def test_the_loss_is_the_mean_cross_entropy_of_the_residues_that_count(proteins):
    found = training(False)(batch(proteins))
    logits = np.asarray(found.output.logits, np.float64)
    types = np.concatenate([types_of(protein) for protein in proteins])
    assert (types == -1).sum() == 4
    exponent = np.exp(logits[: len(types)])
    probability = exponent[np.arange(len(types)), types] / exponent.sum(axis=1)
    assert_close(found.losses.total, -np.log(probability[types >= 0]).mean(), 1e-6)
    np.testing.assert_array_equal(found.output.targets[: len(types)], types)
    assert (np.asarray(found.output.targets[len(types) :]) == -1).all()
    gradients = by_path(found.gradients)
    assert {name.split(".")[0] for name in gradients} == {"encoder", "residue_head"}
    assert [name for name, gradient in gradients.items() if not np.abs(gradient).max() > 0] == []


def test_a_model_that_sees_types_is_asked_for_the_hidden_ones_alone(proteins):
    """Which it does not see: they may be any. Those that it sees change what it says."""
    run, graph = training(True), batch(proteins)
    found = run(graph)
    asked, count = np.asarray(found.output.targets) >= 0, sum(map(len, proteins))
    assert 5 < asked.sum() < (np.concatenate([types_of(protein) for protein in proteins]) >= 0).sum()
    logits = np.asarray(found.output.logits, np.float64)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(asked)), found.output.targets]
    assert_close(found.losses.total, losses[asked].mean(), 1e-6)

    def with_other_types(where):
        types = np.where(where, (graph.nodes.residue_type + 7) % 20, graph.nodes.residue_type)
        return run(graph._replace(nodes=graph.nodes._replace(residue_type=types))).output

    np.testing.assert_array_equal(with_other_types(asked).logits, found.output.logits)
    seen = ~asked & (np.arange(len(asked)) < count)
    assert np.abs(with_other_types(seen).logits - found.output.logits)[:count].max() > 1e-3


@pytest.mark.parametrize("residue_types", [False, True], ids=["backbone", "types"])
def test_what_is_said_of_a_protein_depends_on_nothing_but_it(residue_types, proteins):
    """In training: dropout and what is hidden are those of the protein, not of its place in a batch, and what
    fills the batch up makes no difference."""
    run = training(residue_types)
    together, alone = run(batch(proteins, indices=[4, 7, 2])), run(batch(proteins[1:2], indices=[7]))
    start, stop = len(proteins[0]), len(proteins[0]) + len(proteins[1])
    targets = np.asarray(alone.output.targets[: stop - start])
    np.testing.assert_array_equal(targets, together.output.targets[start:stop])
    assert (targets >= 0).any()
    assert_close(alone.output.logits[: stop - start], together.output.logits[start:stop], 1e-5)
    losses = -jax.nn.log_softmax(alone.output.logits)[np.arange(len(targets)), targets]
    assert_close(alone.losses.total, np.asarray(losses)[targets >= 0].mean(), 1e-6)


@pytest.mark.parametrize("residue_types", [False, True], ids=["backbone", "types"])
def test_moving_a_protein_changes_neither_logits_nor_loss(residue_types, proteins):
    """Nor which types are hidden."""
    rng = np.random.default_rng(0)
    turned = [moved(protein, random_rotation(rng), rng.normal(size=3) * 20) for protein in proteins]
    found, other = (training(residue_types)(batch(those)) for those in (proteins, turned))
    np.testing.assert_array_equal(other.output.targets, found.output.targets)
    assert_close(other.output.logits, found.output.logits, 1e-4)
    assert_close(other.losses.total, found.losses.total, 1e-5)


def test_every_parameter_learns_and_its_gradient_is_the_slope(proteins, monkeypatch):
    """Of a model that sees types; the slope along a random direction of each parameter by a central
    difference, in float64 even where the code asks for float32."""
    graph, (graphdef, params, codebook) = batch(proteins), parts(residue_types=True)

    def run(params):
        return evaluate_objective(graphdef, params, codebook, graph, WEIGHTS, randomness=Randomness(key=KEY))

    gradients = by_path(jax.jit(lambda params: run(params).gradients)(params))
    assert {name.split(".")[0] for name in gradients} == {"encoder", "residue_head"}
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    with jax.enable_x64(True):
        loss = jax.jit(lambda leaves: run(structure.unflatten(leaves)).losses.total)
        for number, (path, gradient) in enumerate(gradients.items()):
            direction, ends = rng.normal(size=gradient.shape), []
            for step in (1e-5, -1e-5):
                there = [np.asarray(leaf, np.float64) for leaf in leaves]
                there[number] += step * direction
                ends.append(loss(there))
            assert ends[0].dtype == np.float64
            size = np.linalg.norm(gradient)
            assert np.isfinite(size) and size > 1e-7, path
            error = (ends[0] - ends[1]) / 2e-5 - np.vdot(direction, gradient)
            assert abs(error) < 0.02 * size, path


def test_noise_moves_the_loss_with_the_key_and_no_noise_leaves_it(proteins):
    """Of a model without dropout that sees no types: nothing else is random. Noise belongs to residues, so
    that it is the same wherever a protein lies."""
    graph, far = batch(proteins), batch([moved(protein, shift=[20, -9, 5]) for protein in proteins])

    def losses(noise):
        split = parts(dropout=0.0, pretraining=PretrainingConfig(noise=noise))

        @jax.jit
        def run(graph, key):
            return evaluate_objective(*split, graph, WEIGHTS, randomness=Randomness(key=key)).losses.total

        return [float(run(graph, key)) for graph, key in asked]

    other = jax.random.key(6)
    asked = [(graph, None), (graph, KEY), (graph, other), (far, KEY)]
    exact, shaken = losses(0.0), losses(0.3)
    assert exact[1] == exact[2] == pytest.approx(exact[0], rel=1e-6)
    assert shaken[0] == exact[0]
    assert np.isfinite(shaken).all()
    assert shaken[3] == pytest.approx(shaken[1], rel=1e-5)
    assert np.abs(np.diff([exact[0], shaken[1], shaken[2], exact[0]])).min() > 1e-4


def test_every_protein_draws_its_own_share(chains):
    """Evenly from 0 to 1, or the one share that is given."""
    graph, length = batch([chains[0]] * 4, num_nodes=128), len(chains[0])
    keys = jax.random.split(jax.random.key(0), 200)

    def shares(share):
        hidden = jax.vmap(lambda key: drawn_residues(residue_noise(key, graph), share))(keys)
        return np.reshape(hidden[:, : 4 * length], (200, 4, length)).mean(axis=2)

    drawn, given = shares(None), shares(0.15)
    assert abs(drawn.mean() - 0.5) < 0.05 and 0.25 < drawn.std() < 0.35  # evenly: 0.29
    assert abs(np.corrcoef(drawn.T)[0, 1:]).max() < 0.3
    assert abs(given.mean() - 0.15) < 0.01 and given.std() < 0.1


class Features(ResidueModel):
    """What a model is given, in place of what it says."""

    def __init__(self, noise):
        self.config = tiny_model(kind="residues", pretraining=PretrainingConfig(noise=noise))

    def __call__(self, graph, **_):
        return graph


def test_noise_has_the_size_that_is_set_and_stays_out_of_inference(proteins, monkeypatch):
    graph = batch(proteins)
    moves = np.asarray(shaken(graph, KEY, 0.3).nodes.backbone) - graph.nodes.backbone
    np.testing.assert_array_equal(np.isnan(moves), np.isnan(graph.nodes.backbone))
    moves = moves[np.isfinite(moves)]
    assert abs(moves.mean()) < 0.03 and abs(moves.std() - 0.3) < 0.02
    monkeypatch.setattr(objective, "featurise", lambda graph: graph)
    for noise, key, moved_by in ((0.3, KEY, True), (0.3, None, False), (0.0, KEY, False)):
        given = objective.forward(Features(noise), graph, randomness=Randomness(key))
        assert (np.nanmax(np.abs(given.nodes.backbone - graph.nodes.backbone)) > 0) == moved_by


def test_recovery_counts_residues_and_its_interval_proteins():
    """One of two types right in each protein, then a protein that is right throughout."""
    confusion = np.zeros((4, 1, 20, 20), np.int32)
    confusion[:, 0, 0, 0], confusion[:3, 0, 1, 0] = (10, 10, 10, 40), 10
    cross_entropy = np.log(4) * confusion.sum(axis=(2, 3))
    (found,) = recoveries(ResidueScores(confusion, cross_entropy))
    assert (found["hidden"], found["proteins"], found["residues"]) == (1.0, 4, 100)
    assert found["recovery"] == 0.7 and found["median_recovery"] == 0.5 and found["majority_share"] == 0.7
    assert [t["recovery"] for t in found["types"][:3]] == [1.0, 0.0, 0.0]
    assert found["recovery_low"] == 0.5 and found["recovery_high"] > 0.8  # residues alone: 0.60 to 0.78
    for name in ("perplexity", "perplexity_low", "perplexity_high"):
        assert found[name] == pytest.approx(4.0)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"kind": "gvp"}, "model.kind is 'gvp' and data.task 'residue-types', but"),
        ({"task": "cath-class"}, "model.kind is 'residues' and data.task 'cath-class', but"),
    ],
)
def test_model_and_task_of_pretraining_need_each_other(changes, said):
    with pytest.raises(ConfigError, match=said):
        pretraining("unused", **changes)


def pretraining(run_dir, kind="residues", task="residue-types", residue_types=True, **changes):
    data = dataclasses.replace(TINY.data, task=task)
    config = tiny(run_dir, stage0=StageConfig(2, 1e-3, 1), stage1=StageConfig(0), **changes)
    model = dataclasses.replace(
        config.model, kind=kind, residue_types=residue_types, rematerialise="none", num_layers=1
    )
    return dataclasses.replace(config, data=data, model=model)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """(config, report, records) of a model that sees types, trained straight through."""
    config = pretraining(tmp_path_factory.mktemp("runs") / "pretrained")
    report = train(config, quiet=True)
    return config, report, read_records(Path(config.run_dir) / "metrics.jsonl")


@pytest.mark.slow
def test_a_run_of_pretraining_says_how_well_types_are_told(pretrained):
    config, report, records = pretrained
    assert [record["compilations"] for record in records] == [1, 1]
    everything, few = report["test"]["recovery"]
    assert (everything["hidden"], few["hidden"]) == (1.0, 0.15)
    assert everything["proteins"] == 8 and 0.1 < few["residues"] / everything["residues"] < 0.2
    assert everything["perplexity"] == pytest.approx(np.exp(report["test"]["cross_entropy"]), rel=1e-6)
    assert everything["recovery"] == report["test"]["classification"]["accuracy"]
    assert everything["perplexity_low"] < everything["perplexity"] < everything["perplexity_high"]
    assert sum(t["residues"] for t in everything["types"]) == everything["residues"] <= 8 * 40
    again = evaluate(config.run_dir)
    assert again["scores"] == report["test"]
    told = sum(p["recovery"] * p["residues"] for p in again["predictions"])
    assert told / everything["residues"] == pytest.approx(everything["recovery"])
    text = (Path(config.run_dir) / "report.md").read_text()
    assert "14 train, 8 val, 8 test proteins" in text and "All of the types hidden" in text
    assert not (Path(config.run_dir) / "predictions.npz").exists()  # no protein has a class


@pytest.mark.slow
def test_pretraining_that_was_stopped_goes_on_to_the_same_bits(pretrained, tmp_path):
    straight, report, _ = pretrained
    config = dataclasses.replace(
        straight, run_dir=str(tmp_path / "run"), checkpoint=CheckpointConfig(every=1e-9)
    )
    with pytest.raises(Interrupted):
        train(config, quiet=True, stop=StopAfter(3))
    assert train(dataclasses.replace(config, resume=True), quiet=True)["test"] == report["test"]
    assert differences(Path(straight.run_dir), tmp_path / "run") == []


READERS = ("encoder.residue_embedding.", "encoder.node_norm.", "encoder.node_gvp.")


@pytest.mark.slow
@pytest.mark.parametrize("kind, sees_types", [("partoken", True), ("gvp", False)])
def test_a_model_starts_from_the_encoder_and_nothing_else(kind, sees_types, pretrained):
    model = dataclasses.replace(TINY.model, kind=kind, residue_types=sees_types, num_layers=1)
    more = dataclasses.replace(TINY.data, neighbours=TINY.data.neighbours + 1)
    config = dataclasses.replace(TINY, model=model, data=more)
    _, shapes = abstract_state(config)
    params, codebook = jax.tree.map(lambda x: jnp.full(x.shape, 7, x.dtype), (shapes.params, shapes.codebook))
    state, lines, alone = initial_weights(
        pretrained[0].run_dir, shapes._replace(params=params, codebook=codebook), None, config
    )
    source = by_path(restore(pretrained[0].run_dir, "best").state.params)
    for name, array in by_path(state.params, state.codebook).items():
        taken = name.startswith("encoder.") and (sees_types or not name.startswith(READERS))
        np.testing.assert_array_equal(array, source[name] if taken else 7, name)
    assert alone and lines[0] == f"encoder from {pretrained[0].run_dir}"
    assert any("did, and this one does not see residue types" in line for line in lines) != sees_types
    fresh = {
        "partoken": ["attention", "classifier", "codebook", "fusion", "partitioner"],
        "gvp": ["classifier", "encoder.node_gvp", "encoder.node_norm"],
    }
    assert "data.neighbours" in lines.pop()  # which the weights fit as well, so that nothing else tells
    assert sorted(lines[-1].removeprefix("starts fresh: ").split(", ")) == fresh[kind]


@pytest.mark.parametrize("there, here", [("gvp", "partoken"), ("partoken", "gvp")])
@pytest.mark.parametrize("start", ["learned", "whole"])
def test_between_gvp_and_partoken_the_encoder_goes(there, here, start):
    partitioner = PartitionerConfig(kind=start)
    configs = {
        kind: dataclasses.replace(
            TINY, model=dataclasses.replace(TINY.model, kind=kind, partitioner=partitioner)
        )
        for kind in ("gvp", "partoken")
    }
    shapes = {kind: abstract_state(config)[1] for kind, config in configs.items()}

    def filled(kind: str, value: float) -> TrainState:
        state = shapes[kind]
        arrays = jax.tree.map(lambda x: jnp.full(x.shape, value, x.dtype), (state.params, state.codebook))
        return state._replace(params=arrays[0], codebook=arrays[1])

    weights = named_arrays(*filled(there, 3)[:2])
    state, lines, alone = initial_weights("weights", filled(here, 7), weights, configs[here])
    for name, array in by_path(state.params, state.codebook).items():
        np.testing.assert_array_equal(array, 3 if name.startswith("encoder.") else 7, name)
    assert alone and lines[0] == "encoder from weights"
