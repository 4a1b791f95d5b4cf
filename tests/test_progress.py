"""What a run says: at once, plain without a terminal, nothing when it is to be quiet."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from partoken_jax import progress
from partoken_jax.progress import announced, duration, say, waiting, warn
from partoken_jax.training.data import load_run_data
from partoken_jax.training.step import compilations
from tests.training.conftest import tiny

SHORT = 0.05


@pytest.fixture
def often(monkeypatch):
    """Lines every 0.05 seconds in place of every 30."""
    monkeypatch.setattr(progress, "INTERVAL", SHORT)


def test_plain_lines_at_the_start_while_it_takes_and_at_the_end(often, capsys):
    with waiting("computing"):
        time.sleep(4 * SHORT)
    first, *between, last = capsys.readouterr().out.splitlines()
    assert first == "computing ..."
    assert between and all(line.startswith("computing ... 0.") for line in between)
    assert last.startswith("computing: 0.") and last.endswith(" s")


def test_nothing_says_that_it_is_done_when_it_failed(capsys):
    with pytest.raises(RuntimeError, match="fault"), waiting("computing"):
        raise RuntimeError("fault")
    assert capsys.readouterr().out == "computing ...\n"


def test_lines_of_progress_come_by_time_and_say_what_is_left(often, capsys):
    with progress.progress(1000, "stage 0, epoch 3", done=200) as update:
        update(100, loss="1.250")
        assert capsys.readouterr().out == ""  # too early
        time.sleep(SHORT)
        update(300, loss="1.500")
    (line,) = capsys.readouterr().out.splitlines()
    # 400 proteins took a little more than 0.05 s, and 400 are left.
    assert line == "stage 0, epoch 3: 600 of 1,000 proteins, loss 1.500, 0.1 s left"


def test_quiet_says_nothing_but_warnings(often, capsys):
    say("line", quiet=True)
    with waiting("computing", quiet=True), progress.progress(10, "epoch", quiet=True) as update:
        time.sleep(2 * SHORT)
        update(1)
    warn("a file was left out")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "warning: a file was left out\n")


def test_in_a_terminal_a_line_is_drawn_again_and_a_bar_counts(monkeypatch, capsys):
    monkeypatch.setattr(progress, "in_terminal", lambda: True)
    with waiting("computing"):
        time.sleep(1.2)
    with progress.progress(10, "epoch", done=5) as update:
        update(5)
    out, err = capsys.readouterr()
    assert "computing ... 00:00" in err and "computing ... 00:01" in err
    assert "5/10" in err and "10/10" not in out
    assert out.startswith("computing: 1.") and out.count("\n") == 1


def test_a_step_says_once_per_shape_that_it_is_compiled(capsys):
    graph = next(iter(load_run_data(tiny()).loaders["train"].epoch(0)))
    step = announced(jax.jit(lambda state, graph: state + graph.nodes.mask.sum()), "the step of stage 0")
    results = [step(number, graph) for number in range(3)]
    assert [int(x) - int(results[0]) for x in results] == [0, 1, 2]
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"compiling the step of stage 0 for {graph.nodes.mask.size:,} residues ..."
    assert last.startswith(first.removesuffix(" ...") + ": ")
    assert compilations(step) == 1


@pytest.mark.parametrize(
    "seconds, text",
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"),
     (3599.6, "1 h 00 min"), (7500, "2 h 05 min")],
)  # fmt: skip
def test_times_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


def test_a_pipe_shows_every_line_before_the_process_ends():
    """And they hold nothing that only a terminal understands."""
    code = (
        "from partoken_jax.progress import say, waiting\n"
        "with waiting('computing'):\n"
        "    say('a line'); input()\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout and process.stdin
        # Would block for ever if the lines waited in a buffer: the process waits for us.
        assert [process.stdout.readline() for _ in range(2)] == [b"computing ...\n", b"a line\n"]
        out, err = process.communicate(b"\n")
    assert out.startswith(b"computing: ") and b"\r" not in out and err == b""
