"""The fastest form that is right is chosen, whatever else is faster; wrong and failing ones are reported."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

from partoken_jax.cli import main
from partoken_jax.nn import gather
from partoken_jax.nn.encoder import chunk_size
from partoken_jax.nn.forms import Form
from partoken_jax.timing import tune as tuning
from partoken_jax.timing.measure import summary
from partoken_jax.timing_config import TuneConfig
from partoken_jax.training import tuned_forms
from partoken_jax.training.objective import Objective
from tests.helpers import NEIGHBOURS, tiny
from tests.pretrained.conftest import random_state

CONFIG = TuneConfig(batch_size=2, residues=20, neighbours=NEIGHBOURS, model=tiny(num_layers=1))
DEFAULT, KEPT = Form("dense", "chunk"), Form("dense", "none")
WRONG, FAILING = Form("dense", "none", "gather"), Form("dense", "layer", "gather")
SECONDS = {tuning.PLAIN: 9.0, DEFAULT: 2.0, KEPT: 1.5}


def fake_timer(calls, *, repeats, warm_up):
    """Runs nothing. A form that is not right must not come here."""
    return {form: summary([SECONDS[form]] * repeats) for form in calls}


def fake_step(graphdef, *, bypass_codebook, target):
    """A step of a few sums in place of the model's, wrong by a percent in one form; one does not compile."""
    ((_, form),) = target.measured

    def step(state, graph, settings):
        if form == FAILING:
            raise RuntimeError("no such\n  instruction")
        x = jnp.sum(jnp.asarray(graph.edges.mask, jnp.float32))
        factor = 1.01 if form == WRONG else 1.0
        return Objective({"w": factor * x}, {}, {"total": x}, {"logits": jnp.stack([x, factor * 2 * x])})

    return step


