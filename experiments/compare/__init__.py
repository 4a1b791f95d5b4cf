"""Both models against PyTorch: same weights, same proteins, results compared before anything is timed.

`python -m experiments.compare --help` lists the settings; docs/COMPARISON.md says what is compared
and what is fair about it.
"""
