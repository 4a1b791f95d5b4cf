"""Library and scripts import one another in one direction, never in a circle, and nothing edits the path."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("partoken_jax", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, at the top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` names a module, `from module import function` does not.
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner if inner <= set(FILES) else {node.module, *inner}
    return names & set(FILES)


GRAPH = {name: imported(path) - {name} for name, path in FILES.items()}


def test_no_module_imports_itself_through_others():
    assert "partoken_jax.graphs.segments" in GRAPH["partoken_jax.models"]
    assert "partoken_jax.training.objective" in GRAPH["experiments.parity.jax_models"]
    TopologicalSorter(GRAPH).prepare()
    with pytest.raises(CycleError):
        planted = GRAPH["partoken_jax.graphs.segments"] | {"partoken_jax.models"}
        TopologicalSorter({**GRAPH, "partoken_jax.graphs.segments": planted}).prepare()


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("partoken_jax")])
def test_the_library_knows_no_experiment(name):
    assert not [module for module in GRAPH[name] if module.startswith("experiments")]
    assert not re.search(r"""["']experiments\.""", FILES[name].read_text()), "named in a string"


def test_the_path_of_imports_is_nobodys_to_edit():
    users = [
        str(path.relative_to(ROOT))
        for folder in ("experiments", "partoken_jax", "tests")
        for path in (ROOT / folder).rglob("*.py")
        if path != Path(__file__)
        and any(
            isinstance(node, ast.Attribute)
            and node.attr == "path"
            and isinstance(node.value, ast.Name)
            and node.value.id == "sys"
            for node in ast.walk(ast.parse(path.read_text()))
        )
    ]
    assert users == []
