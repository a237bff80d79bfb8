"""Every check: what it lets pass, and what it says of the rest."""

import pytest
import torch

from batchnorm import checks
from batchnorm.errors import BatchNormError, DtypeError, OptionError, ShapeError, StatisticsError

X = torch.zeros(4, 3, 5)
NAN, INF = float("nan"), float("inf")


def bools(*shape):
    return torch.ones(*shape, dtype=torch.bool)


GOOD = [
    (checks.check_input, (torch.zeros(0, 3),)),
    (checks.check_input, (torch.zeros(2, 3, 4, 5, 6, 7, dtype=torch.float16),)),
    (checks.check_per_channel, (X, {"weight": torch.zeros(3), "bias": None})),
    (checks.check_residual, (X, None)),
    (checks.check_residual, (X, torch.zeros(4, 3, 5, dtype=torch.bfloat16))),
    (checks.check_mask, (X, None)),
    (checks.check_mask, (X, bools(4))),
    (checks.check_mask, (X, bools(4, 5))),
    (checks.check_sample_weight, (X, None, None)),
    (checks.check_sample_weight, (X, None, torch.ones(4))),
    (checks.check_sample_weight, (X, None, torch.ones(4, 5).half())),
    (checks.check_sample_weight, (X, ~bools(4), torch.zeros(4))),
    (checks.check_sample_weight, (X, torch.arange(4) > 0, torch.tensor([NAN, 0, 0, 1]))),
    (checks.check_sample_weight, (X, torch.arange(5).expand(4, 5) > 0, torch.ones(4))),
    (checks.check_sample_weight, (X[:0], None, torch.ones(0))),
    (checks.check_sample_weight, (X, None, torch.zeros(4, device="meta"))),
    *((checks.check_virtual_batch_size, (size,)) for size in (None, 1, 10**9)),
    *((checks.check_momentum, (momentum,)) for momentum in (None, 0, 0.1, 1)),
    *((checks.check_choice, ("degenerate", choice, checks.DEGENERATE)) for choice in ("raise",)),
]

BAD = [
    (
        ShapeError,
        "expected an input with a batch and a channel axis (N, C, ...), found shape 7; "
        "add the missing axis, e.g. input.unsqueeze(0)",
        checks.check_input,
        (torch.zeros(7),),
    ),
    (ShapeError, "found shape () (a scalar);", checks.check_input, (torch.zeros(()),)),
    (
        DtypeError,
        "expected a floating point input, found torch.int64; convert it first",
        checks.check_input,
        (torch.zeros(2, 3).long(),),
    ),
    (DtypeError, "found torch.complex64", checks.check_input, (torch.zeros(2, 3).cfloat(),)),
    (
        ShapeError,
        "expected weight to have one value for each of the 3 channels of the input (4×3×5), "
        "found shape 3×1",
        checks.check_per_channel,
        (X, {"running_mean": torch.zeros(3), "weight": torch.zeros(3, 1)}),
    ),
    (
        ShapeError,
        "expected a residual of the shape of the input, 4×3×5, found 4×3×1; "
        "expand it first if it is to be broadcast",
        checks.check_residual,
        (X, torch.zeros(4, 3, 1)),
    ),
    (
        DtypeError,
        "expected a floating point residual, found torch.bool",
        checks.check_residual,
        (X, bools(4, 3, 5)),
    ),
    (
        ShapeError,
        "expected mask of shape 4 or 4×5 for an input 4×3×5 (one value per sample, or per "
        "position without the channel axis), found 4×3×5",
        checks.check_mask,
        (X, bools(4, 3, 5)),
    ),
    (
        ShapeError,
        "expected mask of shape 4 for an input 4×3",
        checks.check_mask,
        (X[..., 0], bools(3)),
    ),
    (
        DtypeError,
        "expected a boolean mask (True where a position counts), found torch.uint8; "
        "compare first, e.g. mask != 0",
        checks.check_mask,
        (X, bools(4).to(torch.uint8)),
    ),
    (
        ShapeError,
        "expected sample_weight of shape 4 or 4×5",
        checks.check_sample_weight,
        (X, None, torch.ones(5)),
    ),
    (
        DtypeError,
        "expected floating point sample_weight, found torch.bool; "
        "convert it, e.g. sample_weight.float(), or pass a boolean one as mask",
        checks.check_sample_weight,
        (X, None, bools(4)),
    ),
    *(
        (
            StatisticsError,
            f"expected sample_weight to be finite and not negative, found values from {found}",
            checks.check_sample_weight,
            (X, mask, torch.tensor(weights)),
        )
        for found, mask, weights in [
            ("-1 to 2", None, [-1.0, 2, 0, 0]),
            ("0 to inf", None, [0, 2, INF, 0]),
            ("nan to nan", None, [0, 2, NAN, 0]),
            ("-0.5 to 3", torch.arange(4) > 0, [-1.0, -0.5, 3, 0]),
        ]
    ),
    *(
        (
            StatisticsError,
            "expected a positive sample_weight somewhere, found 0 everywhere; "
            "leave such a batch out, or mask its positions",
            checks.check_sample_weight,
            (X, mask, torch.tensor(weights)),
        )
        for mask, weights in [
            (None, [0.0, 0, 0, 0]),
            (torch.arange(4) > 0, [1.0, 0, 0, 0]),
            (torch.arange(20).view(4, 5) > 4, [1.0, 0, 0, 0]),
        ]
    ),
    *(
        (
            OptionError,
            "expected virtual_batch_size to be None or a positive int (samples per chunk), "
            f"found {size!r}",
            checks.check_virtual_batch_size,
            (size,),
        )
        for size in (0, -1, 2.0, True, "2")
    ),
    *(
        (
            OptionError,
            "expected momentum to be None or from 0 to 1 (the weight of the new value), "
            f"found {momentum!r}",
            checks.check_momentum,
            (momentum,),
        )
        for momentum in (-0.1, 1.1, NAN)
    ),
    *(
        (
            OptionError,
            f"expected degenerate to be one of 'raise', 'running'; found {choice!r}",
            checks.check_choice,
            ("degenerate", choice, checks.DEGENERATE),
        )
        for choice in ("skip", "", None, ["raise"], 1)
    ),
]


def name(value):
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("check", "arguments"), GOOD, ids=name)
def test_check_lets_pass_what_is_right(check, arguments):
    assert check(*arguments) is None


@pytest.mark.parametrize(("error", "message", "check", "arguments"), BAD, ids=name)
def test_check_says_what_was_expected_and_found(error, message, check, arguments):
    with pytest.raises(error) as caught:
        check(*arguments)
    assert message in str(caught.value)
    assert isinstance(caught.value, BatchNormError)


@pytest.mark.parametrize(
    ("shape", "text"), [((), "() (a scalar)"), ((3,), "3"), ((1, 512, 1, 1), "1×512×1×1")]
)
def test_shapes_are_printed_with_times(shape, text):
    assert checks.shape_text(shape) == text


def test_numbers_are_read_where_that_makes_nobody_wait():
    plain = torch.ones(2)
    assert checks.can_read(plain)
    assert checks.can_read(torch.nn.Parameter(plain))
    assert not checks.can_read(plain.to("meta"))
    seen = []
    torch.func.vmap(lambda x: seen.append(checks.can_read(x)) or x)(plain)
    assert seen == [False]


def test_numbers_are_not_read_while_a_graph_is_recorded():
    from torch.fx.experimental.proxy_tensor import make_fx

    seen = []
    make_fx(lambda x: seen.append(checks.can_read(torch.ones(2))) or x + 1)(torch.ones(2))
    assert seen == [False]
