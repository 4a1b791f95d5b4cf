"""README.md says what the committed results say, and what it shows runs."""

import re
import subprocess
import sys
from pathlib import Path

from experiments import comparison_docs, timing_docs
from experiments.readme import filled

README = Path(__file__).parents[1] / "README.md"


def test_measured_tables_are_those_of_the_committed_results():
    text = README.read_text()
    assert filled(text) == text, "run `python -m experiments.readme`"


def test_the_timing_document_is_that_of_the_committed_results():
    text = timing_docs.DOCUMENT.read_text()
    assert filled(text, timing_docs.BLOCKS) == text, "run `python -m experiments.timing_docs`"


def test_the_comparison_document_is_that_of_the_committed_results():
    text = comparison_docs.DOCUMENT.read_text()
    assert filled(text, comparison_docs.BLOCKS) == text, "run `python -m experiments.comparison_docs`"


def test_a_changed_number_is_noticed():
    text = README.read_text()
    block = re.search(r"<!-- demo -->\n(.*?)\n<!-- end demo -->", text, re.DOTALL)
    assert block is not None
    tampered = text.replace(block[1], block[1].replace("0.", "9."))
    assert tampered != text
    assert filled(tampered) != tampered


def test_the_five_lines_of_use_run_and_the_files_it_names_exist():
    text = README.read_text()
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    shown = (
        example[1] + "print(out.logits.shape, out.cluster_of_residue.shape[0] == graph.nodes.mask.shape[0])"
    )
    result = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[0] == "(8, 4) True"
    missing = [
        target
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text)
        if not (README.parent / target).exists()
    ]
    assert not missing
