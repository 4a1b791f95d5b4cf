"""Settings survive YAML, and wrong ones are refused in one sentence."""

import dataclasses
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from partoken_jax import config as all_settings
from partoken_jax.config import (
    CheckpointConfig,
    CodebookConfig,
    ConfigError,
    DataConfig,
    LossConfig,
    ModelConfig,
    PartitionerConfig,
    PretrainingConfig,
    StageConfig,
    TemperatureConfig,
    TrainConfig,
    from_dict,
    load_yaml,
    save_yaml,
    to_dict,
)
from partoken_jax.settings import help_texts, is_settings
from partoken_jax.timing_config import TimingConfig

CLASSES = [*(thing for thing in vars(all_settings).values() if is_settings(thing)), TimingConfig]
PARTITIONER = PartitionerConfig(
    kind="random",
    start="data",
    max_clusters=2,
    hidden=7,
    k_hop=3,
    cluster_size_max=1,
    termination_threshold=1,
)
CODEBOOK = CodebookConfig(
    enabled=False, size=1, beta=0, decay=0, epsilon=1e-12, metric="cosine", keep_unused=False,
    presence_temperature=1e-3, classify_quantised=True, dimension=2, quantiser="residual", levels=3,
    gradient="rotation",
)  # fmt: skip
PRETRAINING = PretrainingConfig(masked=0.5, noise=0.1)
MODEL = ModelConfig(
    kind="gvp", num_classes=2, node_in=(1, 2), edge_in=(3, 4), node_hidden=(5, 6), edge_hidden=(7, 8),
    num_layers=9, dropout=0, pooling="attention", norm_pooled=True, output_activation="silu",
    residue_types=True, attention_heads=3,
    message_passing="general", rematerialise="layer", sender_gradient="scatter", precision="bfloat16",
    partitioner=PARTITIONER, codebook=CODEBOOK, pretraining=PRETRAINING,
)  # fmt: skip
FITTING = dataclasses.replace(MODEL, node_in=(6, 3), edge_in=(32, 1))  # the features that a run computes
DATA = DataConfig(
    path="some: file.npz", task="cath-class", split_scheme="superfamily", neighbours=1, batch_size=3,
    residues_per_batch=9,
    max_shapes=1, max_length=5, too_long="crop", max_train=12, max_eval=1,
)  # fmt: skip
STAGE = StageConfig(epochs=2, learning_rate=3e-5, warmup_epochs=0.5)
LOSS = LossConfig(vq=0, coverage=1e-9, cardinality=7, ramp_epochs=0)
TEMPERATURE = TemperatureConfig(initial=3, decay=1, final=1e-6)
CHECKPOINT = CheckpointConfig(every=0.5, keep_best=3, keep_every=10)
UNUSUAL = [
    PARTITIONER,
    CODEBOOK,
    PRETRAINING,
    MODEL,
    DATA,
    STAGE,
    LOSS,
    TEMPERATURE,
    CHECKPOINT,
    TrainConfig(
        run_dir="some where", seed=2**32 - 1, model=FITTING, data=DATA, stage0=STAGE,
        stage1=StageConfig(0, 1, 0),
        loss=LOSS, temperature=TEMPERATURE, kmeans_batches=1, freeze_codebook_epochs=0,
        reseed_dead_codes=True, dead_code_share=0.5, devices=3, init_from="runs/other", freeze_encoder=True,
        one_schedule=True, weight_decay=0.1, label_smoothing=0.2, class_balance=1,
        clip_norm=0.5, non_finite="skip",
        checkpoint=CHECKPOINT, overwrite=True,
        resume=True,
    ),
    TimingConfig(
        models=("partoken",), passes=("epoch", "forward"), batch_size=1, path="yes", task="cath-architecture",
        split_scheme="random", neighbours=2, repeats=1, epoch_batches=1, gap=False, sweeps=("plain", "batch"),
        model=FITTING, seed=1,
    ),
    TimingConfig(residues=1),
]  # fmt: skip


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_unusual_configs_leave_no_default_untried(cls):
    tried = [config for config in UNUSUAL if isinstance(config, cls)]
    for field in dataclasses.fields(cls):
        assert any(getattr(config, field.name) != getattr(cls(), field.name) for config in tried), field.name


