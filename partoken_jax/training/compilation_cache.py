"""Compiled programs kept on disk, so that the second start of a run does not compile again."""

import os
from pathlib import Path

import jax

WORTH_KEEPING = 1.0
"""Seconds of compilation from which on a program is stored."""


def use_compilation_cache() -> Path | None:
    """Turns on jax's persistent compilation cache; the commands and scripts call this, importing does not.

    Programs go to `$XDG_CACHE_HOME/partoken_jax` (by default ~/.cache/partoken_jax). A directory of your own
    choice (`JAX_COMPILATION_CACHE_DIR`) comes first, and `JAX_ENABLE_COMPILATION_CACHE=false` is the switch.

    Returns the directory, or None where the cache is off or there is no home directory to put it in.
    """
    config = jax.config
    if not config.jax_enable_compilation_cache:  # type: ignore[attr-defined]
        return None
    if (chosen := config.jax_compilation_cache_dir) is not None:  # type: ignore[attr-defined]
        return Path(chosen)
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    directory = home / "partoken_jax"
    config.update("jax_compilation_cache_dir", str(directory))
    config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)
    return directory
