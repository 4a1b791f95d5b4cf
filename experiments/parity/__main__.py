"""Command line of the parity check: prints the table, exits 0 only if every comparison holds."""

import argparse
import json
import re
import sys
from pathlib import Path

from experiments.parity.blocks import check_attention, check_features, check_gvp
from experiments.parity.codebook import check_codebook
from experiments.parity.compare import Report
from experiments.parity.framework import framework
from experiments.parity.models import check_baseline, check_partoken, check_trajectory
from experiments.parity.partitioner import check_partitioner
from experiments.parity.vectors import Vectors

CHECKS = {
    "1": check_gvp,
    "2": check_features,
    "3": check_baseline,
    "4": check_partitioner,
    "5": check_codebook,
    "6": check_attention,
    "7": check_partoken,
    "8": check_trajectory,
}


def run(directory: Path, report: Report, name: str = "jax") -> list[Path]:
    """Checks a framework ("jax" or "torch") on every `case*.npz` of a directory; returns the files."""
    side = framework(name)
    files = sorted(directory.glob("case*.npz"))
    for file in files:
        digit = re.match(r"case(\d)(?!\d)", file.stem)
        if digit is None or digit[1] not in CHECKS:
            raise SystemExit(f"error: {file}: expected a name like case1_gvp.npz with a digit from 1 to 8")
        print(f"{file.name} ...", file=sys.stderr, flush=True)
        report.file = file.stem
        with side.full_precision():
            try:
                CHECKS[digit[1]](Vectors.load(file), report, side)
            except (KeyError, ValueError, TypeError, OSError, RuntimeError) as error:
                # One unreadable file must not hide what the others say; it fails the whole all the same.
                print(f"error: {file}: could not be checked: {error!r}", file=sys.stderr)
                report.failed(f"{type(error).__name__}: {error}")
    return files


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.parity", description=__doc__)
    parser.add_argument("--vectors", type=Path, required=True, help="directory of case*.npz files")
    parser.add_argument("--framework", choices=("jax", "torch"), default="jax")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    report = Report()
    files = run(args.vectors, report, args.framework)
    if not files:
        print(f"error: {args.vectors}: no case*.npz there; give the directory of vectors", file=sys.stderr)
        return 2
    print(report.table())
    failed = sum(not row.holds for row in report.rows.values())
    print(f"{len(report.rows)} groups from {len(files)} files, {failed} outside their tolerance")
    if args.json:
        args.json.write_text(
            json.dumps(report.result(framework(args.framework).environment()), indent=1) + "\n"
        )
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
