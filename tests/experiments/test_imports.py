"""Scripts and library import one another without circles, and nothing edits the path of imports."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules() -> dict[str, Path]:
    files = [path for folder in ("experiments", "partoken_jax") for path in (ROOT / folder).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}


def imported(path: Path, known: set[str]) -> set[str]:
    """Modules of ours that a file imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names & known


def order(graph: dict[str, set[str]]) -> list[str]:
    return list(TopologicalSorter(graph).static_order())


def test_no_module_imports_itself_through_others():
    files = modules()
    assert {"experiments.compare.protocol", "experiments.compare.jax_worker"} <= set(files)
    graph = {name: imported(path, set(files)) for name, path in files.items()}
    order(graph)
    with pytest.raises(CycleError):
        order({**graph, "experiments.compare.protocol": {"experiments.compare.worker"}})


def test_the_path_of_imports_is_nobodys_to_edit():
    users = [
        str(path.relative_to(ROOT))
        for folder in ("experiments", "partoken_jax", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == "path"
        and isinstance(node.value, ast.Name)
        and node.value.id == "sys"
    ]
    assert users == []
