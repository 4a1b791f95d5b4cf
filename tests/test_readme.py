"""The documents say what the committed results say, and what the README shows runs."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import demo, docs
from partoken_jax.training.metrics import hits, wilson

README = docs.ROOT / "README.md"


def test_documents_reports_and_figures_are_those_of_the_committed_results():
    assert docs.outdated() == [], "run `python -m experiments.docs`"


def test_a_changed_number_is_noticed():
    text = README.read_text()
    block = re.search(r"<!-- measured -->\n(.*?)<!-- end measured -->", text, re.DOTALL)
    assert block is not None
    tampered = text.replace(block[1], block[1].replace("0.", "9."))
    assert tampered != text
    assert docs.filled(tampered, docs.DOCUMENTS["README.md"]) == text


def test_a_document_without_its_block_is_refused():
    with pytest.raises(SystemExit, match="has no block <!-- measured -->"):
        docs.filled("nothing", {"measured": docs.measured})


def test_a_figure_of_other_data_is_noticed(tmp_path):
    """The digest of what a figure shows lies in the picture."""
    data = docs.step_medians()
    docs.figures.draw_comparison(data, tmp_path / "figure.png")
    assert docs.figures.digest_of(tmp_path / "figure.png") == docs.figures.digest(data)
    assert docs.figures.digest(data) != docs.figures.digest({**data, "gvp": {}})
    assert docs.figures.digest_of(tmp_path / "missing.png") is None


def test_the_documents_are_short():
    lengths = {name: len((docs.ROOT / name).read_text().splitlines()) for name in docs.DOCUMENTS}
    assert lengths["README.md"] <= 150
    assert lengths["docs/TIMING.md"] <= 130 and lengths["docs/COMPARISON.md"] <= 130


def test_no_cpu_ratio_stands_beside_the_published_one():
    """Where the published 4.0 is named, the text says that it is a GPU's and another experiment."""
    named = 0
    for path, text in docs.texts().items():
        for paragraph in re.split(r"\n\s*\n", text):
            if re.search(r"published[^.]*\b4\.0\b|\b4\.0\b[^.]*published", paragraph, re.DOTALL):
                named += 1
                assert "GPU" in paragraph and re.search(r"another\s+experiment", paragraph), path
    assert named == 3  # README, index and TIMING


def test_an_accuracy_of_the_demo_has_its_interval_and_is_no_win():
    reports = docs.read("demo", "results.json")["reports"]
    for scores in (reports[kind]["test"]["classification"] for kind in demo.NAMES):
        count, total = hits(scores), scores["proteins"]
        low, high = wilson(count, total)
        said = f"{count / total:.3f} ({count} of {total}; {low:.3f} to {high:.3f})"
        assert said in docs.accuracy() and low < count / total < high
    assert "too little to tell them apart" in demo.verdict(reports)
    apart = {
        kind: {"test": {"classification": {"proteins": 96, "confusion": [[count, 96 - count], [0, 0]]}}}
        for kind, count in (("gvp", 40), ("partoken", 87))
    }
    assert "do not overlap" in demo.verdict(apart)


def test_the_five_lines_print_a_protein_and_its_clusters():
    example = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    assert len([line for line in example[1].splitlines() if line and "import" not in line]) == 5
    result = subprocess.run([sys.executable, "-c", example[1]], capture_output=True, text=True, check=True)
    said, sequence, clusters = result.stdout.splitlines()
    shown = example[2].splitlines()
    assert said.split(",")[0] == shown[0].split(",")[0] and sequence == shown[1]
    assert len(clusters) == len(sequence) and set(clusters) == set(".12345")
    # What tests compile is less optimised, and rounding may move a residue.
    assert np.mean([one == other for one, other in zip(clusters, shown[2], strict=True)]) > 0.8


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *docs.DOCUMENTS])
def test_the_files_that_a_document_names_exist(name):
    path = docs.ROOT / name
    text = path.read_text()
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert [target for target in targets if not (path.parent / target).exists()] == []
    named = re.findall(r"`((?:experiments|docs|tests|partoken_jax)/[\w./*-]+)`", text)
    assert [target for target in named if not list(docs.ROOT.glob(target.rstrip("/")))] == []


def test_every_result_has_its_report():
    for folder in ("timing", "comparison"):
        for path in (docs.RESULTS / folder).glob("*.json"):
            assert Path(path.with_suffix(".md")).is_file()
