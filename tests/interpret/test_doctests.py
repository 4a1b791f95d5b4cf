"""The examples in docstrings print what they say."""

import doctest

import pytest

from partoken_jax.interpret import annotate


@pytest.mark.slow
def test_examples():
    result = doctest.testmod(annotate)
    assert result.attempted > 3 and result.failed == 0
