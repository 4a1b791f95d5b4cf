"""The runs that are compared differ in what their names say, and in nothing else."""

from pathlib import Path

import pytest
from flax import nnx

from experiments.variants import TASKS, VARIANTS, schedule, variant_config, write_configs
from partoken_jax.config import ConfigError, TrainConfig, load_yaml, to_dict
from partoken_jax.models import build_model, parameter_table

RECOMMENDED = {"clip_norm": 1.0, "model": {"pooling": "mean"}}


def config(variant: str, **changes):
    given = {"runs": Path("runs"), "epochs": 30, "recommended": RECOMMENDED} | changes
    return variant_config("cath-class", variant, 1, **given)


def parameters(model) -> int:
    abstract = nnx.eval_shape(lambda: build_model(model, rngs=nnx.Rngs(0)))
    return dict(parameter_table(abstract))["total"]


def test_the_wide_baseline_has_the_parameters_of_partoken():
    wide, partoken, gvp = (parameters(config(v).model) for v in ("gvp-wide", "partoken-published", "gvp"))
    assert abs(wide / partoken - 1) < 0.002 < 1 - gvp / partoken


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_differ_in_what_they_are_called(variant):
    mine, base = to_dict(config(variant)), to_dict(config("partoken-published"))
    different = {name for name in base if mine[name] != base[name]}
    recommended = {"clip_norm"} if variant.endswith("recommended") else set()
    assert different == (set() if variant == "partoken-published" else {"run_dir", "model"} | recommended)
    assert mine["run_dir"] == f"runs/cath-class/{variant}/seed1"


def test_the_published_schedule_is_the_longest_one():
    """150 epochs give the published settings back; the temperature ends after 30% of any number."""
    whole, short = schedule(TrainConfig(), 150), schedule(TrainConfig(), 10)
    assert (whole.stage0, whole.stage1, whole.loss) == (
        TrainConfig().stage0,
        TrainConfig().stage1,
        TrainConfig().loss,
    )
    assert whole.temperature.decay == pytest.approx(TrainConfig().temperature.decay, abs=1e-3)
    assert (short.stage0.epochs, short.stage1.epochs, short.freeze_codebook_epochs) == (8, 2, 1)
    for made in (whole, short):
        epochs = made.stage0.epochs + made.stage1.epochs
        assert made.temperature.at(round(0.3 * epochs)) == pytest.approx(made.temperature.final, rel=1e-6)
    with pytest.raises(ConfigError):
        schedule(TrainConfig(), 1)


def test_every_run_has_a_file_that_its_command_names(tmp_path):
    common = {"data": {"batch_size": 7}}
    commands = write_configs(tmp_path, Path("runs"), TASKS, (0, 1), 10, common, None)
    files = [Path(command.split()[3]) for command in commands]
    plain = [variant for variant in VARIANTS if not variant.endswith("recommended")]
    assert len(files) == len(set(files)) == len(TASKS) * 2 * len(plain)
    read = [load_yaml(TrainConfig, file) for file in files]
    assert {made.run_dir for made in read} == {
        str("runs" / f.relative_to(tmp_path).with_suffix("")) for f in files
    }
    assert {made.data.batch_size for made in read} == {7} and {made.data.task for made in read} == set(TASKS)
