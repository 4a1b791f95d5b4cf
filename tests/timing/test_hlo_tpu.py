"""What is read from the text of programs for a TPU: pieces of what XLA writes for a v5e."""

import numpy as np
import pytest

from partoken_jax.timing.hlo import Module
from partoken_jax.timing.hlo_text import Array

BATCH, ROWS, INNER, COLUMNS = 6, 200, 40, 300
BATCHED = """HloModule jit_f, is_scheduled=true

%view (given: f32[6,200,40]) -> f32[6,200,40] {
  %given = f32[6,200,40]{1,2,0:T(8,128)} parameter(0)
  ROOT %bitcast = f32[6,200,40]{1,2,0:T(8,128)} bitcast(%given)
}

%fused (a: f32[6,200,40], b: f32[6,40,300]) -> f32[6,200,300] {
  %a = f32[6,200,40]{1,2,0:T(8,128)} parameter(0)
  %inner = f32[6,200,40]{1,2,0:T(8,128)} fusion(%a), kind=kLoop, calls=%view
  %b = f32[6,40,300]{2,1,0:T(8,128)S(1)} parameter(1)
  ROOT %product = f32[6,200,300]{2,1,0:T(8,128)} convolution(%inner, %b), \
window={size=6 stride=5 lhs_dilate=6}, dim_labels=0bf_0io->0bf, operand_precision={highest,highest}, \
metadata={op_name="jit(f)/jvp(conv)/dot_general"}
}

ENTRY %main (a.1: f32[6,200,40], b.1: f32[6,40,300]) -> f32[6,200,300] {
  %b.1 = f32[6,40,300]{2,1,0:T(8,128)} parameter(1)
  %fetch = (f32[6,40,300]{2,1,0:T(8,128)S(1)}, f32[6,40,300]{2,1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%b.1)
  %a.1 = f32[6,200,40]{1,2,0:T(8,128)} parameter(0)
  %fetched = f32[6,40,300]{2,1,0:T(8,128)S(1)} copy-done(%fetch)
  ROOT %fusion = f32[6,200,300]{2,1,0:T(8,128)} fusion(%a.1, %fetched), kind=kOutput, calls=%fused, \
backend_config={"window_config":{"estimated_cycles":"9003"}}
}
"""


def multiply_adds_of_numpy() -> int:
    """Of the same product, one by one: every pair of numbers that numpy's einsum multiplies."""
    ones = np.ones((BATCH, ROWS, INNER)), np.ones((BATCH, INNER, COLUMNS))
    return int(np.einsum("bij,bjk->bik", *ones).sum())


def test_a_batched_product_counts_as_what_it_is_and_not_as_the_convolution_that_it_is_written_as():
    operations = Module(BATCHED).operations()
    assert operations["fusion"].flops == 2 * multiply_adds_of_numpy()
    assert operations["fusion"].shares == {("conv", "forward"): 1.0}
    assert operations["fusion"].cycles == 9003


def test_an_array_counts_in_whole_tiles_and_not_while_it_is_on_the_chip():
    operations = Module(BATCHED).operations()
    a = 4 * BATCH * INNER * 256  # 200 rows lie along the lanes, in two tiles of 128
    b = 4 * BATCH * INNER * 384
    out = 4 * BATCH * ROWS * 384
    assert operations["fusion"].bytes == a + out  # b was fetched before
    assert (operations["fetch"].bytes, operations["fetched"].bytes) == (b, 0)


@pytest.mark.parametrize(
    ("array", "stored"),
    [
        (Array("f32", (5, 3, 33), (2, 1, 0), (4, 128)), 4 * 5 * 4 * 128),
        (Array("f32", (5, 3, 33), (0, 2, 1), (8, 128)), 4 * 128 * 40 * 3),
        (Array("bf16", (), (), (256,)), 2 * 256),
        (Array("f32", (5, 3, 33), (2, 1, 0)), 4 * 5 * 3 * 33),
    ],
)
def test_tiles_lie_along_the_axes_that_the_layout_puts_side_by_side(array, stored):
    assert array.stored_bytes == stored == array.bytes
    assert array._replace(on_chip=True).bytes == 0


SPATIAL = """HloModule jit_g

ENTRY %main (x: f32[2,9,7,3], w: f32[3,2,3,5]) -> f32[2,5,8,5] {
  %x = f32[2,9,7,3]{3,2,1,0} parameter(0)
  %w = f32[3,2,3,5]{3,2,1,0} parameter(1)
  ROOT %out = f32[2,5,8,5]{3,2,1,0} convolution(%x, %w), window={size=3x2 stride=2x1 pad=1_1x1_1}, \
dim_labels=b01f_01io->b01f
}
"""


