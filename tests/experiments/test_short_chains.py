"""A file of short chains: the same chains, labels and splits, without the long ones."""

import numpy as np

from experiments.short_chains import shortened
from partoken_jax.proteins import load_dataset
from partoken_jax.proteins.dataset import EMBEDDED


def test_short_chains_are_as_they_were(tmp_path):
    with np.load(EMBEDDED) as stored:
        np.savez(tmp_path / "short.npz", **shortened(dict(stored), 60))
    kept = load_dataset(tmp_path / "short.npz", task="cath-class", split="train")
    whole = load_dataset(task="cath-class", split="train")
    want = {protein.name: protein for protein in whole.proteins if len(protein) <= 60}
    assert [protein.name for protein in kept.proteins] == list(want) and len(want) > 5
    for protein in kept.proteins:
        np.testing.assert_array_equal(protein.backbone, want[protein.name].backbone)
        assert (protein.sequence, protein.label) == (want[protein.name].sequence, want[protein.name].label)
