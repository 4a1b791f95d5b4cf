"""Flags are the settings' dataclasses: all of their fields, their help, and nothing else of their own."""

import dataclasses
import re
import subprocess
import sys

import pytest

from partoken_jax.cli import main, parse
from partoken_jax.config import DataConfig, ModelConfig, TemperatureConfig, TrainConfig
from partoken_jax.settings import help_texts, is_settings
from partoken_jax.timing_config import TimingConfig

VERBS = ("annotate", "train", "evaluate", "params", "time", "tune", "convert", "replay", "prepare")


def help_of(verb: str, capsys) -> str:
    """The help of a verb on one line, without the boxes around it."""
    with pytest.raises(SystemExit) as exit_:
        main([verb, "--help"])
    assert exit_.value.code == 0
    return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def fields(cls, where=""):
    """(flag, help) of every field of a settings class, groups included."""
    for field in dataclasses.fields(cls):
        value, name = getattr(cls(), field.name), where + field.name.replace("_", "-")
        if is_settings(type(value)):
            yield from fields(type(value), f"{name}.")
        else:
            flag = (
                name if value is not True else ".".join([*name.split(".")[:-1], f"no-{name.split('.')[-1]}"])
            )
            yield f"--{flag}", help_texts(cls)[field.name]


GROUPS = {
    "train": [("", TrainConfig)],
    "time": [("", TimingConfig)],
    "convert": [("model.", ModelConfig), ("data.", DataConfig), ("temperature.", TemperatureConfig)],
}
IGNORED_BY_TIME = ("--model.kind", "--model.num-classes")


@pytest.mark.parametrize("verb", GROUPS)
def test_every_setting_is_a_flag_with_its_help(verb, capsys):
    said = help_of(verb, capsys)
    for where, cls in GROUPS[verb]:
        for flag, text in fields(cls, where):
            if verb == "time" and flag in IGNORED_BY_TIME:
                assert f"{flag} " not in said
            else:
                assert re.search(rf"{re.escape(flag)}[ ,]", said), flag
                assert text in said, f"{flag}: {text}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_has_help_in_sentences_and_groups_are_named(verb, capsys):
    said = help_of(verb, capsys)
    texts = re.findall(
        r"(?<=[a-z}\]]|[A-Z]) ([A-Z\"][^()]*?(?:\([^()]*\)[^()]*?)*) \((?:default|required)", said
    )
    assert len(texts) >= 1 and all(text.rstrip().endswith(".") for text in texts), texts
    if verb in GROUPS:
        for group in ("model", "model.partitioner", "model.codebook"):
            assert f"{group} options" in said


def test_the_help_of_the_command_lists_what_a_wheel_can_run(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert f"{{{','.join(VERBS)}}}" in capsys.readouterr().out


def test_help_and_refusals_load_neither_jax_nor_what_only_commands_need():
    code = (
        "import sys, partoken_jax.cli as c\n"
        "try: c.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "loaded = {'jax', 'flax', 'numpy', 'gemmi', 'orbax.checkpoint', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    for args in (
        *(["--help"], ["train", "--help"], ["time", "--help"], ["prepare", "--help"]),
        *(["train", "--seed", "-1"], ["prepare", "nothing"]),
    ):
        result = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


def timed(*args) -> TimingConfig:
    """The settings that `partoken time ARGS` would measure."""
    return parse(["time", *args]).args[0]  # type: ignore[attr-defined]


def test_flags_of_time():
    assert timed() == TimingConfig()
    config = timed(
        "--models", "gvp", "--passes", "train_step,epoch", "--sweeps", "batch, length", "--no-gap",
        "--batch-size", "4", "--precision", "bfloat16", "--data", "chains.npz", "--task", "cath-class",
        "--epoch-batches", "3", "--model.num-layers", "1", "--json", "a.json",
    )  # fmt: skip
    assert config == TimingConfig(
        models=("gvp",), passes=("train_step", "epoch"), sweeps=("batch", "length"), gap=False, batch_size=4,
        model=ModelConfig(precision="bfloat16", num_layers=1), path="chains.npz", task="cath-class",
        epoch_batches=3,
    )  # fmt: skip
    assert timed("--path", "chains.npz") == timed("--data", "chains.npz")


def test_a_result_names_the_command_that_made_it():
    call = parse(["time", "--models", "gvp", "--json", "a.json"])
    assert call.args[3] == "partoken time --models gvp --json a.json"  # type: ignore[attr-defined]


def converted(*args) -> dict:
    """The settings that `partoken convert SOURCE TARGET ARGS` passes on."""
    return parse(["convert", "w.pt", "run", *args]).args[2]  # type: ignore[attr-defined]


def test_conversion_is_told_what_was_said_and_nothing_else(tmp_path):
    assert converted() == {}
    flags = (
        "--model",
        "gvp",
        "--model.pooling=sum",
        "--model.codebook.no-enabled",
        "--model.node_in",
        "6",
        "3",
    )
    said = {
        "model.kind": "gvp", "model.pooling": "sum", "model.codebook.enabled": False, "model.node_in": (6, 3)
    }  # fmt: skip
    assert converted(*flags) == said
    (tmp_path / "c.yaml").write_text("model: {pooling: max, dropout: 0.5}\nseed: 3\n")
    file = {"model.dropout": 0.5, "seed": 3, "model.pooling": "max"}
    assert converted("--config", str(tmp_path / "c.yaml")) == file
    assert converted("--config", str(tmp_path / "c.yaml"), *flags) == file | said
