"""The tests of what has changed, for `make check`: prints their paths.

    python -m tests.changed [BASE]

What differs from the commit BASE (by default HEAD, so what is not committed yet) decides: a room's change
asks for the tests of the room, a module beside the rooms for the test of its name, a test for itself.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALWAYS = ("tests/test_imports.py", "tests/test_package.py")


def changed_files(base: str) -> list[str]:
    """Paths that differ from a commit, and those that git does not know yet."""
    commands = (
        ["git", "diff", "--name-only", base],
        ["git", "ls-files", "--others", "--exclude-standard"],
    )
    found = [subprocess.run(c, cwd=ROOT, capture_output=True, text=True, check=True).stdout for c in commands]
    return sorted({line for text in found for line in text.splitlines()})


def needed_by(path: str) -> str | None:
    """The tests that a changed file asks for; None for a file that has none, such as a document."""
    parts = Path(path).parts
    if parts[0] == "tests":
        return path if parts[-1].startswith("test_") else None
    if parts[0] == "partoken_jax" and len(parts) > 2:
        return f"tests/{parts[1]}"
    if parts[0] == "partoken_jax":
        return f"tests/test_{Path(path).stem}.py"
    if parts[0] == "experiments":
        rooms = ("parity", "torch_peer")
        return f"tests/{parts[1]}" if parts[1] in rooms else "tests/experiments"
    return "tests/test_readme.py" if path == "README.md" or parts[0] == "docs" else None


def main() -> None:
    base = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    wanted = {test for path in changed_files(base) if (test := needed_by(path)) is not None}
    print(*sorted({*ALWAYS, *(test for test in wanted if (ROOT / test).exists())}))


if __name__ == "__main__":
    main()
