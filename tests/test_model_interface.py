"""What models consist of, what they take, and how they refuse the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from partoken_jax.config import CodebookConfig, ModelConfig
from partoken_jax.graphs import featurise
from partoken_jax.models import ParToken, build_model
from partoken_jax.nn.codebook import Codebook
from partoken_jax.parameters import parameter_table
from tests.helpers import batch, tiny


@pytest.mark.parametrize(
    "kind, classes, total",
    [("gvp", 2, 514_267), ("partoken", 2, 705_409), ("gvp", 7, 514_772), ("partoken", 7, 711_515 - 5_101)],
)
def test_published_parameter_counts(kind, classes, total):
    config = ModelConfig(kind=kind, num_classes=classes)
    model = nnx.eval_shape(lambda: build_model(config, rngs=nnx.Rngs(0)))  # shapes suffice
    table = dict(parameter_table(model))
    assert table["total"] == total == sum(v for k, v in table.items() if k != "total")
    parts = {"node encoder": 2_616, "edge encoder": 1_154, "output projection": 12_156}
    parts |= {f"conv layer {i}": 152_613 for i in range(3)}
    if kind == "partoken":
        parts |= {"partitioner": 45_292, "attention over clusters": 40_000, "gated fusion": 25_350}
    if classes == 7:
        parts |= {"classifier": 122_007 if kind == "partoken" else 41_007}
    assert {name: table[name] for name in parts} == parts
    assert set(table) == set(parts) | {"total", "classifier"}
    if kind == "partoken":
        sizes = {k: v.size for k, v in _flat(nnx.state(model.partitioner)).items()}
        by_part = {
            "seed_selector": 7_601,
            "context": 5_050,
            "query": 6_400,
            "key": 6_400,
            "threshold": 19_841,
        }
        for part, want in by_part.items():
            assert sum(size for path, size in sizes.items() if path[0] == part) == want
        assert model.codebook.embeddings.shape == (512, 100)
        assert not nnx.to_flat_state(nnx.state(model.codebook, nnx.Param))
        assert len(nnx.to_flat_state(nnx.state(model, Codebook))) == 4


def _flat(state):
    return dict(nnx.to_flat_state(state))


def test_a_model_without_codebook(chains):
    codebook = CodebookConfig(enabled=False, size=8)
    model = ParToken(tiny(num_layers=1, codebook=codebook), rngs=nnx.Rngs(0))
    assert model.codebook is None
    out = jax.jit(lambda packed: model(featurise(packed)))(batch(chains[:4]))
    np.testing.assert_array_equal(out.codes, -1)
    assert out.losses.vq == out.losses.coverage == 0
    assert np.any(out.cluster_mask) and np.isfinite(out.logits).all()


def test_a_graph_that_is_not_featurised_is_refused(chains):
    packed = batch(chains[2:3], num_nodes=13, batch_size=1)
    for kind in ("gvp", "partoken"):
        with pytest.raises(TypeError, match=r"call partoken_jax\.featurise"):
            build_model(tiny(kind=kind), rngs=nnx.Rngs(0))(packed)


def test_proteins_where_a_graph_belongs_are_answered_in_one_sentence(chains):
    model = build_model(tiny(kind="gvp"), rngs=nnx.Rngs(0))
    for wrong, name in ((chains[0], "Protein"), (chains[:1], "list")):
        with pytest.raises(
            TypeError, match=rf"^the model reads featurised graphs, not {name}; call [^;]*first$"
        ):
            model(wrong)
        with pytest.raises(
            TypeError, match=rf"^featurise takes a packed batch, not {name}; call [^;]*first$"
        ):
            featurise(wrong)


def test_parameters_of_what_is_no_module_are_refused(chains):
    with pytest.raises(
        TypeError, match=r"^parameter_table takes a module, not \w+; of a loaded model, give "
    ):
        parameter_table(batch(chains[:4]))


@pytest.mark.parametrize("kind", ["gvp", "partoken"])
def test_models_take_the_arrays_of_pack_as_they_are(chains, kind):
    """NumPy arrays go through `featurise` and the model. Traced only: every operation meets NumPy arrays that
    are no arguments of a compiled function, as in a call without compilation."""
    packed = batch(chains[2:3], num_nodes=13, batch_size=1)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(packed))
    model = build_model(tiny(kind=kind), rngs=nnx.Rngs(0))
    logits = jax.eval_shape(lambda: model(featurise(packed)).logits)
    assert (logits.shape, logits.dtype) == ((1, 3), jnp.float32)
