"""Data parallelism: one program on many devices, each with its part of every batch.

A batch comes in shards, one for each device (`graphs.BatchLoader`); parameters, moments and codebook are
the same on all. `jax.shard_map` runs the step of one device on every shard, and what belongs to the whole
batch is summed over the axis `AXIS` of the mesh. `mesh` is None where there is one device.
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from partoken_jax.config import ConfigError
from partoken_jax.nn.platform import target_platform

T = TypeVar("T")
AXIS = "data"
SAME, SPLIT = PartitionSpec(), PartitionSpec(AXIS)
"""An array that all devices hold alike, and one of which each holds its part."""


def data_mesh(num_devices: int | None) -> Mesh | None:
    """A mesh of so many devices, by default of all those of all processes; None where that is one.

    Raises ConfigError for more devices than there are, and where several processes should use only some.
    """
    there = jax.devices()
    wanted = len(there) if num_devices is None else num_devices
    if wanted > len(there):
        raise ConfigError(
            f"devices is {wanted}, but there are only {len(there)} ({there[0].platform}); lower it, or leave "
            "it out to use all there are"
        )
    if jax.process_count() > 1 and wanted != len(there):
        raise ConfigError(
            f"devices is {wanted}, but the {jax.process_count()} processes have {len(there)} together; leave "
            "it out, because a run of several processes uses all"
        )
    if wanted == 1:
        return None
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((wanted,), (AXIS,), devices=there[:wanted], axis_types=auto)


def check_platform(message_passing: str) -> None:
    """Raises ConfigError for a form of the messages that the devices of a run cannot compute."""
    platform = target_platform()
    if message_passing == "fused" and platform != "tpu":
        raise ConfigError(
            "model.message_passing is 'fused', but must be 'auto', 'dense', 'blocks' or 'general' on this "
            f"device ({platform}): the fused kernel is for TPUs, and the numbers are the same"
        )


def start_processes(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several that train together (`jax.distributed`), before any other use of jax.

    Args:
      coordinator: HOST:PORT of the first process, or "auto" for what jax finds by itself under SLURM, Open
        MPI and on TPU.
      num_processes, process_id: how many there are, and which one this is, from 0; not with "auto".

    Raises ConfigError where these do not fit, or the others cannot be reached.
    """
    auto = coordinator == "auto"
    if auto != (num_processes is None) or auto != (process_id is None):
        raise ConfigError(
            "--coordinator HOST:PORT needs --num-processes and --process-id, and --coordinator auto needs "
            "neither; give the three together"
        )
    if num_processes is not None and not 0 <= process_id < num_processes:  # type: ignore[operator]
        raise ConfigError(
            f"process-id is {process_id}, but must be a whole number from 0 to {num_processes - 1}"
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(None if auto else coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"coordinator is {coordinator}, but the processes of the run did not find each other ({reason}); "
            "start all of them with the same address, within five minutes"
        ) from None


def is_first_process() -> bool:
    """Whether this process writes and prints for all; true where it is the only one."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


class StopTogether(threading.Event):
    """The stop of a run of several processes: a signal to any of them stops all after the same step.

    JAX hears the signal (`jax.distributed`) and finds a step that none has passed yet. Every process asks as
    often as every other, after the same steps and batches.
    """

    def __init__(self, here: threading.Event | None = None) -> None:
        """`here` is set where this process is asked to stop by what JAX does not hear."""
        super().__init__()
        self._asked, self._here = 0, here

    def is_set(self) -> bool:
        """Whether this is the step to stop after."""
        self._asked += 1
        if self._here is not None and self._here.is_set():
            self._here = None
            os.kill(os.getpid(), signal.SIGTERM)  # JAX hears it and tells the others
        return super().is_set() or multihost_utils.reached_preemption_sync_point(self._asked)


def num_shards(mesh: Mesh | None) -> int:
    """Parts of a batch: one for each device."""
    return 1 if mesh is None else mesh.size


def own_shards(mesh: Mesh | None) -> list[int] | None:
    """The shards that this process reads: those of its devices; None where there is no axis of shards."""
    if mesh is None:
        return None
    here = jax.process_index()
    return [i for i, device in enumerate(mesh.devices.flat) if device.process_index == here]


def put_batch(mesh: Mesh | None) -> Callable[[Any], Any]:
    """What sends a batch to the devices: of several processes each brings its own shards."""
    if mesh is None:
        return jax.device_put
    sharding = NamedSharding(mesh, SPLIT)
    return lambda batch: jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def replicate(tree: T, mesh: Mesh | None) -> T:
    """The same arrays on every device."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, SAME)

    def put(x):
        if jax.dtypes.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def train_on_mesh(step: Callable[..., Any], mesh: Mesh, **options: Any) -> Callable[..., Any]:
    """Compiles a step `(state, graph, settings) -> (state, metrics)` that sums over `AXIS` for all devices of
    a mesh; `graph` has an axis of shards. `options` as for `jax.jit`."""

    def on_one(state, graph, settings):
        return step(state, _own(graph), settings)

    return jax.jit(
        jax.shard_map(
            on_one, mesh=mesh, in_specs=(SAME, SPLIT, SAME), out_specs=(SAME, SAME), check_vma=False
        ),
        **options,
    )


def evaluate_on_mesh(step: Callable[..., Any], mesh: Mesh, out_specs: Any) -> Callable[..., Any]:
    """Compiles a step `(params, codebook, graph, temperature) -> outputs`. Outputs that `out_specs` calls
    split are put together, shard after shard, and given to every process."""

    def on_one(params, codebook, graph, temperature):
        return step(params, codebook, _own(graph), temperature)

    return jax.jit(
        jax.shard_map(
            on_one, mesh=mesh, in_specs=(SAME, SAME, SPLIT, SAME), out_specs=out_specs, check_vma=False
        ),
        out_shardings=NamedSharding(mesh, SAME),
    )


def on_mesh_by_rows(function: Callable[[jax.Array], T], rows: np.ndarray, mesh: Mesh) -> T:
    """What `function`, which sums over `AXIS`, makes of the rows [M, ...]: each device gets its part of
    them, in their order, with zeros after the last."""
    each = -(-len(rows) // mesh.size)
    padded = np.zeros((mesh.size * each, *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    sharding = NamedSharding(mesh, SPLIT)
    split = jax.make_array_from_callback(padded.shape, sharding, lambda index: padded[index])
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=SPLIT, out_specs=SAME, check_vma=False))(split)


def _own(graph: T) -> T:
    """The batch of one device, without the axis of shards."""
    return jax.tree.map(lambda x: x[0], graph)
