"""Compiled programs kept on disk, so that the second start of a run does not compile again."""

import os
from pathlib import Path

import jax

WORTH_KEEPING = 1.0
"""Seconds of compilation from which on a program is stored."""


def use_compilation_cache() -> Path | None:
    """Turns on jax's persistent compilation cache; the commands and scripts call this, importing does not.

    Programs go to `cache_directory()`; `JAX_ENABLE_COMPILATION_CACHE=false` is the switch. Returns the
    directory, or None where the cache is off or there is no directory for it.
    """
    config = jax.config
    if not config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    directory = cache_directory()
    if directory is not None and config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        config.update("jax_compilation_cache_dir", str(directory))
        config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)
    return directory


def cache_directory() -> Path | None:
    """Where what can be made again is kept: first the directory of your own choice
    (`JAX_COMPILATION_CACHE_DIR`, where it is one of this machine), else `$XDG_CACHE_HOME/partoken_jax`, by
    default ~/.cache/partoken_jax; None where there is no home directory to put it in."""
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if chosen is not None and "://" not in chosen:
        return Path(chosen)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return home / "partoken_jax"
