"""Number-for-number comparison with the published PyTorch model, from recorded vectors.

python -m experiments.parity --vectors tests/golden                      this package
python -m experiments.parity --vectors tests/golden --framework torch    experiments/torch_peer
"""
