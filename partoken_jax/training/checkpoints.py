"""The checkpoints of a run. The only file that knows Orbax.

RUN_DIR/checkpoints/last/N      the newest ones, numbered in the order of saving
RUN_DIR/checkpoints/best/EPOCH  those with the best validation scores
RUN_DIR/checkpoints/kept/EPOCH  one every `checkpoint.keep_every` epochs

Each is a directory with the arrays of a `TrainState` under state/ and a `CheckpointMeta` as JSON in
meta/metadata. Orbax writes them in the background and marks them whole at the end; a checksum over both parts
tells a whole checkpoint from one that was damaged later.
"""

import json
import logging
import math
import shutil
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from partoken_jax.config import ConfigError, TrainConfig, from_dict
from partoken_jax.training.devices import is_first_process
from partoken_jax.training.epochs import SoFar
from partoken_jax.training.run_directory import CheckpointError, Which, check_checkpoint, numbered
from partoken_jax.training.state import TrainState, abstract_state

KEEP_LAST = 2
"""The newest checkpoint, and the one to fall back on where that is damaged."""


class Score(TypedDict):
    """By what the best epoch is chosen, and which one it is."""

    epoch: int
    accuracy: float
    macro_f1: float


class CheckpointMeta(TypedDict):
    """The JSON half of a checkpoint."""

    config: dict
    """`TrainConfig` as `partoken_jax.config.to_dict` gives it."""
    class_names: list[str]
    fingerprint: str
    """Of the data (`data.RunData.fingerprint`); empty where they are not known."""
    epoch: int
    """Epochs done, validation included, over both stages."""
    so_far: SoFar
    """Of the epoch after these. Its steps say how many batches of that epoch are done."""
    stage: int
    """Of the last step."""
    bypass_codebook: bool
    """The codebook was not in use yet (stage 0, or a model without one)."""
    temperature: float
    """Of the partitioner in the last step; evaluation uses the same."""
    num_parameters: int
    validation: dict
    """Validation metrics after the last whole epoch; empty before the first."""
    best: Score | None
    """The best epoch up to then; none before the first, and none of stage 0 once the codebook is in use."""


class Restored(NamedTuple):
    """A checkpoint, read back."""

    config: TrainConfig
    graphdef: nnx.GraphDef
    state: TrainState
    meta: CheckpointMeta
    path: Path


