"""What moved a dead channel is told apart in three parts that add up."""

import numpy as np
import pytest

from experiments.dead_channels import counted


def read(rng, shift: float) -> dict[str, np.ndarray]:
    s = rng.normal(size=(50, 6)) + rng.normal(size=6)
    w, b = rng.normal(size=(6, 4)), rng.normal(size=4)
    pre = s @ w + b
    b = b - pre.max(axis=0) - [shift, -1, -1, shift]  # so far below 0 is the largest of a channel
    return {"s": s, "w": w, "b": b, "x": np.maximum(s @ w + b, 0)}


def test_dead_channels_are_counted_and_their_move_is_told_apart():
    rng = np.random.default_rng(0)
    before, now = read(rng, -1), read(rng, 0.1)
    assert counted(before, before) == pytest.approx(
        {**counted(before, before), "dead": 0, "by_weights": 0, "by_bias": 0, "by_shared_part": 0}
    )
    found = counted(now, before)
    assert (found["dead"], found["channels"]) == (2, 4)
    means = [np.mean(state["s"] @ state["w"] + state["b"], axis=0)[[0, 3]].mean() for state in (before, now)]
    both_moved = np.mean((now["s"].mean(0) - before["s"].mean(0)) @ (now["w"] - before["w"])[:, [0, 3]])
    parts = found["by_weights"] + found["by_bias"] + found["by_shared_part"] + both_moved
    assert parts == pytest.approx(means[1] - means[0])
