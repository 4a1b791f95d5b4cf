"""From files of the original's weights to run directories and back, and the same predictions."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.parity.graphs import batch_graph
from experiments.parity.partitioner import Padding, all_rounds
from experiments.parity.vectors import one_protein
from partoken_jax.cli import main
from partoken_jax.config import ModelConfig, TrainConfig, load_yaml, to_dict
from partoken_jax.convert import (
    ConvertError,
    export_weights,
    import_weights,
    our_path,
    read_weights,
    state_dict_shapes,
)
from partoken_jax.proteins.tasks import CATH_CLASSES
from partoken_jax.training.checkpoints import restore, save_imported
from partoken_jax.training.state import abstract_state
from tests.convert.recorded import (
    file_of,
    metadata_file,
    partoken_hyper_parameters,
    recorded,
    vectors,
)
from tests.helpers import assert_close, by_path, tiny

NOT_AS_PUBLISHED = {"model.partitioner.cluster_size_max": 4, "model.dropout": 0.2}
"""What the hyper-parameters of the recorded ParToken say and its weights do not."""


def restored_model(run_dir):
    restored = restore(run_dir)
    return nnx.merge(restored.graphdef, restored.state.params, restored.state.codebook), restored


def test_partoken_predicts_what_the_original_predicts(tmp_path):
    """Its recorded logits and codes, from its weights through a file and a run directory."""
    arrays, _ = recorded("partoken")
    source = metadata_file(tmp_path, arrays, partoken_hyper_parameters())
    lines = import_weights(source, tmp_path / "run")
    model, restored = restored_model(tmp_path / "run")
    v = vectors("partoken")
    padding = Padding(v["in.batch"])
    uniform = jnp.asarray(all_rounds(padding.flat(v["eval.uniform"]), v.config["max_clusters"]))
    out = jax.jit(lambda m, graph: m(graph, temperature=restored.meta["temperature"], uniform=uniform))(
        model, batch_graph(v.under("in"), "dense")
    )
    assert_close(out.logits, v["eval.logits"])
    np.testing.assert_array_equal(out.codes, v["eval.code_indices"])
    assert not restored.meta["bypass_codebook"]
    # The hyper-parameters say everything else.
    assumed = "data.neighbours 30, model.codebook.classify_quantised False"
    assert [line.split(": ")[1] for line in lines if "as published" in line] == [assumed]
    assert load_yaml(TrainConfig, tmp_path / "run" / "config.yaml") == restored.config


@pytest.mark.parametrize("pooling", ["max", "attention"])
def test_the_baseline_predicts_what_the_original_predicts(tmp_path, pooling):
    name, setting = {"max": ("baseline", "seq0"), "attention": ("baseline with residue types", "seq1")}[
        pooling
    ]
    arrays, _ = recorded(name)
    settings = {}
    if pooling == "max":
        arrays = {key: array for key, array in arrays.items() if not key.startswith("attention.")}
        settings = {"model.pooling": "max"}
    import_weights(file_of(tmp_path, arrays), tmp_path / "run", settings=settings)
    model, _ = restored_model(tmp_path / "run")
    v = vectors(name)
    logits = jax.jit(lambda m, graph: m(graph).logits)(
        model, batch_graph(one_protein(v.under("in"), 0), "dense")
    )
    assert_close(logits, v[f"{pooling}.{setting}.logits_single_graph0"])


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt", ".ckpt"])
def test_there_and_back_through_a_run_is_exact(tmp_path, suffix):
    if suffix in (".pt", ".ckpt"):
        pytest.importorskip("torch")
    arrays, _ = recorded("partoken")
    arrays["partitioner.epoch"] = np.array(140)  # the temperature has long been at its end
    hyper = partoken_hyper_parameters()
    import_weights(metadata_file(tmp_path, arrays, hyper), tmp_path / "run")
    lines = export_weights(tmp_path / "run", tmp_path / f"w{suffix}")
    weights = read_weights(tmp_path / f"w{suffix}")
    back = {key.removeprefix("model."): array for key, array in weights.arrays.items()}
    assert set(back) == set(arrays)
    for key, array in arrays.items():
        unused = our_path(key) is None and key != "partitioner.epoch"
        assert back[key].dtype == array.dtype
        np.testing.assert_array_equal(back[key], np.zeros_like(array) if unused else array, key)
        assert not (unused and array.size) or any(key in line for line in lines)

    # .pt and .npz have no place for settings.
    settings = {} if suffix in (".safetensors", ".ckpt") else NOT_AS_PUBLISHED
    import_weights(tmp_path / f"w{suffix}", tmp_path / "again", settings=settings)
    first, second = (restore(tmp_path / run) for run in ("run", "again"))
    assert second.config.model == first.config.model and second.meta["epoch"] == 140
    for part in ("params", "codebook"):
        a, b = (by_path(getattr(r.state, part)) for r in (first, second))
        assert a.keys() == b.keys()
        for path in a:
            np.testing.assert_array_equal(a[path], b[path])


NOT_KEPT = {"data.neighbours": 16, "model.codebook.classify_quantised": True}
"""What results depend on and the original's models do not keep, not as published."""


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_there_and_back_keeps_what_the_original_does_not(tmp_path, suffix):
    if suffix == ".ckpt":
        pytest.importorskip("torch")
    arrays, _ = recorded("partoken")
    import_weights(file_of(tmp_path, arrays), tmp_path / "run", settings=NOT_KEPT)
    export_weights(tmp_path / "run", tmp_path / f"w{suffix}")
    lines = import_weights(tmp_path / f"w{suffix}", tmp_path / "again")
    first, second = (restore(tmp_path / run).config for run in ("run", "again"))
    assert second.data.neighbours == 16 and second.model == first.model
    assert second.model.codebook.classify_quantised and not any("as published" in line for line in lines)


