"""`recalibrate` on networks that nobody here wrote, against one float64 pass by brute force."""

import pytest
import torch

import batchnorm as bn

from .nets import randomized
from .test_fold_architectures import CASES
from .test_recalibrate_networks import brute_force


def measured(case, dtype):
    """Statistics by `recalibrate` and by brute force, the network and its data in a dtype."""
    make, shape, *_ = CASES[case]
    torch.manual_seed(0)
    model = randomized(make()).to(dtype)
    generator = torch.Generator().manual_seed(1)
    batches = [
        (k + torch.randn((n, *shape[1:]), generator=generator)).to(dtype)
        for k, n in enumerate((3, 5, 2))
    ]
    values = brute_force(model, batches, by_batch=True, dtype=dtype)
    result = bn.recalibrate(model, batches)
    found = {row.name: model.get_submodule(row.name) for row in result.layers if row.left is None}
    assert set(found) == set(values) == {row.name for row in result.layers}
    return found, {name: v.double() for name, v in values.items()}


@pytest.mark.parametrize("case", CASES)
def test_in_float64_statistics_are_those_of_brute_force(case):
    found, values = measured(case, torch.float64)
    for name, layer in found.items():
        mean, var = values[name].mean(1), values[name].var(1)
        # Up to 52 layers in float64, 2^-53 each; behind them an error may have grown by 2^10.
        error = (layer.running_mean - mean).abs() / var.sqrt()
        assert (error <= 2.0**-36).all(), (name, error.max())
        torch.testing.assert_close(layer.running_var, var, rtol=2.0**-36, atol=0)


@pytest.mark.parametrize("case", ["unet", "resnet", "levit"])
def test_in_float32_they_are_as_exact_as_the_network(case):
    found, rounded = measured(case, torch.float32)
    _, exact = measured(case, torch.float64)
    for name, layer in found.items():
        mean, var = exact[name].mean(1), exact[name].var(1)
        own = (rounded[name].mean(1) - mean).abs().max(), (rounded[name].var(1) / var - 1).abs()
        error = (layer.running_mean.double() - mean).abs() / var.sqrt()
        assert error.max() <= 4 * (own[0] / var.sqrt()).max() + 2.0**-18, name
        error = (layer.running_var.double() / var - 1).abs().max()
        assert error <= 4 * own[1].max() + 2.0**-18, name
