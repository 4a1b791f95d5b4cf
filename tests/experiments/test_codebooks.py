"""The comparison of codebooks, on made-up clusters of three classes."""

import numpy as np
import pytest

from experiments import codebooks
from experiments.codebooks import Clusters, Variant, probe, token_counts
from experiments.moving_clusters import train_moving
from partoken_jax.config import CodebookConfig, ModelConfig, TrainConfig
from partoken_jax.training.trained import TrainedModel

WIDTH, CLASSES = 6, 3


def made(proteins: int, seed: int) -> Clusters:
    """Two or three clusters a protein, whose first channel says much of its class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(CLASSES, size=proteins)
    features = rng.random((proteins, 3, WIDTH)).astype(np.float32)
    features[..., 0] += 2 * labels[:, None]
    sizes = np.array([5, 3, 2]) * (rng.random((proteins, 3)) < [1, 1, 0.5])
    return Clusters(features * (sizes > 0)[..., None], sizes, labels)


def test_codebooks_are_compared(monkeypatch):
    clusters = {"train": made(160, 0), "val": made(60, 1)}
    variants = {"grid": Variant(CodebookConfig(size=9, quantiser="fsq", levels=3, dimension=2))}
    monkeypatch.setattr(codebooks, "clusters_of", lambda source, path, limit: (clusters, {"task": "made-up"}))
    monkeypatch.setattr(codebooks, "VARIANTS", variants)
    result = codebooks.compare("nowhere", None, seeds=2, limit=1)
    assert result["clusters"] == {split: int(found.mask.sum()) for split, found in clusters.items()}
    assert len(result["variants"]["grid"]) == 2
    for row in result["variants"]["grid"]:
        assert 0 < row["perplexity_share"] <= row["codes_used_share"] <= 1
        assert 0 < row["moving_perplexity_share"] <= row["moving_codes_used_share"] <= 1
        assert 0 < row["quantisation_error"] < 1 and 0 < row["moving_accuracy"] < 1
        assert min(row["accuracy"], row["accuracy_tokens"]) > 0.8
    said = codebooks.table(result)
    assert result["accuracy_of_clusters"] > 0.8 and said.splitlines()[-1].count("±") == 8


def test_a_codebook_empties_while_its_clusters_move_unless_it_is_reseeded():
    clusters = made(320, 0)
    features = 0.02 * clusters.features  # so that a layer that learns moves them by more than they differ
    shares = []
    for reseed in (False, True):
        config = CodebookConfig(size=64, decay=0.9)
        model = train_moving(features, clusters.mask, clusters.labels, CLASSES, config, reseed=reseed, seed=0)
        _, _, out, _ = model(features, clusters.mask, False)
        shares.append(len(np.unique(out.codes[clusters.mask])) / 64)
    assert shares[0] < 0.5 < 0.7 < shares[1], shares


def test_probes_tell_what_is_there_and_what_is_not():
    rng = np.random.default_rng(0)
    labels = {"train": rng.integers(2, size=200), "val": rng.integers(2, size=100)}
    said = {
        split: np.stack([rng.random(len(y)), y], axis=1).astype(np.float32) for split, y in labels.items()
    }
    assert probe(said["train"], said["val"], labels) == 1
    assert probe(said["train"][:, :1], said["val"][:, :1], labels) < 0.7


def test_tokens_are_counted_per_protein():
    counts = token_counts(np.array([[2, 2, -1], [-1, 0, 1]]), 4)
    np.testing.assert_array_equal(counts, [[0, 0, 2, 0], [1, 1, 0, 0]])


def test_the_baseline_has_no_clusters(monkeypatch):
    baseline = TrainedModel(
        "", TrainConfig(model=ModelConfig(kind="gvp")), (), *[None] * 3, 1.0, False, 1, ""
    )
    monkeypatch.setattr(codebooks, "load_model", lambda _: baseline)
    with pytest.raises(ValueError, match="which has no clusters; give a ParToken"):
        codebooks.clusters_of("mine", None, 3)