class CheckpointWriter:
    """Writes the checkpoints of one run in the background. A context manager: leaving it waits for the last
    one to be whole.

    Of several processes only the first writes; to the others `save` and `forget_after` are nothing to do.

    A checkpoint that cannot be written, as on a full disk, is a warning and not an error: the run goes on and
    the earlier checkpoints stay.
    """

    def __init__(self, run_dir: Path, *, keep_best: int, keep_every: int | None):
        self._directory = Path(run_dir).resolve() / "checkpoints"
        self._keep_best, self._keep_every = keep_best, keep_every
        self._managers: dict[str, ocp.CheckpointManager] = {}
        self._under_way: dict[str, int] = {}
        self._log_levels: dict[str, int] = {}
        self.up_to_date = True
        """Whether the newest state given as "last" is on the disk, as far as is known; ask after `wait`."""
        self._next = max(numbered(self._directory / "last"), default=-1) + 1

    def __enter__(self) -> "CheckpointWriter":
        # What goes wrong in the background is a warning of ours, not also a traceback of Orbax's.
        for name in ("absl", "asyncio"):
            self._log_levels[name] = logging.getLogger(name).level
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        return self

    def __exit__(self, *error: object) -> None:
        self.wait()
        for manager in self._managers.values():
            manager.close()
        for name, level in self._log_levels.items():
            logging.getLogger(name).setLevel(level)

    def save(self, which: Which, state: TrainState, meta: CheckpointMeta) -> None:
        """Copies the state to the host, which waits for the steps under way, and returns; the rest happens in
        the background. A "last" one at the end of an epoch that `keep_every` divides is kept as well.
        """
        if not is_first_process():
            return
        host = _to_host(state)
        sealed = {**meta, "checksum": _checksum(host, meta)}
        if which == "best":
            self._write("best", meta["epoch"], host, sealed)
            return
        self.wait()
        self.up_to_date = True
        self._write("last", self._next, host, sealed)
        self._next += 1
        whole = not meta["so_far"]["steps"] and meta["epoch"] > 0
        if self._keep_every is not None and whole and meta["epoch"] % self._keep_every == 0:
            self._write("kept", meta["epoch"], host, sealed)

    def wait(self) -> None:
        """Returns when everything is on the disk, or the failure has been warned of."""
        for name, manager in list(self._managers.items()):
            try:
                manager.wait_until_finished()
                self._under_way.pop(name, None)  # it is whole
            except Exception as error:
                self._failed(name, error)
        self._trim()

    def has_best(self, epoch: int) -> bool:
        """Whether the checkpoint "best" of an epoch is on the disk; ask after `wait`. Processes that write
        none take it to be."""
        return not is_first_process() or epoch in numbered(self._directory / "best")

    def forget_after(self, restored: "Restored") -> None:
        """Removes the checkpoints of what a resumed run does again."""
        epoch = restored.meta["epoch"]
        if not is_first_process():
            return
        for name, newest in (("last", int(restored.path.name)), ("best", epoch), ("kept", epoch)):
            for number in numbered(self._directory / name):
                if number > newest:
                    shutil.rmtree(self._directory / name / str(number), ignore_errors=True)

    def _write(self, name: str, number: int, host: TrainState, meta: dict) -> None:
        try:
            if name in self._managers:
                self._managers[name].wait_until_finished()  # raises what went wrong in the background
                self._under_way.pop(name, None)
        except Exception as error:
            self._failed(name, error)
        self._trim()
        try:
            if name not in self._managers:
                self._managers[name] = self._manager(name)
            self._managers[name].save(
                number,
                args=ocp.args.Composite(state=ocp.args.StandardSave(host), meta=ocp.args.JsonSave(meta)),
                force=True,
            )
            self._under_way[name] = number
        except Exception as error:
            self._failed(name, error)

    def _manager(self, name: str) -> ocp.CheckpointManager:
        (self._directory / name).mkdir(parents=True, exist_ok=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEEP_LAST if name == "last" else None,
            create=False,  # which Orbax refuses where not all processes take part
            cleanup_tmp_directories=True,
            save_root_metadata=False,
            multiprocessing_options=_alone(),
        )
        return ocp.CheckpointManager(self._directory / name, options=options)

    def _failed(self, name: str, error: Exception) -> None:
        # A manager that failed may refuse to go on; the next checkpoint gets a new one.
        self._managers.pop(name, None)
        self.up_to_date = self.up_to_date and name != "last"
        if name in self._under_way:
            shutil.rmtree(self._directory / name / str(self._under_way.pop(name)), ignore_errors=True)
        warnings.warn(
            f"{self._directory / name}: a checkpoint could not be written ({_reason(error)}); the run goes "
            "on and tries again at the next one",
            stacklevel=2,
        )

    def _trim(self) -> None:
        """Removes the best checkpoints but the `keep_best` that rank highest. Never while one is written."""
        ranked = sorted(_ranks(self._directory / "best"), reverse=True)
        for *_, path in ranked[self._keep_best :]:
            shutil.rmtree(path, ignore_errors=True)