def test_what_pads_a_convolution_is_not_multiplied():
    x = np.pad(np.ones((2, 9, 7, 3)), ((0, 0), (1, 1), (1, 1), (0, 0)))  # zeros are what does not count
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 2), axis=(1, 2))[:, ::2]
    counted = np.einsum("nijcyx,yxcf->", windows, np.ones((3, 2, 3, 5)))
    assert windows.shape[:3] == (2, 5, 8)
    assert Module(SPATIAL).operations()["out"].flops == 2 * counted


LOOP = """HloModule jit_h

%body (state: (s32[], f32[64,96])) -> (s32[], f32[64,96]) {
  %state = (s32[]{:T(128)}, f32[64,96]{1,0:T(8,128)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%state), index=0
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%count, %one)
  %x = f32[64,96]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %tanh = f32[64,96]{1,0:T(8,128)} tanh(%x), backend_config={"window_config":{"estimated_cycles":"100"}}
  ROOT %both = (s32[]{:T(128)}, f32[64,96]{1,0:T(8,128)}) tuple(%next, %tanh)
}

%condition (state.1: (s32[], f32[64,96])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  %state.1 = (s32[]{:T(128)}, f32[64,96]{1,0:T(8,128)}) parameter(0)
  %count.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%count.1, %limit), direction=LT
}

ENTRY %main (x.1: f32[64,96], start: s32[]) -> f32[64,96] {
  %x.1 = f32[64,96]{1,0:T(8,128)} parameter(0)
  %start = s32[]{:T(128)} parameter(1)
  %two = s32[]{:T(128)} constant(2)
  %from = s32[]{:T(128)} copy(%two)
  %tuple = (s32[]{:T(128)}, f32[64,96]{1,0:T(8,128)}) tuple(%from, %x.1)
  %loop = (s32[]{:T(128)}, f32[64,96]{1,0:T(8,128)}) while(%tuple), condition=%condition, body=%body
  ROOT %out = f32[64,96]{1,0:T(8,128)} get-tuple-element(%loop), index=1, \
metadata={op_name="jit(h)/transpose(jvp(conv))/reshape"}
}
"""


def test_a_loop_runs_from_where_its_counter_starts_to_the_constant_in_its_condition():
    module = Module(LOOP)
    assert module.operations()["tanh"].runs == 7 - 2
    assert module.uncounted_loops == 0


def test_a_loop_that_the_compiler_made_belongs_to_what_reads_its_result():
    assert Module(LOOP).operations()["tanh"].shares == {("conv", "backward"): 1.0}


@pytest.mark.parametrize("change", [("tuple(%from,", "tuple(%start,"), ("direction=LT", "direction=NE")])
def test_a_loop_of_unknown_length_is_told(change):
    module = Module(LOOP.replace(*change))
    assert module.operations()["tanh"].runs == 1
    assert module.uncounted_loops == 1


GATHERED = """HloModule jit_k

%rows (table: f32[1000,3,33], index: s32[50000]) -> f32[50000,3,33] {
  %table = f32[1000,3,33]{2,1,0:T(4,128)} parameter(0)
  %index = s32[50000]{0:T(1024)} parameter(1)
  %known = s32[50000]{0:T(1024)} custom-call(%index), custom_call_target="AssumeGatherIndicesInBound"
  ROOT %gather = f32[50000,3,33]{2,1,0:T(4,128)} gather(%table, %known), slice_sizes={1,3,33}
}

%outer (table.1: f32[1000,3,33], index.1: s32[50000]) -> f32[50000,3,33] {
  %table.1 = f32[1000,3,33]{2,1,0:T(4,128)} parameter(0)
  %index.1 = s32[50000]{0:T(1024)} parameter(1)
  ROOT %inner = f32[50000,3,33]{2,1,0:T(4,128)} fusion(%table.1, %index.1), kind=kLoop, calls=%rows
}

ENTRY %main (table.2: f32[1000,3,33], index.2: s32[50000]) -> f32[50000,3,33] {
  %table.2 = f32[1000,3,33]{2,1,0:T(4,128)} parameter(0)
  %index.2 = s32[50000]{0:T(1024)} parameter(1)
  ROOT %fusion = f32[50000,3,33]{2,1,0:T(4,128)} fusion(%table.2, %index.2), kind=kCustom, calls=%outer
}
"""


