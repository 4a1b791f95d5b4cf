"""`make check` runs the tests of what has changed."""

import subprocess
from pathlib import Path

import pytest

from tests.changed import ROOT, changed_files, needed_by


@pytest.mark.parametrize(
    ("path", "tests"),
    [
        ("partoken_jax/nn/partitioner/seed.py", "tests/nn"),
        ("partoken_jax/models.py", "tests/test_models.py"),
        ("experiments/parity/blocks.py", "tests/parity"),
        ("experiments/compare/protocol.py", "tests/experiments"),
        ("tests/nn/test_gvp.py", "tests/nn/test_gvp.py"),
        ("tests/helpers.py", None),
        ("docs/TIMING.md", "tests/test_readme.py"),
        ("LICENSE", None),
    ],
)
def test_a_file_asks_for_the_needed_by_its_room(path, tests):
    assert needed_by(path) == tests


def test_every_room_has_needed_by_its_name():
    rooms = [path for path in (ROOT / "partoken_jax").iterdir() if (path / "__init__.py").is_file()]
    assert len(rooms) > 5
    assert [room.name for room in rooms if not (ROOT / "tests" / room.name).is_dir()] == []


def test_a_new_file_counts_as_changed(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.changed.ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    someone = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    for command in (["init", "-q"], [*someone, "commit", "-q", "--allow-empty", "-m", "empty"]):
        subprocess.run(["git", *command], check=True)
    Path("new.py").write_text("")
    assert changed_files("HEAD") == ["new.py"]