@pytest.fixture(scope="module")
def found():
    """(what was found, what was said) of five forms, of which the two that would be fastest are no good."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "say", lambda line, quiet: said.append(line))
        patch.setattr(tuning, "initial_state", random_state)
        patch.setattr(tuning, "make_gradient_step", fake_step)
        patch.setattr(tuning, "candidates", lambda *_: [tuning.PLAIN, DEFAULT, KEPT, WRONG, FAILING])
        return tuning.tune(CONFIG, time=fake_timer), "\n".join(said)


def test_a_model_that_computes_wrongly_is_found_out(monkeypatch):
    """The real steps: the plain form, and one whose gathered features are wrong by a percent."""

    def wrong(x, neighbours, reverse):
        return 1.01 * gather.gather_senders(x, neighbours, reverse)

    monkeypatch.setattr("partoken_jax.nn.message_passing_dense.gather_senders", wrong)
    monkeypatch.setattr(tuning, "initial_state", random_state)
    monkeypatch.setattr(tuning, "candidates", lambda *_: [tuning.PLAIN, WRONG])
    found = tuning.tune(dataclasses.replace(CONFIG, repeats=1), quiet=True)
    plain, other = found.result["rows"]
    assert found.form == tuning.PLAIN and plain["status"] == "ok" and plain["median_ms"] > 0
    assert plain["errors"] == {"outputs": 0, "gradients": 0}
    assert other["status"] == "wrong" and "median_ms" not in other
    assert all(1e-4 < error < 1 for error in other["errors"].values())


def test_the_fastest_form_that_is_right_is_chosen(found):
    found, said = found
    assert found.form == KEPT and f"fastest: {KEPT}, in place of dense, chunks of 64" in said
    rows = {row["label"]: row for row in found.result["rows"]}
    assert [row["status"] for row in rows.values()] == ["ok", "ok", "ok", "wrong", "failed"]
    assert rows[str(KEPT)]["over_default"]["median"] == 0.75
    assert rows[str(tuning.PLAIN)]["runs"] == tuning.TRIALS and "over_default" not in rows[str(tuning.PLAIN)]
    json.dumps(found.result)


def test_a_wrong_form_and_a_failing_one_are_reported_and_never_timed(found):
    found, said = found
    rows = {row["label"]: row for row in found.result["rows"]}
    assert rows[str(WRONG)]["errors"] == pytest.approx({"outputs": 0.01, "gradients": 0.01}, rel=1e-3)
    assert "median_ms" not in rows[str(WRONG)] and "median_ms" not in rows[str(FAILING)]
    assert f"{WRONG}: wrong on this device, and is not used" in said
    assert rows[str(FAILING)]["error"] == "no such instruction"
    assert f"{FAILING}: failed, and is not used: no such instruction" in said


@pytest.mark.parametrize("where", ["gradients", "output"])
def test_what_is_not_finite_is_wrong(where):
    good = Objective(
        {"w": jnp.ones(3), "zero": jnp.zeros(2)}, {}, {"total": 1.0}, {"logits": jnp.ones((2, 3))}
    )
    assert tuning.errors(good, good) == {"outputs": 0, "gradients": 0}
    bad = good._replace(**{where: jax.tree.map(lambda x: x.at[0].set(jnp.nan), getattr(good, where))})
    assert max(tuning.errors(bad, good).values()) == float("inf")


def test_times_that_overlap_keep_the_default():
    default, close, clear = summary([2.0, 2.1, 2.2]), summary([1.9, 2.0, 2.15]), summary([1.7, 1.8, 1.9])
    assert tuning.fastest({DEFAULT: default, KEPT: close}, DEFAULT) == DEFAULT
    assert tuning.fastest({DEFAULT: default, KEPT: clear}, DEFAULT) == KEPT
    assert tuning.fastest({KEPT: default, WRONG: close}, DEFAULT) == WRONG  # the default is not right here


def test_candidates_are_every_form_once_the_plain_one_first():
    for platform, default in (("cpu", DEFAULT), ("gpu", FAILING)):
        forms = tuning.candidates(platform, 4864, default)
        assert forms[0] == tuning.PLAIN and default in forms and len(set(forms)) == len(forms)
        assert {form.rematerialise for form in forms} == {"none", "layer", "chunk"}
    chunks = [form.chunk for form in tuning.candidates("cpu", 4864, DEFAULT) if form.chunk]
    assert {*chunks, chunk_size(4864)} == set(tuning.CPU_CHUNKS) and len(chunks) == 2
    for platform, twice in (("gpu", set()), ("tpu", {"blocks", "fused"})):
        ways = [form.message_passing for form in tuning.candidates(platform, 4864, FAILING)]
        assert {way for way in ways if way in ("blocks", "fused")} == twice
        assert all(ways.count(way) == 2 for way in twice)
    assert not [f for f in tuning.candidates("cpu", 64, DEFAULT) if f.chunk]


def test_the_command_keeps_what_it_found(found, tmp_path, monkeypatch, capsys):
    found, _ = found
    monkeypatch.setattr(tuning, "tune", lambda config, command: found._replace(result={"by": command}))
    monkeypatch.setattr(tuned_forms, "cache_directory", lambda: tmp_path / "cache")
    assert main(["tune", "--residues", "20", "--json", str(tmp_path / "a.json")]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["by"].startswith("partoken tune --residues 20")
    assert str(tmp_path / "cache" / "tuned.json") in capsys.readouterr().out
    assert tuned_forms.stored_choices(found.device) == ((found.shape, KEPT),)
    monkeypatch.setattr(tuning, "tune", lambda config, command: found._replace(form=None))
    assert main(["tune"]) == 2
    assert "lower batch_size or residues" in capsys.readouterr().err


def test_without_the_plain_form_nothing_is_chosen(monkeypatch):
    def failing(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(tuning, "initial_state", random_state)
    monkeypatch.setattr(tuning, "compile_program", failing)
    found = tuning.tune(CONFIG, quiet=True, time=fake_timer)
    assert found.form is None and {row["status"] for row in found.result["rows"]} == {"failed"}
