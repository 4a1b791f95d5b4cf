"""What an installation holds: the library in a wheel, experiments and tests beside it in a checkout."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "partoken_jax" / "interpret" / "assets"
BUILD = """
import sys
from setuptools import build_meta
_, wheel, editable = sys.argv
build_meta.build_wheel(wheel)
build_meta.build_editable(editable)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(checkout, wheel, editable wheel) of a copy, so that building leaves nothing behind."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("install")
    checkout = folder / "checkout"
    unwanted = shutil.ignore_patterns(".*", "runs", "results", "build", "dist", "*.egg-info", "*.npz")
    shutil.copytree(ROOT, checkout, ignore=unwanted)
    (checkout / "partoken_jax" / "pretrained" / "one.safetensors").touch()
    wheels = [folder / "wheel", folder / "editable"]
    for wheel in wheels:
        wheel.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, *map(str, wheels)], cwd=checkout, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return checkout, *(next(wheel.glob("*.whl")) for wheel in wheels)


def test_a_wheel_holds_the_library_and_nothing_else(built):
    names = zipfile.ZipFile(built[1]).namelist()
    packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert packages == {"partoken_jax"}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "partoken_jax").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


def test_a_wheel_holds_the_trained_models(built):
    names = {path.name for path in (ROOT / "partoken_jax" / "pretrained").glob("*.safetensors")}
    held = {Path(name).name for name in zipfile.ZipFile(built[1]).namelist() if name.endswith(".safetensors")}
    assert held == {*names, "one.safetensors"}


def test_a_wheel_holds_what_pages_load(built):
    names = {f"partoken_jax/interpret/assets/{path.name}" for path in ASSETS.iterdir()}
    assert names and names <= set(zipfile.ZipFile(built[1]).namelist())


def test_an_editable_installation_finds_experiments_and_tests_from_everywhere(built, tmp_path):
    checkout, _, editable = built
    site = tmp_path / "site"
    zipfile.ZipFile(editable).extractall(site)
    code = (
        f"import site; site.addsitedir({str(site)!r}); import experiments, tests, partoken_jax\n"
        "print(*experiments.__path__, *tests.__path__, *partoken_jax.__path__, sep='\\n')"
    )
    # Alone: without this environment's packages, among which there is a checkout as well.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(checkout / name) for name in ("experiments", "tests", "partoken_jax")]
