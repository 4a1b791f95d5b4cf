"""Help and mistakes are answered without importing JAX, which takes seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import contextlib, io, json, sys
heavy = ("jax", "orbax", "flax", "matplotlib", "tensorboardX")
for name in heavy:
    sys.modules[name] = None  # importing it fails
from partoken_jax.cli import main
for words in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as error:
            code = error.code
    print(json.dumps([code, err.getvalue()]))
"""


def answers(commands: list[list[str]]) -> list[tuple[int, str]]:
    """Exit code and standard error of every command, in a process that cannot import JAX."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_help_and_mistakes_need_no_jax(tmp_path):
    taken, empty = tmp_path / "taken", tmp_path / "empty"
    for directory in (taken, empty):
        directory.mkdir()
    (taken / "notes.txt").write_text("mine")
    (tmp_path / "broken.npz").write_text("no zip file")
    free = ["--run-dir", str(tmp_path / "free")]
    wrong = {
        "seed": ["train", "--seed", "-1"],
        "'sead'": ["train", "--config", str(tmp_path / "c.yaml")],
        "at least one epoch": ["train", *free, "--stage0.epochs", "0", "--stage1.epochs", "0"],
        "not the directory of a run": ["train", "--run-dir", str(taken)],
        "nowhere.npz": ["train", *free, "--data.path", str(tmp_path / "nowhere.npz")],
        "broken.npz": ["train", *free, "--data.path", str(tmp_path / "broken.npz")],
        "max_length = 399": ["train", *free, "--data.max-length", "399"],
        "nowhere.pt": ["train", *free, "--init-from", str(tmp_path / "nowhere.pt")],
        "no 'best' checkpoint": ["evaluate", str(empty)],
        "no 'last' checkpoint": ["convert", str(empty), str(tmp_path / "w.npz"), "--checkpoint", "last"],
        "nothing.pt": ["convert", str(tmp_path / "nothing.pt"), str(tmp_path / "run")],
        "num_classes": ["params", "--num-classes", "1"],
        "gone.npz": ["time", "--data", str(tmp_path / "gone.npz")],
        "there is no directory": ["time", "--json", str(tmp_path / "no" / "where.json")],
    }
    (tmp_path / "c.yaml").write_text("sead: 4\n")
    verbs = ([], ["annotate"], ["train"], ["evaluate"], ["params"], ["time"], ["convert"])
    found = answers([[*verb, "--help"] for verb in verbs] + [["dance"]] + list(wrong.values()))
    assert [code for code, _ in found] == [0] * len(verbs) + [2] * (1 + len(wrong))
    for said, (_, err) in zip(wrong, found[1 + len(verbs) :], strict=True):
        assert err.startswith("error: ") and err.count("\n") == 1 and said in err, (said, err)
    assert not (tmp_path / "free").exists()
