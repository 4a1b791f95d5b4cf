"""Settings survive YAML, and wrong ones are refused in one sentence."""

import dataclasses

import pytest

from partoken_jax.config import (
    ConfigError,
    DataConfig,
    ModelConfig,
    StageConfig,
    TemperatureConfig,
    TrainConfig,
    from_dict,
    load_yaml,
    save_yaml,
    to_dict,
)

UNUSUAL = TrainConfig(
    run_dir="somewhere",
    seed=3,
    model=ModelConfig(kind="gvp", node_hidden=(16, 4), pooling="attention", residue_types=True),
    data=DataConfig(path="some.npz", task="cath-class", max_train=12),
    stage0=StageConfig(epochs=2, learning_rate=3e-5, warmup_epochs=0.5),
)


@pytest.mark.parametrize("config", [TrainConfig(), UNUSUAL])
def test_yaml_round_trip(tmp_path, config):
    save_yaml(config, tmp_path / "config.yaml")
    assert load_yaml(TrainConfig, tmp_path / "config.yaml") == config
    assert from_dict(TrainConfig, to_dict(config)) == config


def test_defaults_are_the_published_configuration():
    config = TrainConfig()
    assert (config.model.node_hidden, config.model.num_layers, config.data.neighbours) == ((100, 16), 3, 30)
    assert (config.model.partitioner.max_clusters, config.model.codebook.size) == (5, 512)
    assert (config.stage0.epochs, config.stage0.learning_rate) == (120, 1e-3)
    assert (config.stage1.epochs, config.stage1.learning_rate) == (30, 5e-4)
    assert (config.loss.vq, config.loss.coverage, config.loss.cardinality) == (1.0, 1e-2, 5e-3)


def test_missing_settings_take_their_default(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "seed: 7\nmodel: {dropout: 0}\nstage1: {epochs: 3, learning_rate: 1e-4}\n"
    )
    config = load_yaml(TrainConfig, tmp_path / "c.yaml")
    assert (config.seed, config.model.dropout, config.stage1) == (7, 0.0, StageConfig(3, 1e-4))
    assert config.data == DataConfig()
    (tmp_path / "empty.yaml").write_text("")
    assert load_yaml(TrainConfig, tmp_path / "empty.yaml") == TrainConfig()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("sead: 1", "sead"),
        ("model: {kind: transformer}", "model.kind"),
        ("model: {dropout: 1.0}", "model.dropout"),
        ("model: {node_hidden: [100]}", "model.node_hidden"),
        ("model: 3", "model"),
        ("data: {batch_size: 0}", "data.batch_size"),
        ("data: {batch_size: true}", "data.batch_size"),
        ("data: {task: go}", "data.task"),
        ("seed: many", "seed"),
        ("model: {partitioner: {termination_threshold: 0}}", "termination_threshold"),
        ("model: {attention_heads: 3}", "attention_heads"),
        ("- 1", "name: value"),
        ("seed: [", "YAML"),
    ],
)
def test_wrong_settings_are_named_with_their_file(tmp_path, text, complaint):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_yaml(TrainConfig, path)
    assert complaint in str(error.value) and str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_yaml(TrainConfig, tmp_path / "nowhere.yaml")


def test_temperature_falls_by_its_decay_down_to_its_floor():
    temperature = TemperatureConfig()
    assert temperature.at(0) == 1.0
    assert temperature.at(1) == pytest.approx(0.95)
    assert temperature.at(2) == pytest.approx(0.9025)
    assert temperature.at(44) > temperature.at(45) == temperature.at(500) == 0.1


def test_configs_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 2  # type: ignore[misc]