def test_a_file_without_settings_says_which_are_as_published(tmp_path):
    """.npz has no place for them: writing says how to come back, reading what was taken instead."""
    arrays, _ = recorded("partoken")
    import_weights(file_of(tmp_path, arrays), tmp_path / "run", settings=NOT_KEPT)
    said = "\n".join(export_weights(tmp_path / "run", tmp_path / "w.npz"))
    assert f".npz holds no settings; to come back, --config {tmp_path / 'run' / 'config.yaml'}" in said
    (line,) = [line for line in import_weights(tmp_path / "w.npz", tmp_path / "b") if "as published" in line]
    assert "data.neighbours 30" in line and "model.codebook.classify_quantised False" in line
    # As the command is told to come back.
    again, config = str(tmp_path / "again"), str(tmp_path / "run" / "config.yaml")
    assert main(["convert", str(tmp_path / "w.npz"), again, "--config", config]) == 0
    first, second = (restore(tmp_path / run).config for run in ("run", "again"))
    assert (second.model, second.data) == (first.model, first.data)


def test_a_precision_that_the_original_lacks_is_said(tmp_path):
    arrays, _ = recorded("baseline")
    settings = {"model.precision": "bfloat16"}
    import_weights(file_of(tmp_path, arrays), tmp_path / "run", settings=settings)
    said = export_weights(tmp_path / "run", tmp_path / "w.safetensors")
    assert any("to come back, --model.precision bfloat16" in line for line in said)


def test_the_epoch_gives_the_temperature_of_the_checkpoint(tmp_path):
    arrays, _ = recorded("partoken")
    arrays["partitioner.epoch"] = np.array(12)
    import_weights(file_of(tmp_path, arrays), tmp_path / "run")
    meta = restore(tmp_path / "run").meta
    assert meta["epoch"] == 12 and meta["temperature"] == pytest.approx(0.95**12)


def test_a_checkpoint_of_ours_keeps_its_temperature(tmp_path):
    """We count an epoch when it is done, the original when it begins: its number is one less."""
    arrays, _ = recorded("partoken")
    import_weights(file_of(tmp_path, arrays), tmp_path / "run")
    restored = restore(tmp_path / "run")
    temperature = float(np.float32(restored.config.temperature.at(4)))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    save_imported(tmp_path / "run", restored.state, {**restored.meta, "epoch": 5, "temperature": temperature})
    export_weights(tmp_path / "run", tmp_path / "w.npz")
    assert read_weights(tmp_path / "w.npz").arrays["partitioner.epoch"] == 4
    import_weights(tmp_path / "w.npz", tmp_path / "again")
    assert restore(tmp_path / "again").meta["temperature"] == temperature


def test_partgvp_bypasses_its_codebook(tmp_path):
    """Whether the file holds a codebook that was never in use, or none at all."""
    arrays, _ = recorded("partoken")
    codebook = [key for key in arrays if key.startswith("codebook.")]
    unused = {**arrays, "codebook.ema_counts": np.zeros_like(arrays["codebook.ema_counts"])}
    import_weights(file_of(tmp_path, unused), tmp_path / "unused")
    meta = restore(tmp_path / "unused").meta
    assert meta["bypass_codebook"] and meta["stage"] == 0 and meta["config"]["model"]["codebook"]["enabled"]

    without = {key: array for key, array in arrays.items() if key not in codebook}
    import_weights(file_of(tmp_path, without), tmp_path / "without")
    first = restore(tmp_path / "without")
    assert first.meta["bypass_codebook"] and not first.config.model.codebook.enabled
    # The original builds a codebook in any case: ours is written as zeros, and zeros are read as none.
    lines = export_weights(tmp_path / "without", tmp_path / "w.npz")
    written = read_weights(tmp_path / "w.npz").arrays
    assert all(not written[key].any() and any(key in line for line in lines) for key in codebook)
    import_weights(tmp_path / "w.npz", tmp_path / "again", settings={"model.codebook.enabled": False})
    second = restore(tmp_path / "again")
    assert second.config.model == first.config.model
    a, b = by_path(first.state.params), by_path(second.state.params)
    assert a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


