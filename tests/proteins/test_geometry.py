"""Coordinates that cannot be those of a protein in Å are told by the median of a chain's CA distances."""

import dataclasses

import numpy as np
import pytest

from partoken_jax.proteins.geometry import CLOSEST, FARTHEST, coordinate_fault, implausible


@pytest.mark.parametrize("seed", range(20))
def test_the_chain_found_is_the_first_whose_median_is_out_of_bounds(seed):
    rng = np.random.default_rng(seed)
    lengths = 2 * rng.integers(1, 8, 30)  # an odd number of distances, so that one of them is the median
    scales = rng.choice([0.9, 1.1, 3.8, 9, 11], lengths.size, p=[0.04, 0.1, 0.72, 0.1, 0.04])
    chains = [
        rng.lognormal(np.log(scale), 0.3, length) for scale, length in zip(scales, lengths, strict=True)
    ]
    for chain in chains:
        chain[1:3] = np.nan if len(chain) > 6 and rng.random() < 0.5 else chain[1:3]
    medians = [np.nanmedian(chain[1:]) if len(chain) > 3 else 3.8 for chain in chains]
    wrong = [(i, median) for i, median in enumerate(medians) if not CLOSEST <= median <= FARTHEST]
    found = implausible(np.concatenate(chains), lengths)
    assert found == (pytest.approx(wrong[0]) if wrong else None)


def test_gaps_do_not_make_a_chain_implausible():
    distances = np.full(20, 3.8)
    distances[[3, 7, 11]] = 60, 25, np.nan
    assert implausible(distances, np.array([20])) is None
    assert implausible(np.full(20, 38.0), np.array([12, 8])) == (0, 38.0)
    assert implausible(np.full(3, 38.0), np.array([3])) is None  # two distances say nothing


def test_coordinates_that_cannot_be_right_are_told(chains):
    def scaled(factor):
        return coordinate_fault(dataclasses.replace(chains[0], backbone=chains[0].backbone * factor))

    assert scaled(1) is None
    assert "0.379 Å apart (median), but 3.8 in a protein" in scaled(0.1)
    assert "37.9 Å apart" in scaled(10)
    assert scaled(0) == "all its CA atoms are in one place"
    backbone = chains[0].backbone.copy()
    backbone[:, 3][1:] = np.nan  # one residue that is whole says nothing
    assert coordinate_fault(dataclasses.replace(chains[0], backbone=0.1 * backbone)) is None
