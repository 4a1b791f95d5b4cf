"""The command line: settings reach the library, and mistakes are answered in one sentence."""

import pytest

import partoken_jax
from partoken_jax.cli import main, parse
from partoken_jax.config import ConfigError, TrainConfig, save_yaml


def settings(*args) -> TrainConfig:
    """The settings that `partoken train ARGS` would run with."""
    return parse(["train", *args]).args[0]  # type: ignore[attr-defined]


def complaint(capsys, *args) -> str:
    """What a command says when it refuses, which must be one line without a traceback."""
    assert main(list(args)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_without_flags_the_run_is_the_published_one():
    assert settings() == TrainConfig()


def test_flags_reach_every_group_of_settings():
    config = settings(
        "--model", "gvp", "--seed", "1", "--run-dir", "runs/a", "--model.dropout", "0.2",
        "--data.batch-size", "16",
        "--model.node-hidden", "16", "4", "--model.partitioner.max-clusters", "3", "--stage1.epochs", "2",
        "--model.codebook.no-enabled", "--data.path", "some.npz", "--overwrite",
    )  # fmt: skip
    assert (config.model.kind, config.model.dropout, config.model.node_hidden) == ("gvp", 0.2, (16, 4))
    assert (config.model.partitioner.max_clusters, config.model.codebook.enabled) == (3, False)
    assert (config.seed, config.run_dir, config.overwrite, config.resume) == (1, "runs/a", True, False)
    assert (config.data.batch_size, config.data.path) == (16, "some.npz")
    assert (config.stage1.epochs, config.stage1.learning_rate) == (2, 5e-4)


def test_both_ways_to_name_the_model():
    assert settings("--model", "gvp").model == settings("--model.kind", "gvp").model
    assert settings("--model", "partoken").model.kind == "partoken"


def test_flags_override_the_yaml_file(tmp_path):
    (tmp_path / "c.yaml").write_text("seed: 4\nmodel: {kind: gvp, dropout: 0.3}\n")
    config = settings("--config", str(tmp_path / "c.yaml"), "--model.dropout", "0.2", "--data.max-train", "9")
    assert (config.seed, config.model.kind, config.model.dropout, config.data.max_train) == (4, "gvp", 0.2, 9)
    assert settings(f"--config={tmp_path / 'c.yaml'}", "--model", "partoken").model.kind == "partoken"


def test_resuming_starts_from_the_settings_of_the_run(tmp_path):
    save_yaml(TrainConfig(run_dir="elsewhere", seed=9), tmp_path / "config.yaml")
    config = settings("--run-dir", str(tmp_path), "--resume")
    assert (config.seed, config.resume, config.run_dir) == (9, True, str(tmp_path))
    assert settings("--run-dir", str(tmp_path)).seed == 0


def test_wrong_settings(capsys):
    assert "model.dropout is 3.0" in complaint(capsys, "train", "--model.dropout", "3")
    both = complaint(capsys, "train", "--data.batch-size", "0", "--stage1.epochs=-1")
    assert "data.batch_size is 0" in both and "stage1.epochs is -1" in both
    assert "stage0.learning_rate is nan" in complaint(capsys, "train", "--stage0.learning-rate", "nan")
    with pytest.raises(ConfigError):
        parse(["train", "--model.num-layers", "0"])


@pytest.mark.parametrize("verb", ["train", "time"])
def test_a_negative_seed_is_refused(verb, capsys):
    assert complaint(capsys, verb, "--seed", "-1") == (
        "error: seed is -1, but must be a whole number from 0 to 4,294,967,295\n"
    )


def test_a_codebook_frozen_from_the_start_is_refused(capsys):
    said = complaint(capsys, "train", "--stage1.epochs", "4")
    assert "freeze_codebook_epochs is 5, but stage1.epochs is 4" in said and "from 0 to 3" in said
    assert settings("--stage1.epochs", "4", "--freeze-codebook-epochs", "3").freeze_codebook_epochs == 3


def test_wrong_files(capsys, tmp_path):
    assert "nowhere.yaml" in complaint(capsys, "train", "--config", str(tmp_path / "nowhere.yaml"))
    (tmp_path / "c.yaml").write_text("sead: 4\n")
    assert "'sead'" in complaint(capsys, "train", "--config", str(tmp_path / "c.yaml"))
    run = ("--run-dir", str(tmp_path / "run"))
    assert "nowhere.npz" in complaint(capsys, "train", *run, "--data.path", str(tmp_path / "nowhere.npz"))
    assert not (tmp_path / "run").exists()


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"partoken_jax {partoken_jax.__version__}\n"


def test_wrong_run_directories(capsys, tmp_path):
    assert "nothing does not exist" in complaint(capsys, "evaluate", str(tmp_path / "nothing"))
    assert "no 'best' checkpoint" in complaint(capsys, "evaluate", str(tmp_path))
    assert "--model cath-architecture" in complaint(capsys, "evaluate", "cath-architecture")
    (tmp_path / "c.txt").write_text("mine")
    taken = complaint(capsys, "train", "--run-dir", str(tmp_path))
    assert "is not the directory of a run" in taken and "--run-dir" in taken and "--overwrite" not in taken
    assert (tmp_path / "c.txt").read_text() == "mine"


def test_proteins_too_long_are_refused_by_name(capsys, tmp_path):
    said = complaint(capsys, "train", "--data.max-length", "399", "--run-dir", str(tmp_path / "run"))
    assert "max_length = 399" in said and "(400)" in said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train", "--nonsense"], "options: --nonsense; see `partoken train --help`"),
        (["train", "--sed", "3"], "perhaps --seed is meant"),
        (
            ["train", "--model", "cnn"],
            "'cnn' for argument '--model/--model.kind'; expected one of ('gvp',",
        ),
        (
            ["evaluate"],
            "Missing from partoken evaluate: RUN_DIR or --model, one of them; see `partoken evaluate --help`",
        ),
        (["dance"], "options: dance; there are annotate, train,"),
        ([], "Expected one of {annotate, train"),
    ],
)
def test_flags_and_verbs_that_do_not_exist(args, said, capsys):
    assert said in complaint(capsys, *args)


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def broken(args):
        raise ValueError("a fault")

    monkeypatch.setattr("partoken_jax.cli.parse", broken)
    with pytest.raises(ValueError, match="a fault"):
        main([])


def test_params_prints_both_models(capsys):
    assert main(["params"]) == 0
    output = capsys.readouterr().out
    assert "514,267" in output and "705,409" in output
    assert main(["params", "--num-classes", "7"]) == 0
    assert "514,772" in capsys.readouterr().out
