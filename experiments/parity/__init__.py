"""Number-for-number comparison with the published PyTorch model, from recorded vectors.

python -m experiments.parity --vectors tests/golden
"""