def save_imported(run_dir: Path, state: TrainState, meta: CheckpointMeta) -> None:
    """Writes the checkpoints "best" and "last" of weights that come from elsewhere.

    Raises CheckpointError where they cannot be written.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with CheckpointWriter(run_dir, keep_best=1, keep_every=None) as writer:
            writer.save("best", state, meta)
            writer.save("last", state, meta)
    if failures := [str(w.message) for w in caught if "could not be written" in str(w.message)]:
        raise CheckpointError(failures[0].replace("; the run goes on and tries again at the next one", ""))


def read_meta(run_dir: str | Path, which: Which = "best") -> CheckpointMeta:
    """The JSON half of a checkpoint. Raises CheckpointError if there is none or it cannot be read."""
    for path in _candidates(run_dir, which):
        try:
            return _read_meta(path)[0]
        except Exception as error:
            _warn_damaged(path, error)
    raise _none_left(run_dir, which)


def restore(run_dir: str | Path, which: Which = "best") -> Restored:
    """Rebuilds model structure and state from a run directory alone.

    A checkpoint that is damaged or not whole is a warning that names it, and the one before it is taken.

    Raises CheckpointError if there is none that can be read by this version of the code.
    """
    for path in _candidates(run_dir, which):
        try:
            return _restore(path)
        except Exception as error:  # what a damaged file raises depends on where it is damaged
            _warn_damaged(path, error)
    raise _none_left(run_dir, which)


def _candidates(run_dir: str | Path, which: Which) -> Iterator[Path]:
    """Paths of checkpoints, the one to try first first."""
    directory = Path(run_dir) / "checkpoints" / which
    check_checkpoint(run_dir, which)
    numbers = numbered(directory)
    if which == "last":
        yield from (directory / str(number) for number in sorted(numbers, reverse=True))
        return
    yield from (path for *_, path in sorted(_ranks(directory), reverse=True))
    # Those without a rank cannot be read, and are named by whoever tries.
    ranked = {path for *_, path in _ranks(directory)}
    yield from (directory / str(n) for n in numbers if directory / str(n) not in ranked)


def _ranks(directory: Path) -> list[tuple[bool, float, float, int, Path]]:
    """What the checkpoints of a directory are ordered by: with the codebook, accuracy, macro-F1, earliness.

    A model that is to use a codebook is not judged by epochs without it.
    """
    ranks = []
    for number in numbered(directory):
        path = directory / str(number)
        try:
            meta, _ = _read_meta(path)
            scores = meta["validation"].get("classification", {"accuracy": -1.0, "macro_f1": -1.0})
            ranks.append((not meta["bypass_codebook"], scores["accuracy"], scores["macro_f1"], -number, path))
        except Exception:  # named by whoever tries to restore it
            continue
    return ranks


def _read_meta(path: Path) -> tuple[CheckpointMeta, int]:
    content = json.loads((path / "meta" / "metadata").read_text())
    checksum = content.pop("checksum")
    missing = [name for name in CheckpointMeta.__annotations__ if name not in content]
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing from its metadata")
    return content, checksum


def _restore(path: Path) -> Restored:
    meta, checksum = _read_meta(path)
    try:
        config = from_dict(TrainConfig, meta["config"])
    except ConfigError as error:
        raise ValueError(f"its settings are not those of this version: {error}") from None
    graphdef, shapes = abstract_state(config)
    abstract = shapes._replace(key=jax.eval_shape(jax.random.key_data, shapes.key))
    target = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as checkpointer:
        host = checkpointer.restore((path / "state").resolve(), target)
    for wanted, found in zip(jax.tree.leaves(target), jax.tree.leaves(host), strict=True):
        if wanted.shape != found.shape or wanted.dtype != found.dtype:
            raise ValueError(
                f"an array of {found.dtype}{found.shape} where {wanted.dtype}{wanted.shape} belongs"
            )
    if checksum != _checksum(host, meta):
        raise ValueError("its checksum is not that of its content")
    state = jax.tree.map(jnp.array, host)
    return Restored(config, graphdef, state._replace(key=jax.random.wrap_key_data(state.key)), meta, path)


def _alone() -> ocp.options.MultiprocessingOptions:
    """What of several processes each does by itself: all read, and the first writes for all."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    here = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=here,
        active_processes={here},
        barrier_sync_key_prefix=f"process{here}",
    )


def _to_host(state: TrainState) -> TrainState:
    # Copies: the next step is given the arrays of this state to write in.
    return jax.tree.map(
        lambda x: np.array(x, copy=True), jax.device_get(state._replace(key=jax.random.key_data(state.key)))
    )


def _checksum(host: TrainState, meta: CheckpointMeta) -> int:
    """CRC-32 of all arrays and of the metadata."""
    value = zlib.crc32(json.dumps(meta, sort_keys=True).encode())
    for leaf in jax.tree.leaves(host):
        value = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), value)
    return value


def _warn_damaged(path: Path, error: Exception) -> None:
    warnings.warn(f"{path}: this checkpoint is damaged or not whole ({_reason(error)})", stacklevel=3)


def _none_left(run_dir: str | Path, which: Which) -> CheckpointError:
    other = "last" if which == "best" else "best"
    return CheckpointError(
        f"{run_dir}: no checkpoint '{which}' can be read; take checkpoint '{other}' if there is one, start "
        "anew with --overwrite, or with --init-from in another directory"
    )


def _reason(error: Exception) -> str:
    if "No space left on device" in str(error):
        return "no space left on device"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return reason if len(reason) <= 200 else reason[:200] + " ..."


def better(score: Score, best: Score | None) -> bool:
    """Whether an epoch is better than the best before it: by accuracy, then macro-F1; a tie is not better."""
    if best is None or math.isnan(best["accuracy"]):
        return True
    return (score["accuracy"], score["macro_f1"]) > (best["accuracy"], best["macro_f1"])
