"""When a protein has been partitioned. Legend: G graphs."""

import jax


def enough_assigned(assigned: jax.Array, size: jax.Array, threshold: float) -> jax.Array:
    """bool [G]: assigned ≥ threshold · n, for `assigned` of n = `size` residues, both float32 [G].

    Published as assigned / (n + 1e-8) ≥ threshold; in float32 n + 1e-8 is n.

    REFERENCE.md section 4, step 1, enough assigned.
    """
    return assigned >= threshold * size
