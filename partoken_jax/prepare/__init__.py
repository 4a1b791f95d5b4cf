"""Sources of proteins, and the prepared set that they become."""

from partoken_jax.prepare.run import prepare

__all__ = ["prepare"]
