"""The quick-start notebook: it runs, what it trains learns, and its committed outputs are complete."""

import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

pytestmark = pytest.mark.slow


NOTEBOOK = Path(__file__).parents[1] / "experiments" / "notebooks" / "quickstart.ipynb"

# Appended to the copy that is executed: what the notebook computed, as numbers.
PROBE = """
import json

print(json.dumps({
    "losses": losses.tolist(),
    "cross_entropy": cross_entropy.tolist(),
    "steps_per_epoch": len(loader),
    "programs": compilations(train_step),
    "sizes": out.cluster_sizes[shown].tolist(),
    "milliseconds": milliseconds,
}))
"""


def images(notebook) -> int:
    return sum(
        "image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])
    )


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a run in an empty directory, and the numbers of its probe."""
    directory = tmp_path_factory.mktemp("notebook")
    copy = directory / NOTEBOOK.name
    shutil.copy(NOTEBOOK, copy)
    notebook = nbformat.read(copy, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    notebook.cells.append(new_code_cell(PROBE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(directory)}}
        ).execute()
    return notebook, json.loads(notebook.cells[-1].outputs[0].text)


def test_every_picture_is_drawn(executed):
    notebook, _ = executed
    assert images(notebook) >= 3


def test_training_lowers_the_loss_in_one_compilation(executed):
    _, numbers = executed
    losses, cross_entropy = np.array(numbers["losses"]), np.array(numbers["cross_entropy"])
    steps = numbers["steps_per_epoch"]
    assert np.isfinite(losses).all()
    assert cross_entropy[-steps:].mean() < cross_entropy[:steps].mean()
    assert cross_entropy[-steps:].mean() < np.log(4)  # better than guessing among the four classes
    assert numbers["programs"] == 1


def test_the_clusters_shown_have_grown_beyond_their_seeds(executed):
    _, numbers = executed
    assert len(numbers["sizes"]) == 2
    assert all(max(sizes) > 1 for sizes in numbers["sizes"])


def test_both_models_are_timed_equally_often(executed):
    _, numbers = executed
    times = numbers["milliseconds"]
    assert set(times) == {"GVP", "ParToken"}
    assert len(times["GVP"]) == len(times["ParToken"]) >= 5
    assert min(times["GVP"] + times["ParToken"]) > 0


def test_the_committed_outputs_are_whole_and_name_no_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [
        output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"
    ]
    assert images(notebook) >= 3
    texts = [cell.source for cell in notebook.cells] + [
        output.get("text", "")
        + "".join(v for k, v in output.get("data", {}).items() if k.startswith("text/"))
        for output in outputs
    ]
    paths = [
        match
        for text in texts
        for match in re.findall(r"(?:^|[\s'\"(=])(/(?:home|root|tmp|work|Users)/\S*)", text)
    ]
    assert not paths
    assert NOTEBOOK.stat().st_size < 700_000
