"""The committed results, by their place under experiments/results."""

import json
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"


@cache
def read(*parts: str) -> dict[str, Any]:
    """A result by its place under experiments/results."""
    path = RESULTS.joinpath(*parts)
    if not path.is_file():
        raise SystemExit(f"error: {path.relative_to(ROOT)} is missing; run the command that makes it")
    return json.loads(path.read_text())


def all_results(folder: str) -> dict[str, dict[str, Any]]:
    """Every result of a folder, by file name."""
    found = {path.stem: read(folder, path.name) for path in sorted((RESULTS / folder).glob("*.json"))}
    if not found:
        raise SystemExit(f"error: experiments/results/{folder} holds no results; measure something first")
    return found
