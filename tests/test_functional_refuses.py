"""Every refusal of `batch_norm`: what it says, and that the running statistics stay."""

import pytest
import torch

from batchnorm.errors import DtypeError, OptionError, ShapeError, StatisticsError
from batchnorm.functional import batch_norm

NAN = float("nan")
ONE_VALUE = r"more than 1 value per channel in training, found 1 \(input 1×3×1\)"
ONE_THERE = r"mask and sample_weight let count in training, found {} \(input 4×3\); .*larger batch"
IN_EVERY = r"let count in every virtual batch in training, found {} \(input 2×6\)"


@pytest.mark.parametrize(
    ("error", "match", "arguments"),
    [
        (StatisticsError, ONE_VALUE, {"input": torch.zeros(1, 3, 1)}),
        (StatisticsError, "DataLoader", {"input": torch.zeros(1, 3), "virtual_batch_size": 1}),
        (StatisticsError, ONE_THERE.format(1), {"mask": torch.arange(4) == 2}),
        (StatisticsError, ONE_THERE.format(1), {"sample_weight": (torch.arange(4) == 2) * 0.5}),
        (
            StatisticsError,
            IN_EVERY.format(0),
            {"sample_weight": torch.tensor([1.0, 1.0, 0.0, 0.0]), "virtual_batch_size": 2},
        ),
        (
            StatisticsError,
            IN_EVERY.format(1),
            {"mask": torch.arange(4) != 1, "virtual_batch_size": 2},
        ),
        (
            StatisticsError,
            IN_EVERY.format(1),
            {
                "mask": torch.tensor([False, False, True, True]),
                "sample_weight": torch.tensor([1.0, 1.0, 1.0, 0.0]),
                "virtual_batch_size": 2,
            },
        ),
        (StatisticsError, "from -1 to 1", {"sample_weight": torch.tensor([1.0, -1, 0, 0])}),
        (StatisticsError, "0 everywhere", {"sample_weight": torch.zeros(4)}),
        (ShapeError, r"\(N, C, ...\), found shape 3;", {"input": torch.zeros(3)}),
        (ShapeError, r"weight .* 3 channels .*\(4×3\), found shape 4", {"weight": torch.ones(4)}),
        (ShapeError, "bias .* found shape 1×3", {"bias": torch.ones(1, 3)}),
        (ShapeError, "running_mean .* found shape 2", {"running_mean": torch.ones(2)}),
        (ShapeError, "running_var .* found shape 4", {"running_var": torch.ones(4)}),
        (ShapeError, "residual .*, 4×3, found 1×3", {"residual": torch.ones(1, 3)}),
        (ShapeError, "mask of shape 4 for .* found 3", {"mask": torch.ones(3).bool()}),
        (ShapeError, "sample_weight of shape 4 for", {"sample_weight": torch.ones(4, 3)}),
        (DtypeError, "floating point input, found torch.int64", {"input": torch.ones(2, 3).long()}),
        (TypeError, "boolean mask .* found torch.float32", {"mask": torch.ones(4)}),
        (DtypeError, "point sample_weight, found", {"sample_weight": torch.ones(4).int()}),
        (DtypeError, "point residual, found", {"residual": torch.ones(4, 3).int()}),
        (StatisticsError, "together", {"running_mean": None}),
        (StatisticsError, "together", {"running_var": None}),
        (OptionError, "one of 'relu', .*'tanh'; found 'swish'", {"activation": "swish"}),
        (OptionError, "found 3", {"activation": 3}),
        (OptionError, "positive int .* found 0", {"virtual_batch_size": 0}),
        (OptionError, "found True", {"virtual_batch_size": True}),
        (OptionError, "found 2.0", {"virtual_batch_size": 2.0}),
        (OptionError, "one of 'raise', 'running'; found 'skip'", {"degenerate": "skip"}),
        (OptionError, "eps must be positive, found 0", {"eps": 0.0}),
        (OptionError, "eps must be positive, found -1", {"eps": -1}),
        (OptionError, "eps must be positive, found nan", {"eps": NAN}),
    ],
)
def test_refusal_explains_and_leaves_the_statistics(error, match, arguments):
    running = {"running_mean": torch.zeros(3), "running_var": torch.ones(3)}
    call = {"input": torch.randn(4, 3), "training": True, **running, **arguments}
    with pytest.raises(error, match=match):
        batch_norm(**call)
    assert torch.equal(running["running_mean"], torch.zeros(3))
    assert torch.equal(running["running_var"], torch.ones(3))


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("outside training, found None", {}),
        ("renorm needs .* found None", {"training": True, "renorm": (3.0, 5.0)}),
        ('degenerate="running" needs', {"training": True, "degenerate": "running"}),
    ],
)
def test_what_needs_running_statistics_is_refused_without(match, arguments):
    with pytest.raises(StatisticsError, match=match):
        batch_norm(torch.randn(4, 3), None, None, **arguments)
