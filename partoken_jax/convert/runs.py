"""From a file of the original's weights to a run directory, and back.

JAX is imported where a checkpoint is made, after everything has been checked.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from partoken_jax.config import ConfigError, DataConfig, TrainConfig, save_yaml, to_dict
from partoken_jax.convert.files import ConvertError, Weights, check_suffix, read_weights, write_weights
from partoken_jax.convert.names import (
    EPOCH,
    OURS_ALONE,
    dotted,
    filled,
    from_state_dict,
    our_path,
    to_state_dict,
)
from partoken_jax.convert.original import ENCODER_NAMES, RESIDUE_EMBEDDING, state_dict_shapes
from partoken_jax.convert.settings import (
    combine,
    hyper_parameters,
    settings_of_hyper_parameters,
    settings_of_weights,
    unknown_settings,
    value_of,
)
from partoken_jax.proteins import load_dataset
from partoken_jax.proteins.tasks import CATH_CLASSES, EC_CLASSES

if TYPE_CHECKING:
    from partoken_jax.training.checkpoints import Which
    from partoken_jax.training.state import TrainState
from partoken_jax.training.run_directory import LOCK, CheckpointError, check_run_dir, clear_run_dir, locked

Arrays = dict[str, np.ndarray]
ORIGINAL_HEADS = 4
# Parts of every model; what stands before them is the prefix of all keys.
_ANCHOR = re.compile(r"(^|(?<=\.))(node_encoder|W_v|classifier)\.\d")


def import_weights(
    source: str | Path,
    run_dir: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    trust_pickle: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Makes a run directory with checkpoints out of the original's weights; says in lines what it did.

    Sizes come from the weights, the rest from hyper-parameters in the file and from `settings` (by dotted
    name: {"model.pooling": "mean"}); what nobody says is as published, and listed. The temperature is that of
    the file's epoch. Classes are called as in `data.task`; by number, if no task is given that has as many.

    PartGVP is ParToken whose codebook was never in use. Where all its counts are 0, the checkpoint bypasses
    it as one of stage 0 does; where it is not in the file, or nothing but zeros, the model has none
    (`model.codebook.enabled` is false).

    Raises ConvertError for a file that cannot be read, keys that are unknown, missing or misshapen (all of
    them, by the original's names), or settings that contradict each other or the weights.
    """
    source, run_dir = Path(source), Path(run_dir)
    if run_dir.is_file():
        raise ConvertError(f"{run_dir} is a file; name a directory for the run")
    try:
        check_run_dir(dataclasses.replace(TrainConfig(), run_dir=str(run_dir), overwrite=True))
    except CheckpointError:
        raise ConvertError(
            f"{run_dir} has content, but is not the directory of a run; name another"
        ) from None
    if run_dir.is_dir() and any(path.name != LOCK for path in run_dir.iterdir()) and not overwrite:
        raise ConvertError(f"{run_dir} already exists; pass --overwrite to replace it, or name another one")
    weights = read_weights(source, trust_pickle=trust_pickle)
    arrays = _without_prefix(source, weights.arrays)
    said = {"its weights": settings_of_weights(source, arrays)}
    kind = said["its weights"]["model.kind"]
    try:
        said["its hyper-parameters"], unused = settings_of_hyper_parameters(weights.hyper_parameters, kind)
    except ConfigError as error:
        raise ConvertError(f"{source}: its hyper-parameters: {error}") from None
    said["the settings given"] = dict(settings or {})
    config = combine(source, said)
    config = dataclasses.replace(config, run_dir=str(run_dir), overwrite=False, resume=False)
    _check_known(source, config)
    used, lines = _computed_with(arrays, config)
    _check(source, used, config)
    class_names = _class_names(source, config)

    epoch = _epoch(source, arrays)

    from flax import nnx

    from partoken_jax.training.checkpoints import CheckpointMeta, Score, save_imported
    from partoken_jax.training.epochs import nothing_yet

    in_use = config.model.codebook.enabled and bool(used.get("codebook.ema_counts", np.zeros(1)).any())
    state = _state(config, used)
    meta = CheckpointMeta(
        config=to_dict(config),
        class_names=list(class_names),
        fingerprint="",
        epoch=epoch,
        so_far=nothing_yet(),
        stage=int(in_use),
        bypass_codebook=not in_use,
        temperature=float(np.float32(config.temperature.at(epoch))),
        num_parameters=sum(variable.size for _, variable in nnx.to_flat_state(state.params)),
        validation={},
        best=Score(epoch=epoch, accuracy=math.nan, macro_f1=math.nan),  # not measured
    )
    with locked(run_dir):
        clear_run_dir(run_dir)
        save_yaml(config, run_dir / "config.yaml")
        save_imported(run_dir, state, meta)

    if kind == "partoken":
        where = "" if EPOCH in arrays else f" ({EPOCH} is not in the file)"
        lines.append(f"epoch {epoch}{where}, temperature {meta['temperature']:.4g}")
        lines.append(f"codebook: {'in use' if in_use else 'never in use, bypassed as in stage 0'}")
    assumed = unknown_settings(kind, (name for part in said.values() for name in part))
    if assumed:
        values = ", ".join(f"{name} {value_of(config, name)}" for name in assumed)
        lines.append(f"as published, because nothing says otherwise (--config or flags do): {values}")
    if unused:
        lines.append(f"hyper-parameters without a counterpart here: {', '.join(unused)}")
    return [
        f"{source}: {kind} with {meta['num_parameters']:,} parameters",
        *lines,
        f"classes: {', '.join(class_names)} (--data.task {config.data.task})",
        f"{run_dir}: checkpoints 'best' and 'last'; see `partoken evaluate {run_dir}`, and go on from them "
        "with `partoken train --resume --run-dir` or `partoken train --init-from`",
    ]