@pytest.mark.parametrize(
    "config", [*(cls() for cls in CLASSES), *UNUSUAL], ids=lambda config: type(config).__name__
)
def test_round_trips(tmp_path, config):
    save_yaml(config, tmp_path / "config.yaml")
    for back in (load_yaml(type(config), tmp_path / "config.yaml"), from_dict(type(config), to_dict(config))):
        # Types as well: 1 == 1.0 == True.
        assert back == config and repr(back) == repr(config) and hash(back) == hash(config)


def test_defaults_are_the_published_configuration():
    config = TrainConfig()
    assert (config.model.node_hidden, config.model.num_layers, config.data.neighbours) == ((100, 16), 3, 30)
    assert (config.model.partitioner.max_clusters, config.model.codebook.size) == (5, 512)
    assert (config.stage0.epochs, config.stage0.learning_rate) == (120, 1e-3)
    assert (config.stage1.epochs, config.stage1.learning_rate) == (30, 5e-4)
    assert (config.loss.vq, config.loss.coverage, config.loss.cardinality) == (1.0, 1e-2, 5e-3)


def test_missing_settings_take_their_default(tmp_path):
    (tmp_path / "c.yaml").write_text("seed: 7\nmodel: {dropout: 0}\nstage1: {epochs: 9}\n")
    config = load_yaml(TrainConfig, tmp_path / "c.yaml")
    assert (config.seed, config.model.dropout, config.stage1) == (7, 0.0, StageConfig(9, 5e-4))
    assert config.data == DataConfig()
    (tmp_path / "empty.yaml").write_text("")
    assert load_yaml(TrainConfig, tmp_path / "empty.yaml") == TrainConfig()


def test_what_yaml_reads_as_text_or_as_a_list_is_accepted(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "stage0: {learning_rate: 1e-4}\nmodel: {node_hidden: [8, 2], dropout: 0}"
    )
    config = load_yaml(TrainConfig, tmp_path / "c.yaml")
    assert config.stage0.learning_rate == 1e-4
    assert config.model.node_hidden == (8, 2) and isinstance(config.model.dropout, float)


