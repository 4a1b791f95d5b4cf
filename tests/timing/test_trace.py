import jax
import jax.numpy as jnp
import pytest

from partoken_jax.timing.breakdown import attribute, break_down
from partoken_jax.timing.hlo import Operation
from partoken_jax.timing.measure import compile_program
from partoken_jax.timing.trace import Event, Profile, busy_time


def test_operations_one_after_another_get_their_own_time():
    assert busy_time([Event("a", 0, 2), Event("b", 3, 4)], ()) == {"a": 2, "b": 1}


def test_a_moment_shared_by_two_operations_is_divided():
    """a runs 0 to 4, b 2 to 6: 2 alone, 2 shared, 2 alone."""
    assert busy_time([Event("a", 0, 4), Event("b", 2, 6)], ()) == {"a": 3, "b": 3}


def test_a_loop_gets_only_what_its_body_leaves():
    events = [Event("while", 0, 10), Event("inner", 1, 4), Event("inner", 5, 9)]
    assert busy_time(events, {"while"}) == {"while": 3, "inner": 7}


def test_in_nested_loops_the_inner_one_gets_the_rest():
    events = [Event("outer", 0, 10), Event("loop", 2, 8), Event("inner", 3, 7)]
    assert busy_time(events, {"outer", "loop"}) == {"outer": 4, "loop": 2, "inner": 4}


def test_silence_after_a_product_is_the_products_until_something_starts():
    events = [Event("dot", 0, 1), Event("add", 3, 4), Event("dot", 6, 7), Event("while", 0, 9)]
    assert busy_time(events, {"while"}, {"dot"}) == {"dot": 3 + 3, "add": 1, "while": 2}
    assert busy_time(events[:3], (), {"dot"}) == {"dot": 3 + 1, "add": 1}


def test_attributed_and_unattributed_add_up_to_the_step():
    operations = {
        "whole": Operation("whole", "dot", 2, 10.0, 4.0, {("conv", "forward"): 1.0}),
        "mixed": Operation(
            "mixed", "fusion", 1, 8.0, 8.0, {("conv", "forward"): 0.25, ("partitioner", "backward"): 0.75}
        ),
    }
    found = attribute("gvp", operations, Profile({"whole": 0.5, "mixed": 0.4}, 1.0))
    ms = {(row["name"], row["direction"]): row["ms"] for row in found["components"]}
    assert ms == {("conv", "forward"): pytest.approx(600), ("partitioner", "backward"): pytest.approx(300)}
    assert found["unattributed_share"] == pytest.approx(0.1)
    assert found["mixed_share"] == pytest.approx(0.4)
    flops = {row["name"]: row["flops"] for row in found["components"]}
    assert flops == {"conv": pytest.approx(22.0), "partitioner": pytest.approx(6.0)}


def test_a_profile_of_a_program_with_known_parts():
    """The heavy part has 27 times the work of the light one, and the profile of the real program says so."""

    def program(x, w):
        with jax.named_scope("conv"):
            for _ in range(9):
                x = jnp.tanh(x @ w)
        with jax.named_scope("partitioner"):
            return jnp.tanh(x[:512] @ w)

    compiled = compile_program(jax.jit(program), jnp.ones((1536, 512)), jnp.ones((512, 512)))
    arguments = jnp.ones((1536, 512)), jnp.ones((512, 512))
    found = break_down("gvp", compiled.text, lambda: compiled.run(*arguments), calls=4)
    rows = {row["name"]: row for row in found["components"] if row["direction"] == "forward"}
    # A product costs 1024 operations per element of its result, and tanh one or none.
    assert rows["conv"]["flops"] / rows["partitioner"]["flops"] == pytest.approx(27, rel=0.01)
    assert rows["conv"]["ms"] > rows["partitioner"]["ms"] > 0
    total = sum(row["share"] for row in found["components"]) + found["unattributed_share"]
    assert total == pytest.approx(1.0)
    assert found["unattributed_share"] > -0.01