def read_initial_weights(source: str | Path, *, trust_pickle: bool = False) -> dict[str, np.ndarray]:
    """The original's weights in a file as arrays by the dotted names of our parameters, for `training.train`.

    Raises ConvertError as `read_weights`, and for a file without weights of the original.
    """
    arrays = _without_prefix(Path(source), read_weights(source, trust_pickle=trust_pickle).arrays)
    used = {key: array for key, array in arrays.items() if our_path(key) is not None}
    rows, width = RESIDUE_EMBEDDING
    for names in ENCODER_NAMES.values():
        embedding = f"{names['residues']}.weight"
        if embedding in used and used[embedding].shape == (rows + 1, width):
            used[embedding] = used[embedding][:rows]
    _check_finite(Path(source), {key: array for key, array in used.items() if array.dtype.kind == "f"})
    return from_state_dict(used)


def export_weights(
    run_dir: str | Path, target: str | Path, *, checkpoint: "Which" = "best", overwrite: bool = False
) -> list[str]:
    """Writes a checkpoint as a `state_dict` of the original, which loads it with strict=True; says in lines
    what it did.

    What the original builds and never uses is written as zeros, `partitioner.epoch` such that the temperature
    is that of the checkpoint. Hyper-parameters, where the file has a place for them, also hold what the
    original does not keep and results depend on, such as `data.neighbours`.

    Raises CheckpointError without such a checkpoint, ConvertError for a target that cannot be written or a
    model that the original does not have.
    """
    run_dir, target = Path(run_dir), Path(target)
    check_suffix(target)
    if target.exists() and not overwrite:
        raise ConvertError(f"{target} already exists; pass --overwrite to replace it, or name another file")
    if target.is_dir() or not target.parent.is_dir():
        raise ConvertError(f"{target}: is a directory, or in none that exists; name a file in a directory")

    from partoken_jax.training.checkpoints import restore
    from partoken_jax.training.objective import named_arrays

    restored = restore(run_dir, checkpoint)
    config, meta = restored.config, restored.meta
    model = config.model
    _check_known(run_dir, config)
    ours = named_arrays(restored.state.params, restored.state.codebook)
    arrays = to_state_dict(ours, state_dict_shapes(model))
    epoch = meta["epoch"]
    lines = []
    if EPOCH in arrays:
        epoch = _original_epoch(config, epoch, meta["temperature"])
        arrays[EPOCH] = np.array(epoch)
        lines.append(f"{EPOCH} {epoch}: temperature {meta['temperature']:.4g}, as in the checkpoint")
    zeros = [
        key for key, array in arrays.items() if array.size and key != EPOCH and our_path(key) not in ours
    ]
    if zeros:
        count = sum(arrays[key].size for key in zeros)
        lines.append(f"zeros, because nothing computes with them ({count:,} values): {', '.join(zeros)}")
    if model.kind == "partoken" and model.attention_heads != ORIGINAL_HEADS:
        lines.append(f"attention_heads is {model.attention_heads}: set the original's heads, which are 4")
    if model.kind == "partoken" and model.codebook.classify_quantised:
        lines.append("set use_quantized_for_classification = True on the original's model")
    if model.precision != "float32":
        lines.append(
            f"model.precision {model.precision} is not in the file, because the original has float32 alone; "
            f"to come back, --model.precision {model.precision}"
        )
    write_weights(target, Weights(arrays, hyper_parameters(config)), epoch=epoch)
    if target.suffix not in (".ckpt", ".safetensors"):
        lines.append(f"{target.suffix} holds no settings; to come back, --config {run_dir / 'config.yaml'}")
    return [
        f"{run_dir}: checkpoint '{checkpoint}', epoch {meta['epoch']}, {model.kind}",
        *lines,
        f"{target}: {len(arrays)} arrays by the original's names",
    ]


