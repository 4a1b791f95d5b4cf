"""The exported program: the same answers, for every platform, in a process without this package."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export as jax_export

from partoken_jax.config import ConfigError
from partoken_jax.pretrained import load_model
from partoken_jax.pretrained.export import PLATFORMS, export

RUN = """
import json, sys
import numpy as np
from jax import export
folder = sys.argv[1]
inputs = np.load(folder + "/inputs.npz")
program = export.deserialize(bytearray(open(folder + "/residues_64.stablehlo", "rb").read()))
out = program.call(inputs["backbone"], inputs["residue_types"], inputs["length"])
assert not any(name.split(".")[0] in ("partoken_jax", "flax", "jraph") for name in sys.modules)
np.savez(folder + "/outputs.npz", **out)
"""


@pytest.fixture(scope="module")
def folder(run_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    export(load_model(run_dir), folder, residues=(64,))
    return folder


def test_a_program_runs_without_this_package(run_dir, proteins, folder):
    protein = proteins[0]
    backbone = np.full((64, 4, 3), 7.0, np.float32)  # what is in the rows of padding makes no difference
    types = np.zeros(64, np.int32)
    backbone[: len(protein)], types[: len(protein)] = protein.backbone, protein.residue_types
    np.savez(folder / "inputs.npz", backbone=backbone, residue_types=types, length=np.int32(len(protein)))
    subprocess.run([sys.executable, "-c", RUN, str(folder)], check=True, cwd=folder)
    out = np.load(folder / "outputs.npz")
    ((_, want),) = load_model(run_dir).outputs([protein])
    for name in ("clusters", "residue_features"):
        got = out[name][: len(protein)]
        np.testing.assert_allclose(got[protein.complete], getattr(want, name)[protein.complete], atol=1e-4)
    for name in ("seeds", "codes"):
        np.testing.assert_array_equal(out[name], getattr(want, name))
    for name in ("logits", "probabilities", "importances", "cluster_features", "protein_features"):
        np.testing.assert_allclose(out[name], getattr(want, name), rtol=1e-4, atol=1e-4)


def test_one_file_is_for_all_platforms_and_is_described(folder):
    description = json.loads((folder / "program.json").read_text())
    (name,) = description["programs"]
    program = jax_export.deserialize(bytearray((folder / name).read_bytes()))
    assert program.platforms == PLATFORMS == tuple(description["platforms"])
    assert [x.shape for x in jax.tree.leaves(program.in_avals)] == [(64, 4, 3), (64,), ()]
    assert len(description["class_names"]) == 4


def test_every_platform_has_its_own_form_wherever_it_is_exported(run_dir, folder, tmp_path):
    """Elsewhere than on a CPU one sort more makes the reverse table. The weights are there once for all."""
    sorts, sizes = {}, {}
    for platform in ("cpu", "tpu"):
        export(load_model(run_dir), tmp_path, residues=(64,), platforms=(platform,))
        content = bytearray((tmp_path / "residues_64.stablehlo").read_bytes())
        sizes[platform] = len(content)
        sorts[platform] = jax_export.deserialize(content).mlir_module().count("stablehlo.sort")
    assert sorts["tpu"] == sorts["cpu"] + 1
    assert (folder / "residues_64.stablehlo").stat().st_size < 2 * sizes["cpu"]


def test_a_file_where_the_folder_would_be_is_named(run_dir, tmp_path):
    file = tmp_path / "my.pdb"
    file.write_text("kept")
    for path in (file, file / "below"):
        with pytest.raises(
            ConfigError, match=r"^\S+: is a file, or in one; name a folder for the programs$"
        ) as e:
            export(load_model(run_dir), path, residues=(64,))
        assert str(path) in str(e.value)
    assert file.read_text() == "kept"


def test_sizes_that_hold_no_neighbours_are_refused(run_dir, tmp_path):
    with pytest.raises(ConfigError, match="residues"):
        export(load_model(run_dir), tmp_path, residues=(4,))
