"""The index of docs/REFERENCE.md: which function computes which formula.

A function says so in its docstring, in a line of its own such as

    REFERENCE.md section 4, step 5, score.

The index is read from these lines; `python -m experiments.docs` writes it into docs/REFERENCE.md.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from partoken_jax.tables import markdown_table

PACKAGE = Path(__file__).resolve().parents[1] / "partoken_jax"
_REFERENCE = re.compile(r"^REFERENCE\.md section (\d)(?:, step (\d))?, (.+)\.$", re.MULTILINE)


class Formula(NamedTuple):
    """A formula of docs/REFERENCE.md and the function that computes it."""

    section: int
    step: int | None
    """Within section 4."""
    name: str
    file: str
    """Path under partoken_jax/."""
    function: str
    """`function`, or `Class.method`."""
    lines: int
    """Lines of the function's body, its docstring left out."""

    @property
    def where(self) -> str:
        return f"{self.file}:{self.function}"


def formulas(package: Path = PACKAGE) -> list[Formula]:
    """All formulas that the package names, by section and step, then by file and line."""
    found = []
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        for name, function in _functions(ast.parse(path.read_text(encoding="utf-8"))):
            body = function.body[1:]
            lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0  # type: ignore[operator]
            for section, step, formula in _REFERENCE.findall(ast.get_docstring(function) or ""):
                number = int(step) if step else None
                found.append(Formula(int(section), number, formula, file, name, lines))
    return sorted(found, key=lambda formula: (formula.section, formula.step or 0))


def formula_index() -> str:
    """The index as a table of Markdown."""
    rows = []
    for formula in formulas():
        place = f"{formula.section}, step {formula.step}" if formula.step else f"{formula.section}"
        rows.append((place, formula.name, f"`{formula.where}`"))
    return markdown_table(("section", "formula", "function, under `partoken_jax/`"), rows, align="lll")


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions of a module and methods of its classes, by qualified name."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    yield f"{node.name}.{part.name}", part
