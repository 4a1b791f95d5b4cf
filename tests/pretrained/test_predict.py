"""What a trained model says of a protein, whatever company the protein is in."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from scipy.special import softmax

from partoken_jax.cli import main
from partoken_jax.graphs import featurise, neighbour_tables, pack
from partoken_jax.pretrained import load_model, write_model
from partoken_jax.proteins import DataError, load_dataset
from partoken_jax.training import trained
from partoken_jax.training.evaluate import evaluate, evaluate_model
from partoken_jax.training.objective import split_model
from partoken_jax.training.step import compilations
from tests.helpers import NEIGHBOURS, assert_close
from tests.pretrained.conftest import random_state


@pytest.fixture(scope="module")
def model(run_dir):
    return load_model(run_dir)


def assert_alike(got, want):
    assert got.name == want.name and got.label == want.label
    for name in ("clusters", "seeds", "codes"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    for name in ("logits", "probabilities"):
        assert_close(getattr(got, name), getattr(want, name), 1e-5, name)
    np.testing.assert_allclose(got.importances, want.importances, atol=1e-5)


def test_predictions_are_what_the_network_computes(model, proteins):
    """Against a call of the module with a batch packed by hand."""
    graph = featurise(pack(proteins, neighbour_tables(proteins, NEIGHBOURS)))
    call, network = nnx.jit(lambda network, graph: network(graph, temperature=0.5)), model.model
    out = call(network, graph)
    network.codebook.embeddings[...] = out.cluster_features[out.cluster_mask][:8]  # codes that are in use
    out = call(network, graph)
    first = np.cumsum(graph.n_node) - graph.n_node
    calibrated = dataclasses.replace(model, calibration=2.5, codebook=split_model(network)[2])
    for slot, said in enumerate(calibrated.predict(proteins)):
        length = len(proteins[slot])
        assert said.name == proteins[slot].name
        assert_close(said.logits, out.logits[slot], 1e-5)
        assert_close(said.probabilities, softmax(np.asarray(out.logits[slot]) / 2.5), 1e-5)
        assert said.label == model.class_names[int(out.logits[slot].argmax())]
        clusters = np.asarray(out.cluster_of_residue)[first[slot] : first[slot] + length]
        np.testing.assert_array_equal(said.clusters, clusters)
        np.testing.assert_array_equal(said.seeds, out.seeds[slot])
        np.testing.assert_array_equal(said.codes, out.codes[slot])
        assert_close(said.importances, out.importances[slot], 1e-5)
    everything = np.concatenate([said.clusters for said in calibrated.predict(proteins)])
    assert len(set(everything)) == 4  # three clusters, and residues in none
    assert len({*out.codes.ravel().tolist()} - {-1}) == 8


def test_a_protein_gets_the_same_answer_in_any_company(model, proteins, monkeypatch):
    together = model.predict(proteins)
    for before, after in zip(together, model.predict(proteins[::-1])[::-1], strict=True):
        assert_alike(after, before)
    for protein, before in zip(proteins, together, strict=True):
        assert_alike(model.predict([protein])[0], before)
    step = trained.make_predict_step(model.graphdef, bypass_codebook=False)
    known = compilations(step)
    monkeypatch.setattr(trained, "RESIDUES", 40)  # several batches
    for before, after in zip(together, model.predict(proteins), strict=True):
        assert_alike(after, before)
    assert compilations(step) == known


def test_padding_wastes_a_third_at_most():
    sizes = {trained._padded(total) for total in range(1, 20_000)}
    assert len(sizes) <= 18 and all(size % 64 == 0 for size in sizes)
    for total in range(1, 20_000, 7):
        assert total < trained._padded(total) <= max(64 * (total // 64 + 2), 1.5 * total + 64)


def test_nothing_and_one_alone(model, proteins):
    assert model.predict([]) == []
    with pytest.raises(DataError, match=r"give it as \[protein\]"):
        model.predict(proteins[0])


def test_what_are_no_proteins_is_answered_in_one_sentence(model, proteins):
    """The likely mistakes: paths, coordinates, something that can be read only once."""
    said = (
        r"^predict takes a list of proteins \(partoken_jax\.Protein\), and this is none; structure files are "
        r"read by partoken_jax\.annotate$"
    )
    for wrong in ("my.pdb", Path("my.pdb"), ["my.pdb"], proteins[0].backbone, iter(proteins)):
        with pytest.raises(DataError, match=said):
            model.predict(wrong)


def test_an_output_that_is_no_number_is_an_error(model, proteins):
    broken = dataclasses.replace(model, params=jax.tree.map(lambda x: x * np.nan, model.params))
    with pytest.raises(DataError, match=f"{proteins[1].name}: the model's output is not finite"):
        broken.predict(proteins[1:2])


def test_the_baseline_has_no_clusters(model, proteins):
    config = dataclasses.replace(model.config, model=dataclasses.replace(model.config.model, kind="gvp"))
    graphdef, state = random_state(config)
    baseline = dataclasses.replace(
        model, config=config, graphdef=graphdef, params=state.params, codebook=state.codebook
    )
    (said,) = baseline.predict(proteins[1:2])
    assert (said.clusters == -1).all() and said.seeds.size == said.codes.size == said.importances.size == 0
    assert said.probabilities.sum() == pytest.approx(1)


def test_evaluation_goes_by_the_names_of_the_classes(model):
    """As where the data hold fewer architectures than the model knows."""
    theirs = evaluate_model(model, split="val")
    names = model.class_names
    turned = dataclasses.replace(model, class_names=(names[2], names[0], names[3], names[1]))
    ours = evaluate_model(turned, split="val")
    labels = [turned.class_names.index(names[row["label"]]) for row in theirs["predictions"]]
    assert [row["label"] for row in ours["predictions"]] == labels
    assert [row["logits"] for row in ours["predictions"]] == [row["logits"] for row in theirs["predictions"]]
    logits = np.array([row["logits"] for row in ours["predictions"]])
    assert ours["scores"]["classification"]["accuracy"] == np.mean(logits.argmax(axis=1) == labels)
    likelihood = -np.mean(np.log(softmax(logits, axis=1)[np.arange(8), labels]))
    assert ours["scores"]["cross_entropy"] == pytest.approx(likelihood)


def test_partoken_evaluate_takes_a_file(run_dir, model, tmp_path, capsys):
    write_model(tmp_path / "mine.safetensors", model)
    assert main(["evaluate", "--model", str(tmp_path / "mine.safetensors"), "--split", "val"]) == 0
    said = capsys.readouterr().out
    accuracy = evaluate(run_dir, split="val")["scores"]["classification"]["accuracy"]
    assert f"8 proteins: accuracy {accuracy:.3f}" in said and "clusters per protein" in said
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


def test_labels_are_not_read(model, proteins):
    other = dataclasses.replace(proteins[1], label=-1 if proteins[1].label >= 0 else 2)
    assert_alike(model.predict([other])[0], model.predict([proteins[1]])[0])


def test_a_dataset_is_as_good_as_a_list(model):
    dataset = load_dataset(task="cath-class", split="val").take(np.arange(2)).cropped(20)
    for got, want in zip(model.predict(dataset), model.predict(list(dataset.proteins)), strict=True):
        assert_alike(got, want)
