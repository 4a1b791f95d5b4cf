"""Where a program will run, for choices that differ between devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

GPUS = ("cuda", "rocm")


def target_platform(mesh: Mesh | None = None) -> str:
    """The platform of the devices that a program made now will run on: "cpu", "gpu" or "tpu".

    Those of the mesh; without one, `jax.default_device` where the user has set it, else the default backend.
    """
    if mesh is not None:
        return mesh.devices.flat[0].platform
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform


def by_platform(make: Callable[[str], Callable[..., Any]], platforms: Sequence[str]) -> Callable[..., Any]:
    """A function that is `make(platform)` on each of some platforms, such as "cpu", "cuda" and "tpu".

    It is traced once for each and lowered for those that `jax.export` or a lowering asks for; which one runs
    is known before XLA sees the program. Not to be differentiated: a gradient belongs inside `make`.
    """
    programs = {platform: make("gpu" if platform in GPUS else platform) for platform in platforms}
    return lambda *args: jax.lax.platform_dependent(*args, **programs)
