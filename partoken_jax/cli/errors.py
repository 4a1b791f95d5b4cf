"""Which errors are mistakes of the user, and answered in one sentence."""


def is_mistake(error: ValueError) -> bool:
    """Whether the message of an error says all that its reader needs: whether its class is one of ours.

    (ConfigError, DataError, CheckpointError, ...) They are told by where they are defined, because importing
    them to compare would import JAX, and a mistake is to be answered at once.
    """
    return any(cls.__module__.partition(".")[0] == "partoken_jax" for cls in type(error).__mro__)
