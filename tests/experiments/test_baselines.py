"""The forest and its features: what they see does not depend on how a chain lies in space, and they learn."""

import json
import sys

import numpy as np
import pytest

from experiments import baselines, paired
from experiments.backbone_features import (
    HELIX,
    STRAND,
    backbone_features,
    composition,
    contact_order,
    dihedral,
    matches,
)
from partoken_jax.config import ConfigError
from partoken_jax.proteins import load_dataset
from partoken_jax.training.predictions import StoredPredictions
from tests.helpers import crop, moved, random_rotation, without_atoms


@pytest.fixture(scope="module")
def chains():
    dataset = load_dataset(task="cath-class", split="test")
    return [dataset[i] for i in range(4)]


def test_features_do_not_change_when_a_chain_is_moved(chains):
    for i, chain in enumerate(chains):
        turned = moved(chain, random_rotation(np.random.default_rng(i)), shift=7.0)
        one, other = backbone_features(chain), backbone_features(turned)
        # A residue on the edge of a bin may fall into the next one.
        assert np.mean(np.isclose(one, other, rtol=1e-3, atol=1e-3)) > 0.98
        np.testing.assert_array_equal(composition(chain), composition(turned))


@pytest.mark.parametrize(
    ("rise", "turn", "radius", "found"), [(1.5, 100, 2.3, (1, 0)), (3.3, 180, 0.9, (0, 1))], ids=["α", "β"]
)
def test_an_ideal_helix_and_an_ideal_strand_are_seen(rise, turn, radius, found):
    """CA atoms on a spiral: rise in Å and turn in degrees per residue, radius in Å."""
    number = np.arange(20)
    around = radius * np.stack([np.cos(number * np.deg2rad(turn)), np.sin(number * np.deg2rad(turn))], axis=1)
    ca = np.concatenate([around, rise * number[:, None]], axis=1)
    distance = np.linalg.norm(ca[:, None] - ca[None], axis=-1)
    assert tuple(matches(distance, number, rule).mean() for rule in (HELIX, STRAND)) == found


def test_dihedrals_and_contact_order_of_known_points():
    points = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]])[:, None]
    assert dihedral(*points)[0] == pytest.approx(np.pi / 2)
    assert dihedral(*(points * [1, -1, 1]))[0] == pytest.approx(-np.pi / 2)
    # Residues 0 and 4 touch, and nobody else who is three or more apart: 4 / 5 of the chain.
    distance = np.full((5, 5), 20.0)
    distance[0, 4] = distance[4, 0] = 5.0
    assert contact_order(distance, np.arange(5)) == pytest.approx(0.8)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_short_and_incomplete_chains_have_features(chains, length):
    whole = backbone_features(chains[0])
    for chain in (crop(chains[0], 0, length), without_atoms(crop(chains[0], 0, length + 2), (0, length))):
        features = backbone_features(chain)
        assert features.shape == whole.shape and np.isfinite(features).all()


def test_the_forest_learns_from_the_training_split(tmp_path, monkeypatch):
    """On 160 chains of the package: better than the most frequent class, and written as it is read."""
    pytest.importorskip("sklearn", reason="the extra `baselines` is not installed")

    def few(*args, **options):
        found = baselines_load(*args, **options)
        return {split: d.take(np.arange(160 if split == "train" else 60)) for split, d in found.items()}

    baselines_load = baselines.load_splits
    monkeypatch.setattr(baselines, "load_splits", few)
    monkeypatch.setattr(baselines, "TASKS", ("cath-class",))
    monkeypatch.setattr(baselines, "SCHEMES", ("identity",))
    out = tmp_path / "forest.json"
    monkeypatch.setattr(sys, "argv", ["baselines", "--json", str(out), "--trees", "30", "--seeds", "2"])
    baselines.main()
    rows = json.loads(out.read_text())["rows"]
    assert [(r["split_scheme"], r["features"]) for r in rows] == [
        ("identity", what) for what in ("backbone", "backbone and composition")
    ]
    for row in rows:
        assert (row["n"], row["seeds"], len(row["per_seed"])) == (60, 2, 2)
        assert row["accuracy"] > row["majority_share"] + 0.1
        assert row["accuracy_interval"][0] < row["accuracy"] < row["accuracy_interval"][1]
        assert row["per_seed"][0] != row["per_seed"][1]
    text = out.with_suffix(".md").read_text()
    assert f"{rows[0]['accuracy']:.3f}" in text and "## cath-class, identity, backbone, seed 0" in text


def test_the_interval_of_a_mean_is_of_all_seeds(monkeypatch):
    truth, names = np.arange(60) % 3, np.arange(60).astype(str)
    good, bad = (
        StoredPredictions(
            names,
            truth,
            np.where(np.arange(60) % step, truth, (truth + 1) % 3),
            np.zeros((0, 0)),
            np.array(["a", "b", "c"]),
        )
        for step in (10, 2)
    )
    schemes = []
    monkeypatch.setattr(
        paired, "groups", lambda names, scheme: schemes.append(scheme) or np.arange(len(names))
    )
    found = baselines.row("t", "superfamily", False, [good, bad])
    assert set(schemes) == {"superfamily"}
    assert (found["accuracy"], found["n"], found["groups"]) == (pytest.approx(0.7), 60, 60)
    assert [seed["accuracy"] for seed in found["per_seed"]] == pytest.approx([0.9, 0.5])
    low, high = found["accuracy_interval"]
    assert 0.5 < low < 0.7 < high < 0.9


def test_without_scikit_learn_one_sentence_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(ConfigError, match=r"needs scikit-learn, which is not installed; pip install"):
        next(baselines.measure(None, 1, 1))
