"""The public names are loaded when they are used, and not before."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import partoken_jax


def test_importing_the_package_loads_neither_jax_nor_numpy():
    code = "import partoken_jax, sys; print({'jax', 'flax', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("name", partoken_jax.__all__)
def test_a_name_is_the_one_that_the_type_checker_sees(name):
    tree = ast.parse(Path(partoken_jax.__file__).read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If)).body
    (module,) = {node.module for node in checked for alias in node.names if alias.name == name}
    code = f"import partoken_jax; from {module} import {name} as same; assert partoken_jax.{name} is same"
    exec(code)


def test_names_are_listed_and_others_do_not_exist():
    assert set(partoken_jax.__all__) <= set(dir(partoken_jax))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        partoken_jax.nonsense  # noqa: B018
