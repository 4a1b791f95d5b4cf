"""Readers of features that do not change: they read what the encoder says, and runs of them are compared."""

import dataclasses
import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flax import nnx

from experiments import same_features
from experiments.frozen_encoder import encoded, headed, train_on_features, with_features
from partoken_jax.files import locked_by_other
from partoken_jax.models import build_model
from partoken_jax.proteins import DataError
from partoken_jax.training.data import load_run_data
from partoken_jax.training.objective import forward
from tests.training.conftest import tiny


@pytest.fixture(scope="module")
def config():
    config = tiny(reseed_dead_codes=True)
    model = dataclasses.replace(config.model, dropout=0.0)
    once = dataclasses.replace(config.stage0, epochs=1)
    return dataclasses.replace(config, model=model, stage0=once, stage1=dataclasses.replace(once, epochs=2))


@pytest.fixture(scope="module")
def data(config):
    return load_run_data(config)


@pytest.fixture(scope="module")
def source(config) -> Any:
    return SimpleNamespace(model=build_model(config.model, rngs=nnx.Rngs(0)), config=config)


@pytest.fixture(scope="module")
def features(source, data, tmp_path_factory):
    return encoded(source, data, tmp_path_factory.mktemp("cache") / "here")


def test_features_are_kept_and_those_of_other_weights_or_proteins_are_others(source, data, tmp_path):
    kept = tmp_path / "kept"
    encoded(source, data, kept)
    file = next(kept.iterdir())
    marked = {name: np.zeros_like(array) for name, array in np.load(file).items()}
    np.savez(file, **marked)
    assert not encoded(source, data, kept)["train"].x.any()  # read, not computed again
    other = SimpleNamespace(model=build_model(source.config.model, rngs=nnx.Rngs(1)), config=source.config)
    assert encoded(other, data, kept)["train"].x.any()
    assert encoded(source, dataclasses.replace(data, fingerprint="other"), kept)["train"].x.any()
    assert len(list(kept.iterdir())) == 3


@pytest.mark.parametrize("kind", ["gvp", "partoken"])
def test_on_given_features_a_model_says_what_it_says_with_its_encoder(kind, config, data, source, features):
    settings = dataclasses.replace(config.model, kind=kind)
    whole, head = build_model(settings, rngs=nnx.Rngs(1)), headed(settings, rngs=nnx.Rngs(1))
    whole.encoder = source.model.encoder
    say = nnx.jit(forward)
    for split in ("train", "test"):
        graph = next(data.loaders[split].evaluation())
        expected, found = say(whole, graph), say(head, with_features(graph, features[split]))
        real = graph.nodes.mask
        np.testing.assert_allclose(found.node_features[real], expected.node_features[real], rtol=1e-3)
        np.testing.assert_allclose(found.logits, expected.logits, atol=2e-3)


def test_a_run_learns_with_a_codebook_in_its_second_stage(config, data, features):
    fast = dataclasses.replace(config.stage1, learning_rate=1e-2)
    found = train_on_features(dataclasses.replace(config, stage0=fast, stage1=fast), data, features)
    assert found.predictions.logits.shape == (len(data.datasets["test"]), 4)
    assert found.epoch > 1 and (found.predictions.codes >= 0).any()
    assert np.ptp(found.predictions.logits, axis=0).min() > 1e-3


