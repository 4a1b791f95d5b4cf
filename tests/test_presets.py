"""Presets are settings that exist, and what is said later goes over them."""

import dataclasses

import jax
import pytest

import partoken_jax as pt
from partoken_jax.cli import main, parse
from partoken_jax.config import ConfigError, TrainConfig, save_yaml, to_dict
from partoken_jax.presets import PRESETS, preset
from partoken_jax.training.state import abstract_state
from tests.helpers import flat


def settings(*args) -> TrainConfig:
    """The settings that `partoken train ARGS` would run with."""
    return parse(["train", *args]).args[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_it_lists(name):
    """Each change is one, and nothing else differs from the published settings."""
    published, found = flat(to_dict(TrainConfig())), flat(to_dict(preset(name)))
    changed = {setting: value for setting, value in found.items() if value != published[setting]}
    assert changed == {setting: change.value for setting, change in PRESETS[name].items()}
    assert all(change.bought for change in PRESETS[name].values())


def test_the_published_preset_is_the_default():
    assert preset("published") == settings("--preset", "published") == settings() == TrainConfig()


@pytest.mark.parametrize("name", ["recommended", "small"])
def test_flags_begin_with_the_preset(name):
    assert pt.preset(name) == settings("--preset", name) == settings(f"--preset={name}") != TrainConfig()


def test_the_file_goes_over_the_preset_and_flags_over_both(tmp_path):
    (tmp_path / "c.yaml").write_text("stage0: {epochs: 3}\nmodel: {dropout: 0.3}\n")
    config = settings("--preset", "small", "--config", str(tmp_path / "c.yaml"), "--model.dropout", "0.2")
    small = preset("small")
    assert (config.stage0.epochs, config.model.dropout) == (3, 0.2)
    stage0 = dataclasses.replace(small.stage0, epochs=3)
    assert config == dataclasses.replace(
        small, stage0=stage0, model=dataclasses.replace(small.model, dropout=0.2)
    )


def test_a_resumed_run_keeps_its_settings(tmp_path):
    """With a preset they are those of the preset, as with --config, which are then compared with its own."""
    save_yaml(dataclasses.replace(preset("small"), seed=9), tmp_path / "config.yaml")
    run = ("--run-dir", str(tmp_path), "--resume")
    assert settings(*run).model == preset("small").model and settings(*run).seed == 9
    assert settings(*run, "--preset", "small").seed == 0


def test_a_preset_that_does_not_exist(capsys):
    with pytest.raises(ConfigError, match="preset is 'tiny', but must be one of 'published', 'recommended'"):
        preset("tiny")
    assert main(["train", "--preset", "tiny"]) == 2
    said = capsys.readouterr().err
    assert "'tiny'" in said and "'small'" in said and said.count("\n") == 1


def test_the_small_model_is_small():
    """A sixth of the published parameters, or less."""

    def parameters(config: TrainConfig) -> int:
        _, state = abstract_state(config)
        return sum(leaf.size for leaf in jax.tree.leaves(state.params))

    assert 6 * parameters(preset("small")) < parameters(TrainConfig())
