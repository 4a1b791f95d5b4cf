"""Which errors are mistakes of the user, and answered in one sentence."""

from partoken_jax.config import ConfigError


def is_mistake(error: ValueError) -> bool:
    """Whether the message of an error says all that its reader needs."""
    if isinstance(error, ConfigError):
        return True  # without importing JAX
    from partoken_jax.convert import ConvertError
    from partoken_jax.proteins import DataError
    from partoken_jax.training.epochs import TrainingError
    from partoken_jax.training.run_directory import CheckpointError

    return isinstance(error, (ConvertError, DataError, CheckpointError, TrainingError))
