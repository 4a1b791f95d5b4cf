"""The proteins of a run: read once, the same ones for every seed to be scored on, with labels or without."""

import dataclasses
import hashlib
import zipfile

import jax
import numpy as np
import pytest

from partoken_jax.proteins import DataError, LabelColumn, write_prepared
from partoken_jax.proteins.dataset import EMBEDDED
from partoken_jax.training import evaluate as evaluation
from partoken_jax.training.data import (
    checked_data,
    describe,
    limited,
    load_data,
    load_run_data,
    prepare,
)
from partoken_jax.training.epochs import predict, score, train_epoch
from partoken_jax.training.schedules import epoch_settings
from partoken_jax.training.state import initial_state
from partoken_jax.training.step import make_eval_step, make_train_step

from .conftest import tiny

pytestmark = pytest.mark.slow


def names(dataset):
    return [protein.name for protein in dataset.proteins]


def without_labels(dataset, every_other: bool):
    """The dataset without its labels, or without every other one."""
    proteins = [
        protein if every_other and number % 2 == 0 else dataclasses.replace(protein, label=-1)
        for number, protein in enumerate(dataset.proteins)
    ]
    return dataclasses.replace(dataset, proteins=tuple(proteins))


def test_a_run_reads_its_file_once(monkeypatch):
    original, read = zipfile.ZipFile, []

    def opened(file, *args, **kwargs):
        read.append(file)
        return original(file, *args, **kwargs)

    monkeypatch.setattr(zipfile, "ZipFile", opened)
    load_run_data(tiny())
    assert len(read) == 1


def test_runs_with_different_seeds_are_scored_on_the_same_proteins():
    first, second = (load_run_data(dataclasses.replace(tiny(), seed=seed)).datasets for seed in (0, 1))
    for split in ("val", "test"):
        assert len(first[split]) == 8 and names(first[split]) == names(second[split])
    assert len(first["train"]) == 14 and names(first["train"]) != names(second["train"])


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_without_any_label_is_refused(split):
    datasets = load_data(tiny().data)
    datasets[split] = without_labels(datasets[split], every_other=False)
    with pytest.raises(
        DataError, match=rf"none of the \d+ proteins of split '{split}' has a label, .*; give"
    ):
        prepare(tiny(), datasets)


def of_one_class(dataset):
    return dataset.take(np.flatnonzero(dataset.labels == dataset.labels[0]))


def test_proteins_of_one_class_can_be_scored_and_not_trained_on(gvp_run, tmp_path, monkeypatch):
    config = gvp_run[0]
    datasets = load_data(config.data)
    datasets["train"] = one = of_one_class(datasets["train"])
    with pytest.raises(DataError, match=r"split 'train' are of class .* nothing to tell apart"):
        prepare(config, datasets)

    column = LabelColumn(one.class_names, one.labels[:8])
    neighbours = config.data.neighbours
    splits = {"mine": np.array([0] * 6 + [1, 2], np.int8)}
    write_prepared(
        tmp_path / "set", one.proteins[:8], labels={"fold": column}, splits=splits, neighbours=neighbours
    )
    settings = dataclasses.replace(config.data, path=str(tmp_path / "set"), task="fold", split_scheme="mine")
    for refusing in (load_run_data, checked_data):
        with pytest.raises(DataError, match="set: all proteins of split 'train' are of class"):
            refusing(dataclasses.replace(config, data=settings))
    report = evaluation.evaluate(
        config.run_dir, split="train", data=settings.path, task="fold", split_scheme="mine"
    )
    assert report["scores"]["classification"]["proteins"] == 6


def test_proteins_without_a_label_are_said_trained_on_predicted_and_not_scored():
    config = tiny(kind="gvp")
    datasets = {
        split: without_labels(dataset, every_other=True) for split, dataset in load_data(config.data).items()
    }
    data = prepare(config, datasets)
    said = "\n".join(describe(data))
    for split, dataset in data.datasets.items():
        count = int(np.sum(dataset.labels < 0))
        assert 0 < count < len(dataset)
        assert f"{split}: {len(dataset)} proteins" in said and f"{count} proteins have no label" in said

    graphdef, state = initial_state(config)
    step = make_eval_step(graphdef, bypass_codebook=True)
    dataset = data.datasets["val"]
    predictions = predict(step, state.params, state.codebook, data.loaders["val"].evaluation(), 1.0)
    assert predictions.logits.shape == (8, 4)  # everyone is predicted
    np.testing.assert_array_equal(predictions.labels, dataset.labels)
    labelled = dataset.labels >= 0
    scores = score(predictions, data.class_names)
    counted = scores["classification"]
    assert (counted["proteins"], counted["unlabelled"]) == (labelled.sum(), (~labelled).sum())
    hits = predictions.logits.argmax(1)[labelled] == dataset.labels[labelled]
    assert counted["accuracy"] == pytest.approx(hits.mean())
    logits = predictions.logits[labelled].astype(np.float64)
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    want = -log_softmax[np.arange(len(logits)), dataset.labels[labelled]].mean()
    assert scores["cross_entropy"] == pytest.approx(want, rel=1e-5)

    # An epoch that changes nothing: the means over its batches are means over the labelled proteins.
    loader = data.loaders["train"]
    standing = [
        settings._replace(learning_rate=np.float32(0))
        for settings in epoch_settings(config, 0, 0, len(loader), has_codebook=False)
    ]
    batches = list(loader.epoch(0))
    metrics = []

    def watched(step):
        def call(*arguments):
            state, found = step(*arguments)
            metrics.append(found)
            return state, found

        return call

    trained = train_epoch(
        watched(make_train_step(graphdef, bypass_codebook=True)),
        state, batches, standing, num_proteins=14, description="epoch", quiet=True,
    )  # fmt: skip
    counts = np.array([np.sum(graph.globals.label >= 0) for graph in batches])
    assert counts.sum() == np.sum(data.datasets["train"].labels >= 0) and len(set(counts)) > 1
    losses = np.array([float(found.losses.cross_entropy) for found in metrics])
    assert trained.scores["cross_entropy"] == pytest.approx(losses @ counts / counts.sum())
    correct = sum(int(found.correct) for found in metrics)
    assert trained.scores["accuracy"] == pytest.approx(correct / counts.sum())


