import threading
import time

import jax
import numpy as np
import pytest

from partoken_jax.training.prefetch import prefetch


def threads_settle_at(count: int) -> bool:
    """Whether no more than so many threads are left, at once or within a few seconds."""
    end = time.monotonic() + 5
    while threading.active_count() > count and time.monotonic() < end:
        time.sleep(0.01)
    return threading.active_count() <= count


def test_all_batches_in_order_and_on_the_device():
    batches = list(prefetch(np.full(3, i) for i in range(7)))
    assert [int(batch[0]) for batch in batches] == list(range(7))
    assert all(isinstance(batch, jax.Array) for batch in batches)


def test_no_batches():
    assert list(prefetch(iter(()))) == []


def test_a_fault_of_the_source_is_raised_in_its_place():
    def source():
        yield np.zeros(1)
        raise ValueError("the second batch")

    batches = prefetch(source())
    next(batches)
    with pytest.raises(ValueError, match="the second batch"):
        next(batches)


def test_it_runs_ahead_by_no_more_than_the_depth():
    before, made = threading.active_count(), []
    reached = threading.Event()

    def source():
        for i in range(10):
            made.append(i)
            if i == 2:
                reached.set()
            yield np.array(i)

    batches = prefetch(source(), depth=2)
    assert int(next(batches)) == 0
    assert reached.wait(5)  # the third batch is made although nobody has asked for the second
    batches.close()
    assert threads_settle_at(before)
    assert len(made) == 3


def test_the_thread_ends_with_the_reader():
    before = threading.active_count()
    batches = prefetch(np.zeros(1) for _ in range(100))
    next(batches)
    batches.close()
    assert threads_settle_at(before)