def _check_known(where: Path, config: TrainConfig) -> None:
    if config.model.kind == "residues":
        raise ConvertError(
            f"{where}: is a pretrained model of residue types, which the original does not have; train "
            "another one from it with --init-from and convert that"
        )
    for name, only in (("norm_pooled", False), ("output_activation", "relu")):
        if (value := getattr(config.model, name)) != only:
            raise ConvertError(
                f"{where}: model.{name} is {value!r}, which the original does not have; it can be {only!r}"
            )
    if config.model.kind == "partoken" and config.model.pooling == "attention":
        raise ConvertError(
            f"{where}: model.pooling is 'attention', which the original's ParToken does not have, and so its "
            "weights do not either; it can be 'mean', 'max' or 'sum'"
        )
    if config.model.kind == "partoken" and config.model.partitioner.kind != "learned":
        raise ConvertError(
            f"{where}: model.partitioner.kind is {config.model.partitioner.kind!r}, which the original does "
            "not have; it can be 'learned'"
        )
    codebook = config.model.codebook
    if config.model.kind == "partoken" and (codebook.dimension is not None or codebook.quantiser != "vq"):
        raise ConvertError(
            f"{where}: model.codebook has dimension {codebook.dimension} and quantiser "
            f"'{codebook.quantiser}', but the original chooses the nearest code by all channels as they are; "
            "it can only take models with dimension null and quantiser 'vq'"
        )


def _epoch(source: Path, arrays: Mapping[str, np.ndarray]) -> int:
    """The original's count of epochs; 0 where there is none."""
    found = np.asarray(arrays.get(EPOCH, 0))
    if found.size != 1 or found.dtype.kind not in "iuf" or not found.item() >= 0 or found.item() % 1:
        raise ConvertError(f"{source}: {EPOCH} is {found}, but must be one whole number from 0 up")
    return int(found.item())


def _without_prefix(source: Path, arrays: Mapping[str, np.ndarray]) -> Arrays:
    """Keys without the "model." that Lightning (or a wrapper of torch) puts before those of the model."""
    prefixes = sorted({key[: match.start()] for key in arrays if (match := _ANCHOR.search(key))})
    if len(prefixes) > 1:
        named = ", ".join(repr(prefix) for prefix in prefixes)
        raise ConvertError(
            f"{source}: holds several models (keys begin with {named}); save one of them alone"
        )
    prefix = prefixes[0] if prefixes else ""
    return {key.removeprefix(prefix): array for key, array in arrays.items()}


