"""Compares a framework with the vectors that were recorded of the published model, number for number.

Every file case<digit>*.npz of the directory is checked. The digit says which case it is, whatever follows it:
case7_partoken.npz, case7_full.npz and case7b.npz are all case 7. What a file holds is compared. An array that
a file lacks is listed as missing and left out. A file that cannot be read, or that lacks what its case cannot
run without (a weight, an input, the noise, a hyper-parameter), is an error, and the other files are still
checked.

The exit code is 0 only if every comparison holds, every file could be checked, and of every case in the
directory something of each kind was compared. The kinds are forward outputs, gradients, discrete decisions,
buffers, presence and so on, as far as a case is about them. They are asked of all files of a case together: a
file of case 7 without gradients is in order beside another one that has them, but not alone. The exit code is
2 if there is nothing to check or a flag is wrong, and 1 otherwise.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from experiments.flags import Flags, output, run_script
from experiments.parity.cases import CASES, lacking
from experiments.parity.compare import Report
from experiments.parity.framework import framework
from experiments.parity.vectors import Unusable, Vectors


def run(directory: Path, report: Report, name: str = "jax") -> list[Path]:
    """Checks a framework ("jax" or "torch") on every `case*.npz` of a directory; returns the files.

    Raises SystemExit for a file name without a digit from 1 to 8.
    """
    files = sorted(directory.glob("case*.npz"))
    digits = {file: _digit(file) for file in files}
    try:
        side = framework(name)
    except ImportError as error:
        raise SystemExit(
            f"error: {name} needs the package {error.name}; install it: pip install -e .[torch]"
        ) from None
    for file, digit in digits.items():
        print(f"{file.name} ...", file=sys.stderr, flush=True)
        report.file = file.stem
        with side.full_precision():
            _check(file, digit, report, side)
    for digit in sorted(set(digits.values())):
        stems = [file.stem for file in files if digits[file] == digit]
        report.problems += lacking(digit, stems, report)
    return files


def _digit(file: Path) -> str:
    match = re.match(r"case([1-8])(?!\d)", file.stem)
    if match is None:
        raise SystemExit(f"error: {file}: expected a name like case1_gvp.npz with a digit from 1 to 8")
    return match[1]


def _check(file: Path, digit: str, report: Report, side) -> None:
    """Whatever is wrong with one file must not hide what the others say; it fails the whole all the same."""
    vectors = None
    try:
        vectors = Vectors.load(file)
        CASES[digit].check(vectors, report, side)
    except Unusable as error:
        report.problems.append(f"{file.name}: {error}")
    except Exception as error:
        # Arrays that do not fit together raise whatever the framework raises.
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
        report.problems.append(f"{file.name}: its arrays do not fit case {digit} ({reason})")
    if vectors is not None and vectors.missing:
        report.missing[file.stem] = vectors.missing


def main() -> int:
    parser = Flags(
        prog="python -m experiments.parity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vectors", type=Path, required=True, help="The directory of the case*.npz files.")
    parser.add_argument(
        "--framework",
        choices=("jax", "torch"),
        default="jax",
        help="What to check: jax, this package, or torch, the same models in experiments/torch_peer.",
    )
    parser.add_argument("--json", type=output, help="Also write the table, and what was missing, to it.")
    args = parser.parse_args()
    report = Report()
    files = run(args.vectors, report, args.framework)
    if not files:
        print(f"error: {args.vectors}: no case*.npz there; give the directory of vectors", file=sys.stderr)
        return 2
    print(report.table(), flush=True)
    print(report.summary(), flush=True)
    if args.json:
        command = " ".join(["python -m experiments.parity", *sys.argv[1:]])
        result = report.result({**framework(args.framework).environment(), "command": command})
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if report.holds else 1


if __name__ == "__main__":
    run_script(main)
