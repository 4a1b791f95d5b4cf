"""Compilation made cheap for every test, and real proteins, loaded once per worker."""

import atexit
import os
import shutil
import tempfile

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Before jax is imported. What one test compiled need not be compiled again by another, by the other
    # worker or by a process that a test starts. A cache that the user has chosen is used instead, and kept.
    cache = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# PyTorch's threads wait for one another spinning: as many as cores in each of several workers, and steps of
# milliseconds take seconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jax
import pytest
from jax._src import compiler

from partoken_jax.proteins import Protein, load_dataset
from tests.helpers import crop

OPTIMISED = ("tests/parity/test_parity.py", "tests/timing/test_hlo.py", "tests/timing/test_trace.py")

LONGEST = (
    *("tests/training/test_resume.py", "tests/training/test_devices.py", "tests/training/test_signals.py"),
    *("tests/parity/test_parity.py", "tests/timing/test_analysis.py", "tests/training/test_run.py"),
    *("tests/experiments/test_compare.py", "tests/test_notebook.py", "tests/torch_peer"),
    *("tests/nn/test_message_passing.py", "tests/experiments"),
)


FLAGS = os.environ.get("XLA_FLAGS", "")
PLAIN = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 12) else {}
"""Turned off, a program that is not optimised compiles in a quarter of the time. An optimised one gains
little, so it stays as users have it. Newer XLAs have no such option."""
made_options = compiler.get_compile_options
real = False
"""Whether the test that runs gets optimised programs."""


def options_for_tests(*args, env_options_overrides=None, **kwargs):
    if not real:
        env_options_overrides = {**PLAIN, **(env_options_overrides or {})}
    return made_options(*args, env_options_overrides=env_options_overrides, **kwargs)


compiler.get_compile_options = options_for_tests


def pytest_collection_modifyitems(items):
    """The longest files first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Most of the tests' time is compilation, and what they prove does not depend on how well XLA optimises.
    The golden vectors, and what reads the optimised program, get the real thing; but the general form, the
    readable reference that nobody waits for, the form for TPUs, and case 3, twelve programs of the encoder
    that cases 7 and 8 hold, do not (`make parity` optimises them too). A hook, not a fixture: it comes before
    the session's fixtures, whose programs the tests compare with their own."""
    global real
    spared = any(name in item.nodeid for name in ("case3", "general", " blocks]"))
    real = item.nodeid.startswith(OPTIMISED) and not spared
    jax.config.update("jax_disable_most_optimizations", not real)
    # For processes that it starts; this one has read the flags by now.
    jax.devices()
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(not real)
    os.environ["XLA_FLAGS"] = FLAGS if real else " ".join([FLAGS, *(f"--{name}=false" for name in PLAIN)])


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_file():
    """What a file compiled goes with it. Linux gives a process 65,530 maps of memory, and a worker that keeps
    the programs of all files comes near: it then ends without a word. Nor is it any faster."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def chains() -> list[Protein]:
    """Eight real chains of 12 to 30 residues without missing atoms."""
    dataset = load_dataset(task="cath-class", split="val")
    complete = [protein for protein in dataset.proteins if protein.complete.all() and len(protein) >= 60]
    lengths = (24, 30, 12, 18, 21, 15, 27, 13)
    return [crop(protein, 10, length) for protein, length in zip(complete, lengths, strict=False)]