WRONG = [
    ("sead: 1", "there is no setting called 'sead', only run_dir, seed, model,"),
    ("{sead: 1, 2: 3}", "there is no setting called 'sead' or 2, only"),
    ("model: {partitioner: {rounds: 3}}", "model.partitioner has no setting called 'rounds', only max_"),
    ("model: {kind: transformer}", "model.kind is 'transformer', but must be 'gvp', 'partoken' or"),
    ("model: {dropout: 1.0}", "model.dropout is 1.0, but must be a number of at least 0 and less than 1"),
    ("model: {node_hidden: [100]}", "model.node_hidden is [100], but must be 2 whole numbers from 1 to"),
    ("model: {node_in: [9, 0]}", "model.node_in is [9, 0], but must be 2 whole numbers from 1 to 4,096"),
    ("model: 3", "model is 3, but must be a group of settings such as kind"),
    ("model:", "model is None, but must be a group of settings such as kind"),
    ("data: {batch_size: 0}", "data.batch_size is 0, but must be a whole number from 1 to 100,000"),
    ("data: {batch_size: true}", "data.batch_size is True, but must be a whole number from 1"),
    ("data: {batch_size: 4.0}", "data.batch_size is 4.0, but must be a whole number from 1"),
    ("data: {batch_size: '4'}", "data.batch_size is '4', but must be a whole number from 1"),
    ("data: {max_eval: 0}", "data.max_eval is 0, but must be a whole number from 1 to 1,000,000,000, or"),
    ("data: {task: 3}", "data.task is 3, but must be text"),
    ("data: {path: 3}", "data.path is 3, but must be text that is not empty and has no zero byte, or none"),
    ("seed: many", "seed is 'many', but must be a whole number from 0 to 4,294,967,295"),
    ("seed: -1", "seed is -1, but must be a whole number from 0"),
    ("resume: 1", "resume is 1, but must be true or false"),
    ("stage0: {learning_rate: 0}", "stage0.learning_rate is 0, but must be a number from 1e-30 to"),
    ("stage1: {warmup_epochs: true}", "stage1.warmup_epochs is True, but must be a number from 0 to 10,000"),
    ("loss: {vq: .inf}", "loss.vq is inf, but must be a finite number from 0 to 1,000,000"),
    ("temperature: {final: .nan}", "temperature.final is nan, but must be a finite number from 1e-06 to"),
    ("temperature: {decay: inf}", "temperature.decay is 'inf', but must be a number greater than 0 and at"),
    (
        "model: {partitioner: {termination_threshold: 0}}",
        "model.partitioner.termination_threshold is 0, but must be a number greater than 0 and at most 1",
    ),
    ("model: {attention_heads: 3}", "model.attention_heads is 3, but must divide"),
    (
        "model: {message_passing: general, rematerialise: chunk}",
        "model.rematerialise is 'chunk', but must be 'auto', 'none' or 'layer' where model.message_",
    ),
    (
        "model: {message_passing: blocks, rematerialise: chunk}",
        "model.rematerialise is 'chunk', but must be 'auto', 'none' or 'layer' where model.message_",
    ),
    (
        "model: {message_passing: fused, rematerialise: chunk}",
        "model.rematerialise is 'chunk', but must be 'auto', 'none' or 'layer' where model.message_",
    ),
    ("model: {sender_gradient: gather}", "model.sender_gradient is 'gather', but must be 'auto' or 'scat"),
    (
        "{seed: -1, model: {codebook: {size: 0}}, stage1: {epochs: -1}}",
        "seed is -1, but must be a whole number from 0 to 4,294,967,295; "
        "model.codebook.size is 0, but must be a whole number from 1 to 1,000,000; "
        "stage1.epochs is -1, but must be a whole number from 0 to 10,000",
    ),
    ("- 1", "holds no settings; write them as 'name: value' lines"),
    ("seed: [", "not valid YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "complaint"), WRONG, ids=[text for text, _ in WRONG])
def test_wrong_settings_are_named_with_their_file(tmp_path, text, complaint):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_yaml(TrainConfig, path)
    assert str(error.value).startswith(f"{path}: {complaint}") and "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_yaml(TrainConfig, tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: ModelConfig(num_layers=0), "ModelConfig.num_layers is 0, but must be a whole number from"),
        (lambda: ModelConfig(layers=3), "ModelConfig has no setting called 'layers', only kind, num_"),
        (lambda: StageConfig(-1, 0), "StageConfig.epochs is -1, .*; StageConfig.learning_rate is 0, but"),
        (lambda: dataclasses.replace(DataConfig(), batch_size=0), "DataConfig.batch_size is 0, but must be"),
        (lambda: dataclasses.replace(TrainConfig(), seed=-1), "TrainConfig.seed is -1, but must be"),
        (lambda: ModelConfig(attention_heads=7), "ModelConfig.attention_heads is 7, but must divide"),
        (lambda: TrainConfig(model={"num_layers": 0}), "TrainConfig.model.num_layers is 0, but must be"),
        (lambda: TrainConfig(model=DataConfig()), "TrainConfig.model is DataConfig.*, but must be a group"),
        (lambda: TrainConfig(freeze_encoder=True), "freeze_encoder is on, but .* random .*; set init_from"),
    ],
)  # fmt: skip
def test_the_same_holds_for_configs_built_in_python(build, complaint):
    with pytest.raises(ConfigError, match=complaint):
        build()


