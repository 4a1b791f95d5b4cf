"""Colours: told apart by people who see fewer of them, and the same from every function."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from partoken_jax.interpret import colours

# Linear RGB as people without the cones for red (protan) or green (deutan) see it (Viénot et al. 1999).
DICHROMATS = {
    "protan": [[0.1124, 0.8876, 0.0], [0.1124, 0.8876, 0.0], [0.004, -0.004, 1.0]],
    "deutan": [[0.2928, 0.7072, 0.0], [0.2928, 0.7072, 0.0], [-0.0223, 0.0223, 1.0]],
}


def luminance(colour: str) -> float:
    return float(linear(colour) @ [0.2126, 0.7152, 0.0722])


def linear(colour: str) -> np.ndarray:
    return colours.rgb(colour) ** 2.2


@pytest.mark.parametrize("kind", DICHROMATS)
def test_colours_of_clusters_differ_for_who_sees_fewer(kind):
    seen = [np.clip(DICHROMATS[kind] @ linear(colour), 0, 1) ** (1 / 2.2) for colour in colours.CLUSTERS]
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 0.12


def test_importance_becomes_lighter():
    shares = np.linspace(0, 1, 30)
    assert (np.diff([luminance(colours.of_share(share)) for share in shares]) > 0).all()
    assert colours.of_share(-1) == colours.IMPORTANCES[0] and colours.of_share(2) == colours.IMPORTANCES[-1]


def test_no_cluster_has_a_colour_of_its_own():
    assert colours.of_rank(0) == colours.NONE["light"]
    assert {colours.of_rank(rank) for rank in range(1, 8)} == set(colours.CLUSTERS)
    assert colours.of_rank(8) == colours.of_rank(1)


def test_confidences_have_the_colours_of_the_alphafold_database():
    found = [colours.of_plddt(value) for value in (95, 90, 89.9, 70, 60, 49, 0)]
    blue, light, yellow, orange = (colour for _, colour in colours.PLDDT)
    assert found == [blue, blue, light, light, yellow, orange, orange]


def test_neighbouring_tokens_differ():
    found = [colours.rgb(colours.of_token(token)) for token in range(64)]
    assert min(np.abs(a - b).sum() for a, b in pairwise(found)) > 0.3
