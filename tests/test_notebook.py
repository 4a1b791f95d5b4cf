"""The notebooks: each runs, at a size that takes seconds, and its committed outputs are complete."""

import json
import re
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))

# What takes the place of the cell tagged "parameters" where the notebook is run here.
SMALL = {
    "codebook": "PROTEINS = 12",
    "own_data": 'SIZES, EPOCHS = {"train": 8, "val": 4, "test": 4}, 1\n'
    'MODEL = "--preset small --model.num-layers 1 --model.codebook.size 8"',
    "timing": 'BATCH, RESIDUES, REPEATS, LAYERS, PASSES = 2, 30, 5, 1, ("forward",)',
}

# Cells that are added, of which each prints what the notebook computed.
PROBE = {
    "quickstart": """
ranks = annotation.rank_of_residue.tolist()
written = [path.name for path in Path("annotation").rglob("*")]
said = {"title": annotation.title, "residues": len(protein), "ranks": ranks, "written": written}
""",
    "own_data": """
run = json.loads((OWN / "run" / "report.json").read_text())
tested = run["test"]["classification"]["proteins"]
said = {"tested": tested, "annotated": len(rows), "classes": sorted({row[1] for row in rows})}
""",
    "codebook": """
said = {"clusters": found.sizes["count"], "of_tokens": sum(map(len, of_token.values())), "shown": shown,
        "ratios": [pair.ratio for pair in found.enrichment]}
""",
    "timing": """
said = {"seconds": [timing.seconds for timing in timings.values()], "variants": programs_shown}
""",
}


def executed(name, directory):
    """A notebook after a run beside the data and results of the repository, and what its probe says."""
    here = directory / "experiments" / "notebooks"
    here.mkdir(parents=True)
    for folder in ("data", "results"):
        (directory / "experiments" / folder).symlink_to(ROOT / "experiments" / folder)
    notebook = nbformat.read(ROOT / "experiments" / "notebooks" / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
        if name in SMALL and cell.metadata.get("tags") == ["parameters"]:
            cell.source = SMALL[name]
    notebook.cells.append(new_code_cell(f"import json\n{PROBE[name]}\nprint(json.dumps(said))"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_PLATFORMS", "cpu")
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(here)}})
        client.execute()
    return notebook, json.loads(notebook.cells[-1].outputs[0].text)


@pytest.mark.slow
def test_quickstart(tmp_path):
    notebook, said = executed("quickstart", tmp_path)
    assert images(notebook) == 3
    assert said["title"] == "3.10 (roll)" and len(said["ranks"]) == said["residues"] == 76
    assert set(said["ranks"]) == {0, 1, 2, 3, 4, 5}
    assert {"clusters.csv", "index.html", "2k39_A.html", "2k39_A.cif"} <= set(said["written"])


@pytest.mark.slow
def test_own_data(tmp_path):
    notebook, said = executed("own_data", tmp_path)
    assert images(notebook) == 1
    assert said["tested"] == said["annotated"] == 4
    assert set(said["classes"]) <= {"mainly alpha", "mainly beta", "alpha beta", "few secondary structures"}


@pytest.mark.slow
def test_codebook(tmp_path):
    notebook, said = executed("codebook", tmp_path)
    assert images(notebook) == 3
    assert said["clusters"] == said["of_tokens"] > 12
    assert len(said["shown"]) == 3 and min(said["ratios"]) >= 0


@pytest.mark.slow
def test_timing(tmp_path):
    notebook, said = executed("timing", tmp_path)
    assert images(notebook) == 2
    assert [len(seconds) for seconds in said["seconds"]] == [5, 5]  # both models, equally often
    assert min(min(seconds) for seconds in said["seconds"]) > 0
    assert "PyTorch, the authors' code" in said["variants"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_cells_are_few_and_explained_and_outputs_whole(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(notebook.cells) < 25 and path.stat().st_size < 200_000
    kinds = ["code", *(cell.cell_type for cell in notebook.cells)]
    assert ("code", "code") not in set(pairwise(kinds))  # text before each
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and images(notebook)
    assert not [one for one in outputs if one.output_type == "error" or one.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_no_machine_is_named_and_every_link_leads_somewhere(path):
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            texts.append(output.get("text", ""))
            texts += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    assert not re.findall(r"(?:^|[\s'\"(=])(/(?:home|root|tmp|work|Users)/\S*)", "\n".join(texts))
    links = [link for cell in notebook.cells for link in re.findall(r"\]\(([^)#]+)", cell.source)]
    assert all((path.parent / link).exists() for link in links), links


def images(notebook) -> int:
    return sum(
        "image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])
    )
