"""Where a program will run, for choices that differ between devices."""

import jax


def target_platform() -> str:
    """The platform that a program traced now is for, such as "cpu", "gpu" or "tpu".

    That is the one of `jax.default_device` where the user has set it, else that of the default backend.
    """
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform
