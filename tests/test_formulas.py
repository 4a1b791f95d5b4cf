"""The index of docs/REFERENCE.md says what the code says, and no formula is missing from it."""

import re
from pathlib import Path

import pytest

from experiments.formulas import formula_index, formulas

REFERENCE = Path(__file__).parents[1] / "docs" / "REFERENCE.md"
LONGEST = 30
"""Lines of a function that computes one formula."""

EXPECTED = {
    (1, None): {"temperature τ"},
    (2, None): {
        *("backbone dihedrals", "dihedral angle", "directions along the chain", "side-chain direction"),
        *("nearest neighbours", "distance Gaussians", "positional features", "edge vector"),
    },
    (3, None): {
        *("norm", "tuple layer norm", "vector layer norm", "GVP", "default gate", "vector gate", "MLP"),
        *("message and mean", "layer", "dropout of vector channels", "encoders", "output projection"),
        *("mean pooling", "max pooling", "sum and attention pooling", "attention pooling weights"),
    },
    (4, 1): {"enough assigned"},
    (4, 2): {"seed logits", "Gumbel noise", "seed choice", "straight-through one-hot"},
    (4, 3): {"candidates"},
    (4, 4): {"description φ"},
    (4, 5): {"feature of the seed", "link share z", "score", "threshold θ", "joining probability"},
    (4, 6): {"trimming"},
    (4, 7): {"qualifying", "joining"},
    (4, 8): {"soft mean", "straight-through mean", "expected size μ", "cardinality term"},
    (4, 9): {"context update"},
    (5, None): {
        *("nearest code", "straight-through code", "VQ loss", "moving averages of the codes"),
        *("usage", "perplexity", "entropy loss", "k-means", "first codes"),
        *("whitened clusters", "cell of the grid", "rotated code"),
        *("soft assignment", "log of absence", "presence", "coverage loss"),
        *("attention weights", "attended clusters", "importance", "gate β", "fused vector", "total loss"),
        *("hidden residues", "residue types to tell", "recovery and perplexity"),
    },
}


def test_the_index_in_the_document_is_current():
    text = REFERENCE.read_text(encoding="utf-8")
    block = re.search(r"<!-- formulas -->\n(.*?)\n<!-- end formulas -->", text, re.DOTALL)
    assert block and block[1].strip() == formula_index()


@pytest.mark.parametrize("section, step", EXPECTED, ids=str)
def test_every_formula_has_a_function(section, step):
    named = {formula.name for formula in formulas() if (formula.section, formula.step) == (section, step)}
    assert EXPECTED[section, step] <= named


def test_a_formula_has_one_short_function():
    found = formulas()
    keys = [(formula.section, formula.step, formula.name) for formula in found]
    assert len(set(keys)) == len(keys)
    assert {formula.where: formula.lines for formula in found if not 0 < formula.lines <= LONGEST} == {}


def test_a_reference_in_a_docstring_is_read(tmp_path):
    source = '''
class Head:
    def apply(self, x):
        """Doubles.

        REFERENCE.md section 4, step 5, score.
        """
        y = x
        return 2 * y

def other():
    """REFERENCE.md section 4 is mentioned only."""
'''
    (tmp_path / "head.py").write_text(source, encoding="utf-8")
    (formula,) = formulas(tmp_path)
    assert formula.where == "head.py:Head.apply"
    assert (formula.section, formula.step, formula.name, formula.lines) == (4, 5, "score", 2)
