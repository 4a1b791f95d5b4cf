"""Each in a process of its own: the cache is a setting of the whole process."""

import os
import subprocess
import sys

PROGRAM = """
import jax, jax.numpy as jnp
from partoken_jax.training import compilation_cache
compilation_cache.WORTH_KEEPING = 0.0
print(compilation_cache.use_compilation_cache())
jax.block_until_ready(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))))
"""


def run(tmp_path, **environment):
    given = {k: v for k, v in os.environ.items() if not k.startswith("JAX_") and k != "XDG_CACHE_HOME"}
    given |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path / "cache"), **environment}
    result = subprocess.run([sys.executable, "-c", PROGRAM], env=given, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_programs_are_kept_in_the_stated_place(tmp_path):
    directory = tmp_path / "cache" / "partoken_jax"
    assert run(tmp_path) == str(directory)
    assert any(directory.iterdir())


def test_a_directory_of_the_user_comes_first(tmp_path):
    mine = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "mine"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    assert run(tmp_path, **mine) == str(tmp_path / "mine")
    assert any((tmp_path / "mine").iterdir())
    assert not (tmp_path / "cache").exists()


def test_the_switch_turns_it_off(tmp_path):
    assert run(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false") == "None"
    assert not (tmp_path / "cache").exists()