def test_gathered_rows_are_read_as_often_as_they_are_wanted_also_by_a_fusion_in_a_fusion():
    index, rows = 4 * 50_176, 4 * 50_000 * 4 * 128
    assert Module(GATHERED).operations()["fusion"].bytes == index + 2 * rows


PARTS = """HloModule jit_p

%small (s: f32[128]) -> f32[128] {
  %s = f32[128]{0} parameter(0)
  ROOT %negate = f32[128]{0} negate(%s)
}

%large (l: f32[4096]) -> f32[128] {
  %l = f32[4096]{0} parameter(0)
  %exp = f32[4096]{0} exponential(%l)
  ROOT %slice = f32[128]{0} slice(%exp), slice={[0:128]}
}

ENTRY %main (i: s32[], l.1: f32[4096], s.1: f32[128]) -> f32[128] {
  %i = s32[] parameter(0)
  %l.1 = f32[4096]{0} parameter(1)
  %s.1 = f32[128]{0} parameter(2)
  %told = (f32[128]{0}, u32[], token[]) send(%s.1, %token), channel_id=3, is_host_transfer=true
  %told.1 = token[] send-done(%told), channel_id=3, is_host_transfer=true
  %sum = f32[128]{0} all-reduce(%s.1), channel_id=1, to_apply=%add, metadata={op_name="jit(p)/metrics/psum"}
  %asked = f32[128]{0} custom-call(%sum), custom_call_target="xla_ffi_python_gpu_callback"
  ROOT %either = f32[128]{0} conditional(%i, %l.1, %asked), branch_computations={%large, %small}
}
"""


OF_A_GPU = ("branch_computations={%large, %small}", "true_computation=%small, false_computation=%large")


@pytest.mark.parametrize("text", [PARTS, PARTS.replace(*OF_A_GPU)])
def test_the_branch_that_moves_most_counts_as_taken(text):
    runs = {name: operation.runs for name, operation in Module(text).operations().items()}
    assert (runs["exp"], runs["slice"], runs["negate"]) == (1, 1, 0)


def test_collectives_and_calls_of_the_host_are_counted():
    module = Module(PARTS)
    assert module.collectives() == {"all-reduce": (1, 4 * 128)}
    assert module.host_calls == 2


BESIDE = """HloModule jit_b

%one (stack: f32[3,1000], i: s32[]) -> f32[1,1000] {
  %stack = f32[3,1000]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %layer = f32[1,1000]{1,0} dynamic-slice(%stack, %i, %zero), dynamic_slice_sizes={1,1000}
}

ENTRY %main (stack.1: f32[3,1000], i.1: s32[]) -> f32[1,1000] {
  %stack.1 = f32[3,1000]{1,0} parameter(0)
  %i.1 = s32[] parameter(1)
  %begun = ((f32[3,1000]{1,0}, s32[]), f32[1,1000]{1,0}, u32[]) fusion-start(%stack.1, %i.1), \
kind=kLoop, calls=%one
  ROOT %done = f32[1,1000]{1,0} fusion-done(%begun)
}
"""


def test_a_fusion_that_runs_beside_others_moves_what_it_takes_and_writes_once():
    operations = Module(BESIDE).operations()
    assert operations["begun"].bytes == 2 * 4 * 1000 + 4
    assert operations["done"].bytes == 0


KERNEL = """HloModule jit_l

ENTRY %main (x: f32[256,256]) -> f32[256,256] {
  %x = f32[256,256]{1,0:T(8,128)} parameter(0)
  ROOT %call = f32[256,256]{1,0:T(8,128)} custom-call(%x), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"body":"TUzv","cost_estimate":{"flops":"123456","transcendentals":"0",\
"bytes_accessed":"999999999"}}}
}
"""


def test_a_kernel_costs_what_its_author_says_and_moves_no_less_than_it_is_given():
    (call,) = Module(KERNEL).operations().values()
    assert (call.flops, call.bytes, call.kind) == (123_456, 999_999_999, "products")
    (call,) = Module(KERNEL.replace("999999999", "9")).operations().values()
    assert call.bytes == 2 * 4 * 256 * 256


def test_operations_are_told_by_what_they_are_about():
    kinds = {
        name: o.kind for text in (BATCHED, GATHERED, LOOP) for name, o in Module(text).operations().items()
    }
    assert kinds["fetch"] == "copies" and kinds["tanh"] == "rest"
    assert Module(BATCHED).operations()["fusion"].kind == "products"
    assert Module(GATHERED).operations()["fusion"].kind == "gathers"
