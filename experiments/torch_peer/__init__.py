"""Both models in PyTorch, in the style of PyTorch Geometric: what the JAX package is compared with.

Semantics are those of `partoken_jax` (docs/REFERENCE.md: the repaired ones); parameter names are the
original's, so that its `state_dict` loads. Nothing in the package imports this folder.

Legend: B proteins, N residues (flat over a batch), E edges, S clusters, K codes, D channels, C classes.
"""
