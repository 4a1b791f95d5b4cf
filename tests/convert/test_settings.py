"""The configuration of a state_dict: what its shapes say, what hyper-parameters say, and contradictions."""

import numpy as np
import pytest

from partoken_jax.config import CodebookConfig, ConfigError, PartitionerConfig, TemperatureConfig, TrainConfig
from partoken_jax.convert import ConvertError
from partoken_jax.convert.settings import (
    combine,
    hyper_parameters,
    settings_of_hyper_parameters,
    settings_of_weights,
    unknown_settings,
    value_of,
)
from tests.convert.recorded import MODELS, partoken_hyper_parameters, recorded
from tests.helpers import tiny

SIZES = (
    "kind",
    "num_classes",
    "node_in",
    "node_hidden",
    "edge_in",
    "edge_hidden",
    "num_layers",
    "residue_types",
)


@pytest.mark.parametrize("name", MODELS)
def test_sizes_come_from_the_weights(name):
    arrays, config = recorded(name)
    got = combine(name, {"weights": settings_of_weights(name, arrays)}).model
    assert [getattr(got, size) for size in SIZES] == [getattr(config, size) for size in SIZES]
    if config.kind == "partoken":
        assert got.partitioner.hidden == config.partitioner.hidden
        assert got.codebook.size == config.codebook.size
    if config.pooling == "attention":
        assert got.pooling == "attention"


def test_a_codebook_of_zeros_is_none():
    arrays, _ = recorded("partoken")
    without = {key: array for key, array in arrays.items() if not key.startswith("codebook.")}
    zeros = {
        key: np.zeros_like(array) if key.startswith("codebook.") else array for key, array in arrays.items()
    }
    for case, enabled in ((arrays, True), (without, False), (zeros, False)):
        assert settings_of_weights("x", case)["model.codebook.enabled"] is enabled


def test_weights_of_something_else_are_refused():
    with pytest.raises(
        ConvertError, match=r"w\.pt: not the weights of ParToken.* its first are conv1\.weight"
    ):
        settings_of_weights("w.pt", {"conv1.weight": np.zeros((2, 2))})
    arrays, _ = recorded("partoken")
    del arrays["classifier.6.weight"]
    with pytest.raises(ConvertError, match=r"classifier\.6\.weight is missing"):
        settings_of_weights("w.pt", arrays)


def test_hyper_parameters_reach_their_settings():
    settings, unused = settings_of_hyper_parameters(partoken_hyper_parameters(), "partoken")
    config = combine("x", {"hyper-parameters": settings})
    assert config.model.partitioner == recorded("partoken")[1].partitioner
    assert (config.model.dropout, config.model.num_classes, config.model.pooling) == (0.2, 3, "sum")
    assert config.model.codebook.metric == "l2" and config.loss.coverage == 0.01
    assert config.temperature == TemperatureConfig(1.0, 0.95, 0.1)
    assert unused == ["codebook_dim", "train_cfg"]  # names under train_cfg are not those of the model


def test_what_hydra_had_yet_to_fill_in_is_not_taken_for_a_value():
    hyper = {"k_hop": "${other.k_hop}", "num_classes": "???", "nhid": 7}
    settings, unused = settings_of_hyper_parameters(hyper, "partoken")
    assert settings == {"model.partitioner.hidden": 7}
    assert unused == ["k_hop (${other.k_hop})", "num_classes (???)"]


@pytest.mark.parametrize(
    "hyper",
    [
        {"num_classes": 4, "k_hop": 2},
        {"model_cfg": {"k_hop": 2}, "num_classes": 4},
        {"cfg": {"model": {"k_hop": 2, "num_classes": 4}}},
    ],
)
def test_hyper_parameters_may_be_nested_or_not(hyper):
    assert settings_of_hyper_parameters(hyper, "partoken")[0] == {
        "model.num_classes": 4,
        "model.partitioner.k_hop": 2,
    }


def test_a_hyper_parameter_with_two_values_is_refused():
    with pytest.raises(ConfigError, match="num_classes is both 4 and 5"):
        settings_of_hyper_parameters({"num_classes": 4, "model_cfg": {"num_classes": 5}}, "gvp")


def test_hyper_parameters_mean_what_they_mean_in_the_original():
    cosine = [{"codebook_distance": "cos"}, {"codebook_distance": "l2", "codebook_cosine_normalize": True}]
    for hyper in cosine:
        assert settings_of_hyper_parameters(hyper, "partoken")[0] == {"model.codebook.metric": "cosine"}
    # ParToken falls back to the mean, the baseline has attention pooling.
    for kind, pooling in (("partoken", "mean"), ("gvp", "attention")):
        assert settings_of_hyper_parameters({"pooling": "attention"}, kind)[0] == {"model.pooling": pooling}


@pytest.mark.parametrize("kind", ["gvp", "partoken"])
def test_hyper_parameters_there_and_back(kind):
    parts = {"partitioner": PartitionerConfig(), "codebook": CodebookConfig()} if kind == "gvp" else {}
    config = TrainConfig(model=tiny(kind=kind, pooling="max", dropout=0.3, **parts))
    settings, unused = settings_of_hyper_parameters(hyper_parameters(config), kind)
    assert unused == []
    back = combine("x", {"hyper-parameters": settings | {"model.kind": kind}})
    assert back.model == config.model
    assert unknown_settings(kind, settings) == []


def test_contradictions_name_the_setting_and_both_sides():
    with pytest.raises(ConvertError) as error:
        combine(
            "w.pt", {"its weights": {"model.num_layers": 3}, "the settings given": {"model.num_layers": 2}}
        )
    assert str(error.value) == (
        "w.pt: model.num_layers is 3 according to its weights, but 2 according to the settings given; "
        "correct one of them or leave it out"
    )
    agreeing = {"a": {"model.node_in": [6, 3], "model.dropout": 0}, "b": {"model.node_in": (6, 3)}}
    assert value_of(combine("w.pt", agreeing), "model.node_in") == (6, 3)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConvertError, match=r"w\.pt: flags: .*no setting called 'poling'"):
        combine("w.pt", {"flags": {"model.poling": "max"}})
    with pytest.raises(ConvertError, match=r"w\.pt: flags: model\.pooling is 'median'"):
        combine("w.pt", {"flags": {"model.pooling": "median"}})
