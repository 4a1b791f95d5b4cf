"""Fills the results of docs/COMPARISON.md from the committed results of `python -m experiments.compare`.

python -m experiments.comparison_docs            rewrites docs/COMPARISON.md
python -m experiments.comparison_docs --check    exits 1 if it does not say what the results say
"""

import argparse
import json
import sys
from pathlib import Path

from experiments.compare.report import markdown
from experiments.readme import filled

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results" / "comparison"
DOCUMENT = ROOT / "docs" / "COMPARISON.md"


def results() -> str:
    """The report of every result file, with its plot."""
    files = sorted(RESULTS.glob("*.json"))
    if not files:
        raise SystemExit("error: experiments/results/comparison holds no results; run partoken compare")
    parts = []
    for path in files:
        parts.append(f"### `{path.name}`\n\n{markdown(json.loads(path.read_text()))}")
        if (picture := path.with_suffix(".png")).is_file():
            parts.append(f"![times](../{picture.relative_to(ROOT)})\n")
    return "\n".join(parts)


BLOCKS = {"results": results}


def main() -> int:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--check", action="store_true")
    args = flags.parse_args()
    old = DOCUMENT.read_text()
    new = filled(old, BLOCKS)
    if args.check:
        return int(new != old)
    DOCUMENT.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