def test_numbers_of_numpy_and_paths_count_as_pythons():
    config = StageConfig(np.int64(3), np.float32(0.5))
    assert repr(config) == repr(StageConfig(3, 0.5))
    assert TrainConfig(run_dir=Path("runs") / "a").run_dir == "runs/a"
    with pytest.raises(ConfigError, match="epochs is"):
        StageConfig(epochs=np.bool_(True))


def test_a_share_of_dead_codes_without_re_seeding_is_refused():
    with pytest.raises(ConfigError, match="but reseed_dead_codes is off, so that no code would move"):
        from_dict(TrainConfig, {"dead_code_share": 0.25})
    assert from_dict(TrainConfig, {"dead_code_share": 0.25, "reseed_dead_codes": True}).dead_code_share


@pytest.mark.parametrize(("epochs", "frozen"), [(4, 4), (4, 5), (1, 1)])
def test_a_codebook_frozen_from_the_start_is_refused(epochs, frozen):
    settings = {"stage1": {"epochs": epochs}, "freeze_codebook_epochs": frozen}
    with pytest.raises(ConfigError) as error:
        from_dict(TrainConfig, settings)
    said = str(error.value)
    assert f"freeze_codebook_epochs is {frozen}, but stage1.epochs is {epochs}" in said
    # The remedy works.
    most = int(re.search(r"set freeze_codebook_epochs to (?:a number from 0 to )?(\d+)", said)[1])
    assert most == epochs - 1
    assert from_dict(TrainConfig, settings | {"freeze_codebook_epochs": most}).stage1.epochs == epochs


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"quantiser": "residual"}, "model.codebook.levels is None, but must be set where quantiser is"),
        ({"levels": 3}, "model.codebook.levels is 3, but must be set where quantiser is 'residual' or 'fsq'"),
        ({"quantiser": "fsq", "levels": 2}, "model.codebook.dimension is None, but must be set where"),
        (
            {"quantiser": "fsq", "levels": 5, "dimension": 3},
            "model.codebook.size is 512, but must be levels ** dimension = 125",
        ),
    ],
)
def test_quantisers_get_what_they_need_and_nothing_else(settings, said):
    with pytest.raises(ConfigError) as error:
        from_dict(TrainConfig, {"model": {"codebook": settings}})
    assert said in str(error.value)


def test_codes_are_not_chosen_in_more_dimensions_than_there_are():
    settings = {"model": {"node_hidden": [8, 2], "codebook": {"dimension": 9}}}
    with pytest.raises(ConfigError, match=r"codebook.dimension is 9, but .* model.node_hidden\[0\] = 8"):
        from_dict(TrainConfig, settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze_codebook_epochs": 0},
        {"stage1": {"epochs": 0}},
        {"model": {"kind": "gvp"}},
        {"model": {"codebook": {"enabled": False}}},
    ],
)
def test_without_a_codebook_to_freeze_its_epochs_do_not_matter(settings):
    from_dict(TrainConfig, {"stage1": {"epochs": 3}, "freeze_codebook_epochs": 3} | settings)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_setting_has_help_in_whole_sentences(cls):
    assert inspect.getdoc(cls)
    for name, text in help_texts(cls).items():
        assert text.endswith(".") and text[0].isupper() and len(text) > 30, f"{cls.__name__}.{name}: {text!r}"


def test_temperature_falls_by_its_decay_down_to_its_floor():
    temperature = TemperatureConfig()
    assert temperature.at(0) == 1.0
    assert temperature.at(1) == pytest.approx(0.95)
    assert temperature.at(2) == pytest.approx(0.9025)
    assert temperature.at(44) > temperature.at(45) == temperature.at(500) == 0.1


def test_configs_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().seed = 2  # type: ignore[misc]
