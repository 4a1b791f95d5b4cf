import jax
import jax.numpy as jnp
import pytest

from partoken_jax.config import TrainConfig
from partoken_jax.timing.breakdown import program_cost
from partoken_jax.timing.hlo import CONTAINERS, OTHER, Module, place
from partoken_jax.timing.measure import compile_program
from partoken_jax.timing.programs import build_program
from tests.helpers import batch, tiny

M, N, K, STEPS = 64, 48, 96, 5


def test_a_matrix_product_costs_2mnk_and_its_three_arrays():
    compiled = compile_program(jax.jit(jnp.dot), jnp.ones((M, K)), jnp.ones((K, N)))
    flops, moved = program_cost(compiled.text)
    assert flops == 2 * M * N * K
    assert moved == 4 * (M * K + K * N + M * N)


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    def program(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=STEPS)[0]

    compiled = compile_program(jax.jit(program), jnp.ones((M, K)), jnp.ones((K, K)))
    products = [o for o in Module(compiled.text).operations().values() if o.flops >= 2 * M * K * K]
    assert sum(o.flops * o.runs for o in products) == STEPS * 2 * M * K * K


@pytest.fixture(scope="module")
def train_step_text(small_batch):
    return build_program(TrainConfig(model=tiny()), small_batch, "train_step").compiled


@pytest.fixture(scope="module")
def small_batch(chains):
    return batch(chains[:3])


def test_costs_agree_with_xla_where_xla_counts_a_loop_once(train_step_text):
    module = Module(train_step_text.text)
    for computation in module.computations.values():
        for instruction in computation.values():
            instruction.trips = 1
    operations = module.operations().values()
    flops = sum(o.flops * o.runs for o in operations)
    assert flops == pytest.approx(train_step_text.flops, rel=0.1)


def test_every_operation_of_a_training_step_belongs_somewhere(train_step_text):
    operations = Module(train_step_text.text).operations()
    for operation in operations.values():
        assert sum(operation.shares.values()) == pytest.approx(1.0)
    work, other = 0.0, 0.0
    for operation in operations.values():
        for (component, _), share in operation.shares.items():
            work += share * operation.flops * operation.runs
            other += share * operation.flops * operation.runs * (component == OTHER)
    assert other < 0.05 * work
    found = {component for o in operations.values() for component, _ in o.shares}
    assert found >= {"features", "conv", "feed_forward", "partitioner", "codebook", "attention", "optimiser"}
    assert any(o.opcode in CONTAINERS and o.flops == 0 for o in operations.values())


def test_the_innermost_scope_and_the_transposition_decide():
    assert place("jit(step)/jvp(encoder)/layers/while/body/conv/dot_general") == ("conv", "forward")
    assert place("jit(step)/transpose(jvp(encoder))/layers/while/body/conv/mul") == ("conv", "backward")
    again = "jit(step)/transpose(jvp(encoder))/layers/while/body/checkpoint/rematted_computation/conv/mul"
    assert place(again) == ("conv", "backward")
    assert place("jit(step)/optimiser/add") == ("optimiser", "update")
    assert place("jit(step)/broadcast") == (OTHER, "forward")


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        Module("hello")


CUBLAS = """HloModule jit_f

ENTRY %main (a: f32[1000,100], b: f32[100,100]) -> f32[1000,100] {
  %a = f32[1000,100]{1,0} parameter(0)
  %b = f32[100,100]{1,0} parameter(1)
  %product = (f32[1000,100]{1,0}, s8[33554432]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", \
metadata={op_name="jit(f)/conv/dot_general"}, backend_config={"gemm_backend_config":\
{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %sorted = (f32[1000,100]{1,0}, u8[512]{0}) custom-call(%a), custom_call_target="__cub$DeviceRadixSort", \
metadata={op_name="jit(matmul)/sort"}
  ROOT %result = f32[1000,100]{1,0} get-tuple-element(%product), index=0
}
"""


def test_a_library_product_counts_without_its_workspace():
    """The text of a GPU module; other library calls cost no operations, whatever their scope is called."""
    operations = Module(CUBLAS).operations()
    assert operations["product"].flops == 2 * 1000 * 100 * 100
    assert operations["product"].bytes == 4 * (1000 * 100 + 100 * 100 + 1000 * 100)
    assert operations["product"].shares == {("conv", "forward"): 1.0}
    assert operations["sorted"].flops == 0
