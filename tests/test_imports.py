"""Imports run one way, in the library and among the experiments, and never in a circle."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("partoken_jax", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imported(name: str) -> Iterator[str]:
    """The modules of ours that a module imports by name, anywhere in it."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` names a module, `from module import function` does not.
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [full if full in FILES else node.module for full in inner]
        else:
            continue
        yield from (module for module in found if module in FILES and module != name)


GRAPH = {name: set(imported(name)) for name in FILES}


def circle_from(start: str) -> list[str]:
    """A path of imports that leads from a module back to itself; empty if there is none."""
    came_from: dict[str, str] = {}
    frontier = [start]
    while frontier:
        here = frontier.pop()
        for there in GRAPH[here]:
            if there == start:
                path = [here]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return [*reversed(path), start]
            if there not in came_from:
                came_from[there] = here
                frontier.append(there)
    return []


def test_the_graph_is_not_empty():
    assert "partoken_jax.graphs.segments" in GRAPH["partoken_jax.models"]
    assert "partoken_jax.training.objective" in GRAPH["experiments.parity.jax_models"]


@pytest.mark.parametrize("name", FILES)
def test_no_circle(name):
    assert circle_from(name) == []


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("partoken_jax")])
def test_the_library_knows_no_experiment(name):
    assert not [module for module in GRAPH[name] if module.startswith("experiments")]
    assert not re.search(r"""["']experiments\.""", FILES[name].read_text()), (
        "imported by its name in a string"
    )
