"""Names and layouts of the original's weights."""

import re
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from partoken_jax.convert import from_state_dict, our_path, set_arrays, state_dict_shapes, to_state_dict
from partoken_jax.models import build_model
from partoken_jax.nn.fusion import GatedFusion
from tests.convert.recorded import MODELS, recorded
from tests.helpers import by_path, tiny

GOLDEN = Path(__file__).parents[1] / "golden"
# What the original builds and nothing calls, or state that is no weight.
UNUSED = re.compile(r"cluster_attention\.|.*dummy_param$|partitioner\.epoch$")


@pytest.mark.parametrize("name", MODELS)
def test_every_recorded_key_has_a_place(name):
    """Nothing is left over on either side, but for the keys listed as unused; no two keys share a place."""
    arrays, config = recorded(name)
    kind, changes = config.kind, {"pooling": config.pooling, "residue_types": config.residue_types}
    paths = {key: our_path(key) for key in arrays}
    assert {key for key, path in paths.items() if path is None} == {k for k in arrays if UNUSED.match(k)}
    used = [path for path in paths.values() if path is not None]
    assert len(used) == len(set(used))
    model = nnx.eval_shape(lambda: build_model(tiny(kind=kind, **changes), rngs=nnx.Rngs(0)))
    ours = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model))}
    ours -= {"codebook.uses"}  # the original does not count them
    assert {path for path in used if not path.startswith("pool.")} == {
        path for path in ours if not path.startswith("pool.")
    }
    assert {path for path in ours if path.startswith("pool.")} <= set(used)


@pytest.mark.parametrize("name", MODELS)
def test_the_original_is_known_key_by_key(name):
    """Names, shapes and order, so that its load_state_dict(strict=True) finds all that it asks for."""
    arrays, config = recorded(name)
    assert list(state_dict_shapes(config).items()) == [(key, array.shape) for key, array in arrays.items()]


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_is_exact(name):
    arrays, config = recorded(name)
    back = to_state_dict(from_state_dict(arrays), state_dict_shapes(config))
    assert list(back) == list(arrays)
    for key, array in arrays.items():
        assert back[key].dtype == array.dtype and back[key].flags.c_contiguous
        np.testing.assert_array_equal(back[key], array if our_path(key) else np.zeros_like(array), key)


def test_uses_of_codes_begin_at_0_and_are_not_handed_on():
    """They are ours alone; a model that has counted some forgets them with the weights it is given."""
    arrays, config = recorded("partoken")
    model = build_model(config, rngs=nnx.Rngs(0))
    model.codebook.uses[...] += 3
    set_arrays(model, from_state_dict(arrays))
    np.testing.assert_array_equal(model.codebook.uses[...], 0)
    model.codebook.uses[...] += 3
    ours = by_path(nnx.state(model))
    assert set(to_state_dict(ours, state_dict_shapes(config))) == set(arrays)
    set_arrays(model, ours)  # but given, they are kept
    np.testing.assert_array_equal(model.codebook.uses[...], 3)


@pytest.fixture
def fusion():
    return GatedFusion(16, rngs=nnx.Rngs(0))


@pytest.fixture
def weights():
    with np.load(GOLDEN / "case6_attention_fusion.npz") as vectors:
        width = vectors["g"].shape[-1]
        arrays = {k[len("fusion.w.") :]: vectors[k] for k in vectors.files if k.startswith("fusion.w.")}
    return width, arrays


def test_linear_weights_are_transposed(weights):
    width, arrays = weights
    fusion = GatedFusion(width, rngs=nnx.Rngs(0))
    set_arrays(fusion, from_state_dict(arrays, "fw_gate."))
    got = by_path(nnx.state(fusion))
    np.testing.assert_array_equal(got["project.kernel"], arrays["proj_c.weight"].T)
    np.testing.assert_array_equal(got["gate.layers.0.kernel"], arrays["beta_mlp.0.weight"].T)
    np.testing.assert_array_equal(got["gate.layers.0.bias"], arrays["beta_mlp.0.bias"])
    np.testing.assert_array_equal(got["norm.scale"], arrays["ln.weight"])
    np.testing.assert_array_equal(got["norm.bias"], arrays["ln.bias"])


def test_every_problem_is_listed_by_name(fusion):
    before = by_path(nnx.state(fusion))
    arrays = dict(before)
    del arrays["norm.bias"], arrays["gate.layers.1.kernel"]
    arrays |= {"norm.shift": np.zeros(16), "project.kernel": np.zeros((16, 15))}
    with pytest.raises(ValueError) as error:
        set_arrays(fusion, arrays)
    message = str(error.value)
    assert "missing gate.layers.1.kernel, norm.bias" in message
    assert "unknown norm.shift" in message
    assert "misshapen project.kernel is (16, 15), expected (16, 16)" in message
    assert "gate.layers.0" not in message  # what fits is not named
    for name, array in by_path(nnx.state(fusion)).items():
        np.testing.assert_array_equal(array, before[name])  # nothing was set halfway


def test_setting_arrays_sets_all_of_them(fusion):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=a.shape) for name, a in by_path(nnx.state(fusion)).items()}
    set_arrays(fusion, arrays)
    for name, array in by_path(nnx.state(fusion)).items():
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, arrays[name], rtol=1e-6)