def test_evaluating_a_run_leaves_proteins_without_a_label_out_of_the_scores(gvp_run, monkeypatch):
    run_dir = gvp_run[0].run_dir
    before = evaluation.evaluate(run_dir, split="val")

    def unlabelled(every_other: bool):
        def load(*arguments):
            return {split: without_labels(d, every_other) for split, d in load_data(*arguments).items()}

        return load

    monkeypatch.setattr(evaluation, "load_data", unlabelled(every_other=True))
    report = evaluation.evaluate(run_dir, split="val")
    scores = report["scores"]["classification"]
    labelled = [protein["label"] >= 0 for protein in report["predictions"]]
    assert (scores["proteins"], scores["unlabelled"]) == (sum(labelled), 8 - sum(labelled))
    assert 0 < sum(labelled) < 8
    assert [p["logits"] for p in report["predictions"]] == [p["logits"] for p in before["predictions"]]
    hits = [p["label"] == p["predicted"] for p in report["predictions"] if p["label"] >= 0]
    assert scores["accuracy"] == pytest.approx(np.mean(hits))
    monkeypatch.setattr(evaluation, "load_data", unlabelled(every_other=False))
    with pytest.raises(DataError, match="none of the 8 proteins of split 'val' has a label"):
        evaluation.evaluate(run_dir, split="val")


def test_a_run_is_evaluated_on_a_set_whose_columns_have_other_names(gvp_run, tmp_path):
    run_dir = gvp_run[0].run_dir
    own = evaluation.evaluate(run_dir, split="val")
    config = gvp_run[0]
    dataset, _ = limited(load_data(config.data)["val"], config.data, config.seed)
    column = LabelColumn(dataset.class_names, dataset.labels)
    splits, neighbours = {"mine": np.ones(len(dataset), np.int8)}, config.data.neighbours
    write_prepared(
        tmp_path / "set", dataset.proteins, labels={"fold": column}, splits=splits, neighbours=neighbours
    )
    where = {"split": "val", "data": str(tmp_path / "set")}
    with pytest.raises(DataError, match="unknown task 'cath-class'; choose one of fold"):
        evaluation.evaluate(run_dir, **where)
    with pytest.raises(DataError, match="unknown split_scheme 'identity'; choose one of mine"):
        evaluation.evaluate(run_dir, **where, task="fold")
    report = evaluation.evaluate(run_dir, **where, task="fold", split_scheme="mine")
    assert report["scores"] == own["scores"] and report["split_scheme"] == "mine"


def test_data_that_have_moved_are_not_there():
    data = dataclasses.replace(tiny().data, path="nowhere/set", task="of my own")
    with pytest.raises(DataError, match="nowhere/set: no such file; give the path"):
        load_data(data)


def test_a_prepared_set_gives_the_batches_of_the_proteins_in_it(tmp_path):
    config = tiny()
    datasets = load_data(config.data)
    every = [protein for dataset in datasets.values() for protein in dataset.proteins[:20]]
    column = LabelColumn(datasets["train"].class_names, np.array([protein.label for protein in every]))
    splits = {"mine": np.repeat([0, 1, 2], 20)}
    write_prepared(tmp_path / "set", every, labels={"class": column}, splits=splits, neighbours=10)
    settings = dataclasses.replace(
        config.data, path=str(tmp_path / "set"), task="class", split_scheme="mine", residues_per_batch=130
    )
    from_set = load_run_data(dataclasses.replace(config, data=settings))
    few = {split: dataset.take(np.arange(20)) for split, dataset in datasets.items()}
    in_memory = prepare(dataclasses.replace(config, data=settings), few)
    assert from_set.plan == in_memory.plan
    assert from_set.plan.residues_per_batch == 130
    assert from_set.cropped == in_memory.cropped
    assert len(from_set.fingerprint) == 64
    for split, loader in from_set.loaders.items():
        ours, theirs = ([*a.epoch(1), *a.evaluation()] for a in (loader, in_memory.loaders[split]))
        for one, other in zip(ours, theirs, strict=True):
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
                np.testing.assert_array_equal(a, b)
    said = "\n".join(describe(from_set))
    assert "set: task class, 4 classes" in said and "batches of 4, or 130 residues if that is less" in said


def test_a_protein_longer_than_a_whole_batch_is_named():
    data = dataclasses.replace(tiny().data, residues_per_batch=39)
    with pytest.raises(DataError, match=r": \w+ has 40 residues, more than a whole batch .* = 39\); raise"):
        load_run_data(dataclasses.replace(tiny(), data=data))


def test_the_fingerprint_is_that_of_the_file(tiny_data):
    assert tiny_data.fingerprint == hashlib.sha256(EMBEDDED.read_bytes()).hexdigest()
