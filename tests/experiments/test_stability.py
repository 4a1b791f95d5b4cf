"""The experiment on stability: NMR entries are read, and several models compared."""

import numpy as np

from experiments import stability
from partoken_jax.training.trained import Prediction


class Fake:
    """A model whose clusters are those of its seed."""

    def __init__(self, seed: int):
        self.seed = seed

    def predict(self, proteins):
        rng, none = np.random.default_rng(self.seed), np.zeros(0)
        return [
            Prediction(p.name, "", none, none, rng.integers(-1, 3, len(p)), none, none, none)
            for p in proteins
        ]


def test_every_model_of_an_nmr_entry_is_read():
    found = {path.name: stability.nmr_models(path) for path in stability.NMR.glob("*.pdb.gz")}
    assert {name: len(models) for name, models in found.items()} == {
        "1lcd.pdb.gz": 3, "2juy.pdb.gz": 24, "2k39.pdb.gz": 15, "2ofg.pdb.gz": 3,
    }  # fmt: skip
    for models in found.values():
        assert len({protein.sequence for protein in models}) == 1 and models[0].complete.all()
        apart = np.linalg.norm(np.diff(models[0].backbone[:, 1], axis=0), axis=1)
        assert 3 < apart.min() < apart.max() < 4.2  # Å between neighbours in the chain


def test_training_seeds_are_compared_where_there_are_several(chains):
    assert stability.over_seeds([Fake(0)], chains) is None
    same = stability.over_seeds([Fake(0), Fake(0)], chains)
    assert same["adjusted_rand"] == (1, 1, 1) and same["proteins"] == len(chains)
    other = stability.over_seeds([Fake(0), Fake(1), Fake(2)], chains)
    assert other["models"] == 3 and abs(other["adjusted_rand"].value) < 0.1
