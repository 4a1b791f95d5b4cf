"""Real proteins for every test, loaded once per worker."""

import os

# Before jax is imported: a test must not depend on what an earlier one left on disk.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

import jax
import pytest

from partoken_jax.proteins import Protein, load_dataset
from tests.helpers import crop


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Most of the tests' time is compilation, and what they prove does not depend on how well XLA optimises.
    The golden vectors, and what reads the optimised program, get the real thing. A hook, not a fixture: it
    comes before the session's fixtures, whose programs the tests compare with their own."""
    real = item.nodeid.startswith(("tests/test_parity.py", "tests/test_torch_peer.py", "tests/timing/"))
    jax.config.update("jax_disable_most_optimizations", not real)


@pytest.fixture(scope="session")
def chains() -> list[Protein]:
    """Eight real chains of 12 to 30 residues without missing atoms."""
    dataset = load_dataset(task="cath-class", split="val")
    complete = [protein for protein in dataset.proteins if protein.complete.all() and len(protein) >= 60]
    lengths = (24, 30, 12, 18, 21, 15, 27, 13)
    return [crop(protein, 10, length) for protein, length in zip(complete, lengths, strict=False)]