def _computed_with(arrays: Arrays, config: TrainConfig) -> tuple[Arrays, list[str]]:
    """The arrays that our model takes, and in lines what was dropped or changed."""
    lines = []
    unused = [key for key, array in arrays.items() if our_path(key) is None and array.size and key != EPOCH]
    if unused:
        count = sum(arrays[key].size for key in unused)
        lines.append(f"dropped, nothing computes with them: {', '.join(unused)} ({count:,} parameters)")
    if empty := sum(our_path(key) is None and array.size == 0 for key, array in arrays.items()):
        lines.append(f"dropped: {empty} empty dummy_param")
    used = {key: array for key, array in arrays.items() if our_path(key) is not None}
    if config.model.kind == "partoken" and not config.model.codebook.enabled:
        codebook = [key for key in used if key.startswith("codebook.")]
        if codebook:
            lines.append(f"dropped, all zeros: {', '.join(codebook)}")
        used = {key: array for key, array in used.items() if key not in codebook}
    embedding = f"{ENCODER_NAMES[config.model.kind]['residues']}.weight"
    rows, width = RESIDUE_EMBEDDING
    if embedding in used and used[embedding].shape == (rows + 1, width):
        used[embedding] = used[embedding][:rows]
        lines.append(
            f"dropped: row {rows} of {embedding}, for unknown residues, which proteins have none of here"
        )
    if wide := [key for key, array in used.items() if array.dtype == np.float64]:
        lines.append(f"rounded from float64 to float32: {', '.join(wide)}")
    return used, lines


def _check(source: Path, used: Arrays, config: TrainConfig) -> None:
    """Raises ConvertError that lists every key which does not fit the model."""
    shapes = {
        key: shape for key, shape in state_dict_shapes(config.model).items() if our_path(key) is not None
    }
    if not config.model.codebook.enabled:
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith("codebook.")}
    both = [key for key in shapes if key in used]
    problems = {
        "unknown": [key for key in used if key not in shapes],
        "missing": [key for key in shapes if key not in used],
        "misshapen": [
            f"{key} is {used[key].shape}, expected {shapes[key]}"
            for key in both
            if used[key].shape != shapes[key]
        ],
        "not of floating point": [
            f"{key} is {used[key].dtype}" for key in both if used[key].dtype.kind != "f"
        ],
    }
    if any(problems.values()):
        listed = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
        raise ConvertError(
            f"{source}: does not fit the original's {config.model.kind}, whose whole state_dict is needed; "
            f"{listed}"
        )
    _check_finite(source, used)


def _check_finite(source: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ConvertError that lists the weights that are no numbers: such a model predicts nothing."""
    wrong = [key for key, array in arrays.items() if not np.isfinite(array).all()]
    if wrong:
        raise ConvertError(
            f"{source}: holds NaN or infinite values in {', '.join(wrong)}, so that the model would predict "
            "nothing; convert an earlier checkpoint"
        )


def _class_names(source: Path, config: TrainConfig) -> tuple[str, ...]:
    """Those of the task, if the classifier has as many; else numbers, if the task is the default one."""
    data, num_classes = config.data, config.model.num_classes
    names: tuple[str, ...] = {"ec-class": EC_CLASSES, "cath-class": CATH_CLASSES}.get(data.task, ())
    if data.task not in ("ec-class", "cath-class"):
        names = load_dataset(data.path, task=data.task, split_scheme=data.split_scheme).class_names
    if len(names) == num_classes:
        return names
    if data.task != DataConfig.task:
        raise ConvertError(
            f"{source}: its classifier has {num_classes} classes, but data.task {data.task!r} has "
            f"{len(names)}; give the task it was trained on, or none"
        )
    return tuple(f"class {number}" for number in range(num_classes))


def _state(config: TrainConfig, used: Arrays) -> "TrainState":
    """Where training would begin, with these weights."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from partoken_jax.training.state import TrainState, abstract_state, run_keys

    # Without `initial_state`, which compiles a program to make weights that nobody needs.
    _, shapes = abstract_state(config)
    buffers = {dotted(path): np.zeros(v.shape) for path, v in nnx.to_flat_state(shapes.codebook)}
    ours = {name: buffers[name] for name in OURS_ALONE if name in buffers} | from_state_dict(used)
    return TrainState(
        params=filled(shapes.params, ours),
        codebook=filled(shapes.codebook, ours),
        moments=jax.tree.map(lambda zero: np.zeros(zero.shape, zero.dtype), shapes.moments),
        key=run_keys(config.seed).step,
        step=jnp.int32(0),
        stopped=jnp.bool_(False),
    )


def _original_epoch(config: TrainConfig, epoch: int, temperature: float) -> int:
    """The original's epoch of the same temperature: it counts an epoch when it begins, we when it is done.

    A checkpoint that came from the original keeps its number.
    """
    candidates: Iterable[int] = (epoch, epoch - 1)
    return next(e for e in candidates if math.isclose(config.temperature.at(e), temperature, rel_tol=1e-6))
