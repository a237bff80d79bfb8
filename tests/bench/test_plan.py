import math

import pytest

from batchnorm.bench.case import OPERATIONS
from batchnorm.bench.grid import MLP, QUICK, RESNET50, UNET
from batchnorm.bench.plan import _needed, make_plan, parse_shape
from batchnorm.errors import UsageError


def test_the_default_grid_is_the_announced_one():
    plan = make_plan()
    assert {(32, 64, 112, 112), (32, 2048, 7, 7)} <= set(RESNET50) <= set(plan.shapes)
    assert {(256, 512), (8192, 256), (64, 100)} == set(MLP) <= set(plan.shapes)
    assert (2, 32, 256, 256) in UNET
    cells = list(plan.cases())
    assert len(cells) == len(set(cells)) == 4 * (2 * len(RESNET50 + UNET) + len(MLP))
    assert {case.dtype for case in cells} == {"float32"}
    assert all(case.layout == "contiguous" for case in cells if len(case.shape) == 2)


def test_quick_is_small_and_what_is_given_goes_first():
    assert make_plan(quick=True).shapes == QUICK
    plan = make_plan(quick=True, shapes=["4,4"], seconds=1.5)
    assert (plan.shapes, plan.seconds) == (((4, 4),), 1.5)


def test_the_least_traffic_is_that_of_the_table():
    # input and output; input, gradient and gradient; a residual is one more of each
    assert {name: operation.passes for name, operation in OPERATIONS.items()} == {
        "bn": {"forward": 2, "backward": 3, "both": 5},
        "bn+relu": {"forward": 2, "backward": 3, "both": 5},
        "bn+add+relu": {"forward": 3, "backward": 4, "both": 7},
        "inference": {"forward": 2},
    }


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float32", 4 * 24), ("bfloat16", 2 * 24)], ids=["float32", "bfloat16"]
)
def test_bytes(dtype, expected):
    (case,) = make_plan(shapes=["2,3,4"], dtypes=[dtype], operations=["bn"]).cases()
    assert case.bytes == expected


@pytest.mark.parametrize(
    "text", ["32", "", "3,0", "2,3,-1", "2,3,a", "2.5,3", "1,1,1,1,1,1", "²,3"]
)
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(UsageError, match=r"expected 2 to 5 sizes"):
        parse_shape(text)


BAD = {
    "device": ({"device": "tpu"}, "--device tpu: expected cpu, cuda"),
    "threads": ({"threads": 0}, "--threads 0: expected at least 1"),
    "time": ({"seconds": 0.0}, "--time 0: expected a number of seconds above 0"),
    "endless": ({"seconds": math.inf}, "--time inf: expected"),
    "dtype": ({"dtypes": ["float16"]}, "--dtype float16: expected one of float32, bfloat16"),
    "operation": ({"operations": ["bn", "relu"]}, "--operation relu: expected one of bn, bn"),
    "layout": ({"layouts": ["nhwc"]}, "--layout nhwc: expected one of contiguous, channels-last"),
    "no layout": (
        {"layouts": ["channels-last"], "shapes": ["8,4"]},
        "expected a --shape with at least 4 sizes",
    ),
    "one value": ({"shapes": ["1,64"]}, "--shape 1,64: training needs at least 2 values"),
    "memory": ({"shapes": ["100000,100000,100"]}, "GB of memory; choose a smaller one"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options(name):
    options, message = BAD[name]
    with pytest.raises(UsageError) as caught:
        make_plan(**options)
    assert message in str(caught.value)


def test_one_value_per_channel_is_fine_in_inference():
    assert len(list(make_plan(shapes=["1,64"], operations=["inference"]).cases())) == 1


def test_memory_counts_results_in_float64_beside_tensors_of_the_dtype():
    for dtype, size in (("float32", 4), ("bfloat16", 2)):
        (case,) = make_plan(shapes=["2,3,4"], operations=["bn"], dtypes=[dtype]).cases()
        assert _needed(case) == 24 * (8 * size + 3 * 8)
