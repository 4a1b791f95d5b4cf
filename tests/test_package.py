"""The package as a whole: its public names, the direction of its imports, and what it asks of jraph."""

import ast
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest

import partoken_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "partoken_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
# A room may import from itself and from those before it; config is shared.
ROOMS = (
    *(
        "version",
        "files",
        "settings",
        "model_config",
        "config",
        "timing_config",
        "presets",
        "tables",
        "progress",
        "proteins",
        "graphs",
        "prepare",
        "nn",
        "parameters",
        "models",
        "training",
        "timing",
        "convert",
        "pretrained",
        "interpret",
    ),
    "cli",
)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            if node.module == "partoken_jax":
                names |= {f"partoken_jax.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("name", partoken_jax.__all__)
def test_public_names_are_documented(name):
    thing = getattr(partoken_jax, name)
    assert inspect.getdoc(thing) and thing.__doc__ is not None
    # Dataclasses and named tuples write a signature where there is no docstring.
    assert not thing.__doc__.startswith(f"{name}("), f"{name} has no docstring of its own"


@pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES])
def test_imports_run_one_way(path):
    if path == PACKAGE / "__init__.py":
        return
    own = room(path)
    assert own in ROOMS, f"{path}: give the new room its place in ROOMS"
    for name in imports(path):
        if name.startswith("partoken_jax."):
            assert ROOMS.index(name.split(".")[1]) <= ROOMS.index(own), f"{own} imports {name}"
        assert name.split(".")[0] not in ("experiments", "tests"), f"{own} imports {name}"


def test_proteins_need_no_jax():
    files = [path for path in FILES if room(path) == "proteins"]
    assert len(files) > 3
    for path in files:
        foreign = {name.split(".")[0] for name in imports(path)} & {"jax", "jaxlib", "flax", "jraph", "optax"}
        assert not foreign, path


def test_torch_is_imported_where_its_files_are_read_and_nowhere_else():
    users = [
        path for path in FILES if {name.split(".")[0] for name in imports(path)} & {"torch", "safetensors"}
    ]
    assert users == [PACKAGE / "convert" / "files.py"]
    at_the_top = {
        name
        for node in ast.parse(users[0].read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
    }
    assert "json" in at_the_top and not at_the_top & {"torch", "safetensors"}


def test_modules_have_docstrings():
    assert [path.name for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_jraph_works_on_this_jax():
    """Of jraph we use one class, as a pytree that goes through compilation and differentiation."""
    graph = jraph.GraphsTuple(
        nodes={"s": jnp.arange(4.0)},
        edges=None,
        globals=(jnp.zeros(2),),
        senders=jnp.array([0, 1]),
        receivers=jnp.array([1, 2]),
        n_node=jnp.array([3, 1]),
        n_edge=jnp.array([2, 0]),
    )
    assert len(jax.tree.leaves(graph)) == 6

    @jax.jit
    def doubled(graph):
        return graph._replace(nodes=jax.tree.map(lambda x: 2 * x, graph.nodes))

    out = doubled(graph)
    assert isinstance(out, jraph.GraphsTuple) and out.edges is None
    np.testing.assert_array_equal(out.nodes["s"], [0, 2, 4, 6])
    assert jax.tree.structure(out) == jax.tree.structure(graph)
    gradient = jax.grad(lambda s: jnp.sum(doubled(graph._replace(nodes={"s": s})).nodes["s"][graph.senders]))
    np.testing.assert_array_equal(gradient(graph.nodes["s"]), [2, 2, 0, 0])
