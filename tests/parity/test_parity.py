"""The recorded numbers of the original, by the code behind `python -m experiments.parity`."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments.parity import jax_side
from experiments.parity.__main__ import run
from experiments.parity.compare import Report

pytestmark = pytest.mark.slow


GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(GOLDEN.glob("case*.npz"))


def check(folder: Path) -> Report:
    report = Report()
    assert run(folder, report)
    return report


def test_all_eight_cases_are_here():
    assert [file.name[4] for file in FILES] == list("12345678")


def cases():
    """Every file; those with messages once for each form, because conftest.py optimises one of them alone."""
    for file in FILES:
        case = file.name[4]
        forms = {"1": ("dense", "general"), **dict.fromkeys("478", ("dense", "blocks", "general"))}
        for form in forms.get(case, ("both",)):
            yield pytest.param(file, form, id=f"{file.stem} {form}")


@pytest.mark.parametrize(("file", "form"), list(cases()))
def test_recorded_numbers_hold(file, form, tmp_path, monkeypatch):
    if form != "both":
        monkeypatch.setattr(jax_side, "CONV_FORMS", (form,))
        monkeypatch.setattr(jax_side, "MODEL_FORMS", (form,))
    shutil.copy(file, tmp_path)
    report = check(tmp_path)
    assert report.holds, f"\n{report.table()}"


def spoil(tmp_path, file: str, name: str, change) -> Report:
    """The report of one file with one array changed."""
    with np.load(GOLDEN / file) as vectors:
        arrays = dict(vectors)
    changed = change(arrays[name].copy())
    assert np.any(changed != arrays[name])
    np.savez(tmp_path / file, **(arrays | {name: changed}))
    return check(tmp_path)


def scaled(array):
    return array * np.asarray(1.001, array.dtype)


@pytest.mark.parametrize("name", ["attn.fixed.pooled", "attn.fixed.g.w.q.weight", "fusion.fused"])
def test_a_number_changed_by_a_thousandth_is_noticed(tmp_path, name):
    report = spoil(tmp_path, "case6_attention_fusion.npz", name, scaled)
    broken = [row for row in report.rows.values() if not row.holds]
    assert len(broken) == 1 and not report.holds, f"\n{report.table()}"
    assert broken[0].error == pytest.approx(1e-3, rel=0.1)
    assert " NO " in report.table()


def test_one_other_decision_is_noticed(tmp_path):
    def flip(codes):
        codes.flat[0] += 1
        return codes

    report = spoil(tmp_path, "case5_vq.npz", "l2.warm.train1.indices", flip)
    broken = [row for row in report.rows.values() if not row.holds]
    assert [(row.measure, row.error, row.worst) for row in broken] == [("differing", 1, "indices")]


def test_not_a_number_never_holds():
    report = Report()
    report.relative("case", "group", "fine", [1.0], [1.0], 1e-5)
    assert report.holds
    report.relative("case", "group", "broken", [np.nan], [1.0], 1e-5)
    report.relative("case", "group", "fine", [1.0], [1.0], 1e-5)
    assert not report.holds
    assert not Report().holds  # nothing compared is nothing proven


def test_a_file_without_a_known_digit_is_an_error(tmp_path):
    (tmp_path / "case9_other.npz").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"case9_other\.npz: expected a name like"):
        check(tmp_path)
