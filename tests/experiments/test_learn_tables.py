"""The words of docs/LEARNING.md that no generator decides go with the committed results."""

import pytest

from experiments import learn_tables
from experiments.does_it_pay_report import main_pair, signed
from experiments.finished_runs import LAST
from experiments.result_files import ROOT, read
from partoken_jax.presets import PRESETS
from partoken_jax.pretrained import load_model

LEARNING = "docs/LEARNING.md"


@pytest.fixture(scope="module")
def contrasts():
    """Task → (first, second) → the contrast of whole runs."""
    tasks = read("learn", "does_it_pay.json")["tasks"]
    return {task: {(c["first"], c["second"]): c for c in of["contrasts"]} for task, of in tasks.items()}


def shown(difference):
    return difference["significant"] and difference["mean"] > 0


def test_no_gain_over_gvp_and_none_by_clusters_is_shown(contrasts):
    against_gvp = [of[pair] for of in contrasts.values() if (pair := main_pair(of))]
    scores = ("accuracy", "macro_f1")
    assert len(against_gvp) == 5 and not any(shown(c[score]) for c in against_gvp for score in scores)
    for control in ("partoken-random", "partoken-whole"):
        whole = [of[pair] for of in contrasts.values() if (pair := ("partoken-recommended", control)) in of]
        places = read("learn", "same_features.json")["analysis"].values()
        same = [c for of in places for c in of["contrasts"] if c["second"] == control]
        assert whole and len(same) == 5
        assert not any(shown(c[score]) for c in whole + same for score in scores)


def test_on_the_same_features_the_head_is_more_accurate_on_architectures():
    found = read("learn", "same_features.json")["analysis"]["backbone, cath-architecture"]["contrasts"][0]
    assert found["second"] == "gvp-recommended" and shown(found["accuracy"])
    places = read("learn", "same_features.json")["analysis"].values()
    assert sum(shown(of["contrasts"][0]["accuracy"]) for of in places) == 1


def test_pretraining_is_what_is_shown_to_help(contrasts):
    short = contrasts["short-chains"]
    for name in ("partoken", "gvp"):
        assert shown(short[(f"{name}-recommended", f"{name}-scratch")]["accuracy"])
    from_random = short[("partoken-scratch", "partoken-published")]
    pretrained = short[("partoken-recommended", "partoken-published-pretrained")]
    assert not any(shown(from_random[score]) for score in ("accuracy", "macro_f1"))
    assert not shown(pretrained["accuracy"]) and shown(pretrained["macro_f1"])
    assert shown(short[("partoken-published-pretrained", "partoken-published")]["accuracy"])


def test_the_forest_is_beaten_on_architectures_and_on_enzyme_classes_in_macro_f1_alone():
    found = read("learn", "unseen_families.json")["tasks"]
    against = {task: of["groups"]["all"]["differences"]["partoken - forest"] for task, of in found.items()}
    assert shown(against["cath-architecture"]["accuracy"]) and shown(against["ec-class"]["macro_f1"])
    assert not shown(against["ec-class"]["accuracy"]) and not shown(against["cath-class"]["accuracy"])
    new = found["ec-class"]["groups"]["unseen"]
    constant = new["differences"]["partoken - constant"]["accuracy"]
    assert constant["significant"] and constant["mean"] < 0


def test_readme_and_learning_quote_the_split_by_superfamily():
    models = read("learn", "summary.json")["tasks"]["cath-architecture-superfamily"]
    gvp, partoken, forest = (models[name]["accuracy"] for name in ("gvp", "partoken", "forest"))
    new = read("learn", "unseen_families.json")["tasks"]["ec-class"]["groups"]["unseen"]["models"]["partoken"]
    readme, learning = (" ".join((ROOT / name).read_text().split()) for name in ("README.md", LEARNING))
    assert f"has {partoken:.3f} on architectures (GVP {gvp:.3f}, forest {forest:.3f}; one seed)" in readme
    assert f"on enzymes of new superfamilies {new['accuracy']:.3f}" in readme
    for name, said in (
        ("gvp", "GVP is right for {} of 915 test proteins,"),
        ("partoken", "ParToken for {},"),
    ):
        low, high = models[name]["accuracy_interval"]
        right = said.format(round(models[name]["accuracy"] * models[name]["n"]))
        assert f"{right} {models[name]['accuracy']:.3f} ({low:.3f} to {high:.3f})" in learning