def test_every_problem_is_listed_by_the_names_of_the_original(tmp_path):
    arrays, _ = recorded("partoken")
    del arrays["fw_gate.ln.bias"], arrays["gvp_layers.1.norm.0.scalar_norm.weight"]
    arrays["fw_gate.proj_c.weight"] = np.zeros((16, 15), np.float32)
    arrays["classifier.3.bias"] = np.zeros(32, np.int32)
    arrays |= {"cluster_gcn.weight": np.zeros(3, np.float32)}
    source = file_of(
        tmp_path, {f"model.{key}": array for key, array in arrays.items()} | {"criterion": np.ones(3)}
    )
    with pytest.raises(ConvertError) as error:
        import_weights(source, tmp_path / "run")
    message = str(error.value)
    assert message.startswith(f"{source}: does not fit the original's partoken, whose whole ")
    assert "unknown: cluster_gcn.weight, criterion" in message
    assert "missing: gvp_layers.1.norm.0.scalar_norm.weight, fw_gate.ln.bias" in message
    assert "misshapen: fw_gate.proj_c.weight is (16, 15), expected (16, 16)" in message
    assert "classifier.3.bias is int32" in message
    assert "classifier.6" not in message and not (tmp_path / "run").exists()


def test_a_prefix_is_found_whatever_key_is_missing(tmp_path):
    arrays, _ = recorded("partoken")
    for key in ("classifier.0.weight", "node_encoder.0.scalar_norm.bias"):
        rest = {f"model.{name}": array for name, array in arrays.items() if name != key}
        with pytest.raises(ConvertError, match=f"missing: {key}$"):
            import_weights(file_of(tmp_path, rest), tmp_path / "run")


@pytest.mark.parametrize("epoch", [np.array(-1), np.array(1.5), np.array(np.nan), np.zeros(0), np.array("3")])
def test_an_epoch_that_is_none_is_refused(tmp_path, epoch):
    arrays, _ = recorded("partoken")
    with pytest.raises(
        ConvertError, match=r"weights\.npz: partitioner\.epoch is .* must be one whole number"
    ):
        import_weights(file_of(tmp_path, {**arrays, "partitioner.epoch": epoch}), tmp_path / "run")


def test_what_is_dropped_changed_or_assumed_is_said(tmp_path):
    arrays, _ = recorded("baseline with residue types")
    embedding = arrays["W_s.weight"]
    arrays["W_s.weight"] = np.concatenate([embedding, np.ones((1, 20))])  # with unknown residues, in float64
    arrays["cluster_attention.0.weight"] = np.zeros((8, 16), np.float32)
    said = "\n".join(import_weights(file_of(tmp_path, arrays), tmp_path / "run"))
    assert "dropped, nothing computes with them: cluster_attention.0.weight (128 parameters)" in said
    assert f"{sum(key.endswith('dummy_param') for key in arrays)} empty dummy_param" in said
    assert "row 20 of W_s.weight" in said and "rounded from float64 to float32: W_s.weight" in said
    assert "as published, because nothing says otherwise (--config or flags do): model.dropout 0.1, " in said
    assert "model.dropout 0.1, data.neighbours 30\n" in said
    assert "classes: class 0, class 1, class 2 (--data.task ec-class)\n" in said
    stored = by_path(restore(tmp_path / "run").state.params)["encoder.residue_embedding.embedding"]
    np.testing.assert_array_equal(stored, embedding)


def test_the_published_model_drops_5101_parameters(tmp_path):
    """At the published sizes, with the classes of the task."""
    rng = np.random.default_rng(0)
    shapes = state_dict_shapes(ModelConfig())
    arrays = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    arrays["partitioner.epoch"] = np.array(3)
    lines = import_weights(file_of(tmp_path, arrays), tmp_path / "run")
    assert any("cluster_attention.3.bias (5,101 parameters)" in line for line in lines)
    assert "classes: oxidoreductase, transferase, " in "\n".join(lines)
    assert "706,414 parameters" in lines[0]  # 711,515 of the original


def test_classes_must_fit_the_task_if_it_is_given(tmp_path):
    arrays, _ = recorded("baseline")
    source = file_of(tmp_path, arrays)
    with pytest.raises(ConvertError, match=r"has 3 classes, but data\.task 'cath-class' has 4"):
        import_weights(source, tmp_path / "run", settings={"data.task": "cath-class"})


