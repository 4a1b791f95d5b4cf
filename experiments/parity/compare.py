"""Collects comparisons and prints them, one row per group of arrays."""

from dataclasses import asdict, dataclass

import numpy as np

from experiments.parity.vectors import Vectors
from partoken_jax.convert import from_state_dict

FORWARD = 1e-5
PRESENCE = 5e-5
GRADIENT = 1e-4
NODE_SCALARS = 1e-4
TRAJECTORY_LOSS = 1e-5
TRAJECTORY_WEIGHT = 2e-5


@dataclass
class Row:
    """The worst of a group of arrays. `error` is relative to the array's largest entry, absolute, or a
    count of differing entries, as `measure` says."""

    case: str
    group: str
    measure: str
    arrays: int
    error: float
    tolerance: float
    worst: str

    @property
    def holds(self) -> bool:
        return bool(self.error <= self.tolerance)  # False for NaN


class Report:
    """Rows by (case, group, measure), and beside them what could not be compared.

    `file` is named in every case. `compared` has the groups of every file, and `missing` the names of the
    arrays to compare with that it lacks. `problems` are sentences; one is enough for the whole not to hold.
    Where the recorded array is None, nothing is compared.
    """

    def __init__(self):
        self.file = ""
        self.rows: dict[tuple[str, str, str], Row] = {}
        self.compared: dict[str, set[str]] = {}
        self.missing: dict[str, list[str]] = {}
        self.problems: list[str] = []

    def relative(self, case: str, group: str, name: str, got, want, tolerance: float, of=None) -> None:
        """Largest |got - want| over the largest |want|, or over the largest |of|: the whole that the
        array is a part of. Absolute where that is all zero."""
        if want is None:
            return
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        error = _largest(got, want)
        scale = np.max(np.abs(want if of is None else of), initial=0.0)
        self._add(case, group, "relative", name, error / scale if scale > 0 else error, tolerance)

    def absolute(self, case: str, group: str, name: str, got, want, tolerance: float) -> None:
        if want is None:
            return
        got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
        self._add(case, group, "absolute", name, _largest(got, want), tolerance)

    def exact(self, case: str, group: str, name: str, got, want) -> None:
        if want is None:
            return
        got, want = np.asarray(got), np.asarray(want)
        differing = float(np.sum(got != want)) if got.shape == want.shape else np.inf
        self._add(case, group, "differing", name, differing, 0.0)

    def gradients(
        self, case: str, group: str, got: dict, want: Vectors, weights: Vectors, prefix: str = "", skip=()
    ) -> None:
        """Gradients of parameters, `got` by our path. `want` and `weights` have the original's keys, without
        the `prefix` that `from_state_dict` takes. One that the model has and the file lacks is noted as
        missing; one of a weight that this variant of the model lacks is passed over."""
        for key in dict.fromkeys((*want.arrays, *weights.arrays)):
            array = want.arrays[key] if key in want.arrays else weights.arrays[key]
            for path, ours in from_state_dict({key: array}, prefix).items():
                if path in skip or (path not in got and key in weights.arrays):
                    continue
                if key not in want.arrays:
                    want.recorded(key)
                    continue
                self.relative(case, group, path, got.get(path, np.nan), ours, GRADIENT)

    def _add(self, case, group, measure, name, error, tolerance) -> None:
        self.compared.setdefault(self.file, set()).add(group)
        case = f"{self.file} {case}"
        row = self.rows.get((case, group, measure))
        if row is None:
            self.rows[case, group, measure] = Row(case, group, measure, 1, float(error), tolerance, name)
            return
        row.arrays += 1
        # A NaN is worse than everything and stays.
        if not np.isnan(row.error) and not error <= row.error:
            row.error, row.worst = float(error), name

    @property
    def holds(self) -> bool:
        return bool(self.rows) and not self.problems and all(row.holds for row in self.rows.values())

    def table(self) -> str:
        lines = [("case", "arrays", "n", "measure", "largest error", "tolerance", "holds", "worst array")]
        for row in self.rows.values():
            lines.append(
                (
                    row.case,
                    row.group,
                    str(row.arrays),
                    row.measure,
                    f"{row.error:.1e}",
                    f"{row.tolerance:.0e}",
                    "yes" if row.holds else "NO",
                    row.worst,
                )
            )
        widths = [max(len(line[i]) for line in lines) for i in range(7)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(line[:7], widths, strict=True)), line[7]])
            for line in lines
        )

    def summary(self) -> str:
        """What the files lack, what could not be checked, and the count of what could."""
        lines = []
        for file, names in self.missing.items():
            lines.append(f"{file} lacks these arrays, which were not compared:")
            lines += [f"  {name}" for name in names]
        failed = sum(not row.holds for row in self.rows.values())
        lines += [f"error: {problem}" for problem in self.problems]
        lines.append(
            f"{len(self.rows)} groups of arrays were compared, {failed} are outside their tolerance."
        )
        return "\n".join(lines)

    def result(self, environment: dict) -> dict:
        """The table, ready for JSON."""
        rows = [{**asdict(row), "holds": row.holds} for row in self.rows.values()]
        return {
            "schema": "partoken.parity/1",
            "environment": environment,
            "holds": self.holds,
            "missing": self.missing,
            "problems": self.problems,
            "rows": rows,
        }


def _largest(got: np.ndarray, want: np.ndarray) -> float:
    if got.shape != want.shape:
        return float("nan")
    return float(np.max(np.abs(got - want), initial=0.0))