def test_learning_quotes_enzyme_classes_and_the_published_settings_pretrained(contrasts):
    learning, guide = (
        " ".join((ROOT / name).read_text().split()) for name in (LEARNING, "docs/guide/train.md")
    )
    enzymes = contrasts["ec-class"][("partoken-transferred", "gvp-transferred")]
    scores = [signed(enzymes[score]) for score in ("accuracy", "macro_f1")]
    assert f"ParToken minus GVP is {scores[0]} in accuracy and {scores[1]} in macro-F1" in learning
    short = contrasts["short-chains"]
    gains = [
        signed(short[(f"{name}-published-pretrained", f"{name}-published")]["accuracy"])
        for name in ("gvp", "partoken")
    ]
    assert f"both gain accuracy as published, GVP {gains[0]} and ParToken {gains[1]}" in learning
    lead = short[("partoken-published-pretrained", "gvp-published-pretrained")]
    scores = [signed(lead[score]) for score in ("accuracy", "macro_f1")]
    assert f"ParToken's lead, {scores[0]} in accuracy and {scores[1]} in macro-F1, is not sig" in learning
    alone = short[("partoken-recommended", "partoken-published-pretrained")]
    assert f"while macro-F1 is, {signed(alone['macro_f1'])[:-1]};" in learning
    for score in ("accuracy", "macro_f1"):
        assert signed(alone[score]).replace(" (", ", ") in guide
    assert f"in {alone['seconds_ratio']:.2f} of the time" in guide


def test_the_preset_says_how_many_codes_are_in_use():
    tasks = read("learn", "summary.json")["tasks"].values()
    used = [models["partoken"]["codes_used_share_last"] for models in tasks if "partoken" in models]
    assert f"{100 * min(used):.0f} to {max(used):.0%} of them in use at the end" in (
        PRESETS["recommended"]["model.codebook.size"].bought
    )


def test_codes_lag_and_those_that_few_clusters_chose_come_back():
    for model in read("learn", "lagging_codes.json")["models"].values():
        perplexity = {kind: of["perplexity_share"] for kind, of in model["use"].items()}
        rare, never = (
            next(share for kind, share in perplexity.items() if kind.endswith(how))
            for how in ("re-seeded below 25%", "re-seeded if never chosen")
        )
        assert perplexity["of the model"] < never < rare
    runs = learn_tables.reseeded_runs(ROOT / "experiments" / "results" / "learn")
    assert sorted(runs) == ["1", "2"]
    without, with_it = (
        [" and ".join(f"{run[way][-1][name]:.0%}" for run in runs.values()) for name in LAST]
        for way in (0, 1)
    )
    learning = " ".join((ROOT / LEARNING).read_text().split())
    assert f"They end with {with_it[0]} of the codes in use, where it had been {without[0]}" in learning
    assert f"a perplexity of {with_it[1]} of the codebook, where it had been {without[1]}" in learning
    bought = PRESETS["recommended"]["dead_code_share"].bought
    assert f"perplexity at the end {with_it[1]}, not {without[1]}" in bought
    for without, with_it in runs.values():
        assert with_it[-1]["perplexity_share"] > without[-1]["perplexity_share"] + 0.1
        assert abs(with_it[-1]["accuracy"] - without[-1]["accuracy"]) < 0.01


@pytest.mark.parametrize("name", ["cath-architecture", "ec-class"])
def test_classifiers_of_the_package_read_clusters_not_codes(name):
    assert not load_model(name).config.model.codebook.classify_quantised