def test_several_models_in_one_file_are_refused(tmp_path):
    arrays, _ = recorded("baseline")
    twice = {f"{prefix}.{key}": array for prefix in ("model", "average") for key, array in arrays.items()}
    with pytest.raises(ConvertError, match="several models"):
        import_weights(file_of(tmp_path, twice), tmp_path / "run")


def four_classes(tmp_path):
    """The recorded ParToken with a classifier of the four CATH classes."""
    arrays, _ = recorded("partoken")
    rng = np.random.default_rng(1)
    width = arrays["classifier.6.weight"].shape[1]
    arrays["classifier.6.weight"] = rng.normal(size=(len(CATH_CLASSES), width)).astype(np.float32)
    arrays["classifier.6.bias"] = np.zeros(len(CATH_CLASSES), np.float32)
    return file_of(tmp_path, arrays)


def test_a_converted_run_is_evaluated(tmp_path, capsys):
    run, settings = tmp_path / "run", tmp_path / "c.yaml"
    settings.write_text(
        "data: {task: cath-class, max_eval: 3, max_length: 40, too_long: crop, batch_size: 8}\n"
    )
    flags = ("--data.batch-size=3", "--data.neighbours", "8", "--model.partitioner.cluster-size-max", "4")
    assert main(["convert", str(four_classes(tmp_path)), str(run), "--config", str(settings), *flags]) == 0
    said = capsys.readouterr().out
    config = restore(run).config
    assert (config.data.batch_size, config.data.max_eval, config.data.neighbours) == (3, 3, 8)
    assert config.model.partitioner.cluster_size_max == 4 and config.run_dir == str(run)
    assert "cluster_size_max" not in said and "model.partitioner.k_hop 1" in said
    assert main(["evaluate", str(run), "--split", "val"]) == 0
    report = json.loads((run / "evaluation_val.json").read_text())
    assert len(report["predictions"]) == 3
    assert np.isfinite([protein["logits"] for protein in report["predictions"]]).all()


def complaint(capsys, *args) -> str:
    assert main(["convert", *map(str, args)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_mistakes_are_answered_in_one_sentence(tmp_path, capsys):
    arrays, _ = recorded("baseline")
    source, run = file_of(tmp_path, arrays), tmp_path / "run"
    assert "no such file" in complaint(capsys, tmp_path / "nothing.npz", run)
    (tmp_path / "weights.h5").write_text("")
    assert "ends in .pt" in complaint(capsys, tmp_path / "weights.h5", run)
    flags = ("--model.pooling", "sum")
    said = complaint(capsys, source, run, *flags)
    assert (
        "model.pooling is 'attention' according to its weights, but 'sum' according to the settings" in said
    )
    assert not run.exists()
    assert main(["convert", str(source), str(run)]) == 0
    capsys.readouterr()
    assert "--overwrite" in complaint(capsys, source, run)
    assert "is a file" in complaint(capsys, source, source)
    assert "--overwrite" in complaint(capsys, run, source)
    assert "name a file" in complaint(capsys, run, tmp_path / "nowhere" / "w.npz")
    assert "leave out model.pooling" in complaint(capsys, run, tmp_path / "w.npz", *flags)
    shutil.rmtree(run / "checkpoints" / "last")
    assert "no 'last' checkpoint" in complaint(capsys, run, tmp_path / "w.npz", "--checkpoint", "last")
    assert main(["convert", str(source), str(run), "--overwrite"]) == 0


def test_a_model_that_the_original_lacks_is_refused(tmp_path):
    arrays, _ = recorded("partoken")
    source, settings = file_of(tmp_path, arrays), {"model.pooling": "attention"}
    with pytest.raises(ConvertError, match="the original's ParToken does not have"):
        import_weights(source, tmp_path / "run", settings=settings)
    for name, value in (("partitioner.kind", "random"), ("norm_pooled", True), ("output_activation", "silu")):
        with pytest.raises(ConvertError, match=rf"{name} is {value!r}, which the original does not have"):
            import_weights(source, tmp_path / "run", settings={f"model.{name}": value})
    import_weights(source, tmp_path / "run")
    state, meta = restore(tmp_path / "run").state, restore(tmp_path / "run").meta
    config = dataclasses.replace(TrainConfig(), model=tiny(pooling="attention"))
    shapes = abstract_state(config)[1]._replace(key=None)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)._replace(key=state.key)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    save_imported(tmp_path / "run", state, {**meta, "config": to_dict(config)})
    with pytest.raises(ConvertError, match="the original's ParToken does not have"):
        export_weights(tmp_path / "run", tmp_path / "w.npz", checkpoint="last")