def test_results_are_gone_on_with_and_compared_pair_by_pair(tmp_path, monkeypatch):
    labels = np.arange(400) % 4
    done: list[tuple[str, int]] = []

    def run(task, reader, seed, data, features):
        done.append((reader, seed))
        rng = np.random.default_rng(seed)
        right = rng.random(400) < 0.5
        if reader == "partoken-recommended":
            right |= rng.random(400) < 0.3
        predicted = np.where(right, labels, (labels + 1) % 4)
        scores = {"accuracy": float(right.mean()), "macro_f1": float(right.mean()), "coverage": 0.25}
        return {"task": task, "reader": reader, "seed": seed, "predicted": predicted.tolist(), **scores,
                "seconds": 1.0}  # fmt: skip

    described = {"names": [f"p{i}" for i in range(400)], "labels": labels.tolist(),
                 "class_names": list("abcd"), "training_proteins": 9,
                 "parameters": dict.fromkeys(same_features.READERS, 7)}  # fmt: skip
    for name, value in {
        "one_run": run, "described": lambda task, data: described, "load_run_data": lambda config: None,
        "encoder_of": lambda name: None, "encoded": lambda *args: None, "use_compilation_cache": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(same_features, name, value)
    path = tmp_path / "found.json"
    for seeds in ("1", "3"):
        flags = ["same_features", "--task", "cath-class", "--seeds", seeds, "--json", str(path)]
        monkeypatch.setattr("sys.argv", flags)
        same_features.main()
    assert len(done) == len(set(done)) == 3 * len(same_features.READERS)
    found = json.loads(path.read_text())["analysis"]["backbone, cath-class"]
    better, *_ = found["contrasts"]
    assert better["accuracy"]["significant"] and 0.1 < better["accuracy"]["mean"] < 0.2
    assert found["readers"]["gvp-recommended"]["seeds"] == [0, 1, 2]
    said = path.with_suffix(".md").read_text()
    assert "(ParToken's) − mean over residues" in said
    assert len(re.findall(r"\| +accuracy[^|]* \|$", said, re.M)) == 3  # significant in every contrast
    assert said.count("|      25% |") == len(same_features.READERS)
    described["labels"] = described["labels"][1:]
    with pytest.raises(DataError, match="has rows of backbone, cath-class with other data or models"):
        same_features.main()
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".lock"] == []
    with (tmp_path / ".found.json.lock").open("a") as lock:
        assert not locked_by_other(lock)
        with pytest.raises(DataError, match="another process adds to it"):
            same_features.main()


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ((0.05, 0.04, 0.03), "Clusters pay on ec-class"),
        ((0.05, 0.04, 0.0), "not shown to be the reason on ec-class: with the whole protein as one, it is"),
        ((0.05, 0.0, 0.0), "reason on ec-class: with random clusters and with the whole protein as one, it"),
        ((0.0, 0.04, 0.03), "head is not significantly more or less accurate than GVP's on ec-class"),
        ((-0.05, -0.04, -0.03), "head is less accurate than GVP's on ec-class"),
    ],
)
def test_the_words_follow_from_the_intervals(means, said):
    results = {"analysis": {"types, ec-class": {"n": 10, "contrasts": contrasts(means)}}}
    words = same_features.answer(results)
    assert said in words and "ec-class (10 test proteins, 2 seeds)" in words


@pytest.mark.parametrize(
    "gain, reason", [((0.05, 0.0, 0.0), "not shown to be"), ((0.05,) * 3, "Clusters pay on")]
)
def test_the_words_name_where_nothing_was_gained_as_well(gain, reason):
    results = {"analysis": {
        "types, ec-class": {"n": 10, "contrasts": contrasts(gain)},
        "mine, ec-class": {"n": 20, "contrasts": contrasts((0.01, 0.0, 0.0))},
        "more, ec-class": {"n": 20, "contrasts": contrasts((0.0, 0.0, 0.0), macro=0.03, seeds=3)},
        "types, cath-class": {"n": 30, "contrasts": contrasts((-0.05, 0.0, 0.0))},
    }}  # fmt: skip
    said = same_features.answer(results)
    assert said.startswith(
        "ParToken's head is more accurate than GVP's on ec-class (encoder types, 10 test proteins, 2 seeds). "
        "ParToken's head is less accurate than GVP's on cath-class (30 test proteins, 2 seeds). On ec-class "
        "(encoders mine and more, 20 test proteins, 2 to 3 seeds) the difference is not significant. The "
        "head's macro-F1 is significantly higher on ec-class (encoder more)."
    )
    assert reason in said


def contrasts(means, macro=-0.03, seeds=2):
    """The differences of an encoder and task, in the order of `same_features.CONTRASTS`."""
    return [
        {"first": first, "second": second, "seeds": list(range(seeds)),
         "accuracy": {"mean": mean, "interval": [mean - 0.02, mean + 0.02], "significant": abs(mean) > 0.02},
         "macro_f1": {"mean": macro, "interval": [macro - 0.02, macro + 0.02], "significant": True}}
        for (first, second), mean in zip(same_features.CONTRASTS, means, strict=True)
    ]  # fmt: skip
