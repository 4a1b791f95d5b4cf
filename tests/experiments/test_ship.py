"""A run becomes a model of the package with a card, in one command."""

import dataclasses
import json
import re

import numpy as np
import pytest

from experiments import model_card, ship
from partoken_jax.config import ConfigError
from partoken_jax.pretrained import load_model, model_names
from partoken_jax.pretrained.load import BOX
from partoken_jax.proteins import load_dataset
from partoken_jax.training.state import abstract_state
from partoken_jax.training.trained import trained_run
from tests.helpers import assert_close
from tests.pretrained.conftest import make_run


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """(run, folder of the file and the results, result)."""
    folder = tmp_path_factory.mktemp("ship")
    run = make_run(folder / "run")
    return run, folder, ship.ship(run, "tiny", box=folder, results=folder)


def test_the_file_is_the_run_with_calibrated_probabilities(shipped):
    _, folder, result = shipped
    model = load_model(folder / "tiny.safetensors")
    assert model.calibration == result["calibration"]["temperature"] != 1
    before, after = (
        result["calibration"]["validation"][when]["negative_log_likelihood"] for when in ("before", "after")
    )
    assert after < before == pytest.approx(result["validation"]["cross_entropy"], rel=1e-4)
    assert result["bytes"] == (folder / "tiny.safetensors").stat().st_size
    (example,) = load_dataset(task="cath-class", split="val").proteins[:1]
    assert_close(model.predict([example])[0].logits, result["examples"][example.name], 1e-5)


def test_a_run_in_bfloat16_becomes_a_model_in_float32_with_the_same_weights(shipped, tmp_path, monkeypatch):
    run, _, result = shipped
    assert result["training"]["precision"] == "float32"
    in_float32 = trained_run(run)
    rounded = dataclasses.replace(in_float32.config.model, precision="bfloat16")
    config = dataclasses.replace(in_float32.config, model=rounded)
    trained = dataclasses.replace(in_float32, config=config, graphdef=abstract_state(config)[0])
    proteins = load_dataset(task="cath-class", split="val").proteins[:1]
    (wanted,), (other,) = in_float32.predict(proteins), trained.predict(proteins)
    assert np.any(other.logits != wanted.logits)
    monkeypatch.setattr(ship, "trained_run", lambda _: trained)
    result_of_rounded = ship.ship(run, "rounded", box=tmp_path, results=tmp_path)
    made = load_model(tmp_path / "rounded.safetensors")
    np.testing.assert_array_equal(made.predict(proteins)[0].logits, wanted.logits)
    text = model_card.card("rounded", result_of_rounded)
    assert "trained with products in bfloat16" in text
    assert "bfloat16" not in model_card.card("tiny", result)


def test_nothing_names_a_place_of_the_machine(shipped):
    _, folder, _ = shipped
    for name in ("tiny.safetensors", "tiny.json"):
        assert str(folder).encode() not in (folder / name).read_bytes()


def test_the_card_says_what_was_measured(shipped):
    _, folder, result = shipped
    assert json.loads((folder / "tiny.json").read_text()) == json.loads(json.dumps(result))
    text = model_card.card("tiny", result)
    scores, after = result["test"]["classification"], result["calibration"]["test"]["after"]
    assert f"8 proteins: accuracy {scores['accuracy']:.3f}" in text
    assert (
        f"{after['ece_10']:.3f}" in text and f"divided by {result['calibration']['temperature']:.3f}" in text
    )
    assert re.search(r"\| `model\.node_hidden` +\| +\[100, 16\] \| +\[16, 4\] \|", text)
    for word in ("CC BY 4.0", "CC0 1.0", "Apache-2.0", "mainly alpha", "codes used", 'load_model("tiny")'):
        assert word in text, word
    assert text.count("of the codebook") <= 2  # once for each split
    rows = re.findall(r"^\| 0\.\d to \d\.\d +\| +(\d+) \|", text, re.MULTILINE)
    assert sum(map(int, rows)) == scores["proteins"] == 8


def test_what_is_refused(shipped, tmp_path, monkeypatch):
    run = shipped[0]
    with pytest.raises(ConfigError, match=r"name is '\.\./x'"):
        ship.ship(run, "../x", box=tmp_path, results=tmp_path)
    monkeypatch.setattr(ship, "MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="the package takes 1,000 at most"):
        ship.ship(run, "tiny", box=tmp_path, results=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_model_in_the_package_was_measured():
    assert model_names() == list(model_card.measured())


@pytest.mark.parametrize("name", model_names())
def test_a_model_in_the_package_says_what_it_said(name):
    model, result = load_model(name), model_card.measured()[name]
    size = (BOX / f"{name}.safetensors").stat().st_size
    assert size == result["bytes"] <= ship.MAX_BYTES
    examples = load_dataset(task="cath-class", split="val").proteins[: len(result["examples"])]
    for said in model.predict(examples):
        np.testing.assert_allclose(said.logits, result["examples"][said.name], rtol=1e-3, atol=1e-3)
