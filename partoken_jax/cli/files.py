"""What a command reads, and where it writes its results: checked before JAX is imported, which takes long."""

import json
from pathlib import Path
from typing import Any

from partoken_jax.config import ConfigError
from partoken_jax.files import unreadable


def check_input(path: str | Path | None) -> None:
    """Raises ConfigError for a file that a command is to read and cannot; folders are for others to judge."""
    if path is not None and not Path(path).is_dir() and (reason := unreadable(Path(path))):
        raise ConfigError(f"{path}: {reason}; check the path")


def check_output_files(*paths: Path | None) -> None:
    """Raises ConfigError for a file that cannot be written; a mistake must not cost the measurement."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no directory {path.parent}; make it first")
        if path is not None and path.is_dir():
            raise ConfigError(f"{path}: is a directory; name a file in it")


def save_json(path: Path | None, result: dict[str, Any]) -> None:
    """Writes a result, if there is a file for it."""
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n")
